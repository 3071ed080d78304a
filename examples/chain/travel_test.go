package chain

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/degrade"
)

// What a caller says of its request goes with what is asked for its sake.

// trusting is a chain whose client is believed, and which has no time to lose:
// a request waits 100 ms for its slot, and 100 ms in next.
func trusting(next http.Handler) (*parts, http.Handler) {
	p := newParts()
	p.shed = degrade.MustNew(degrade.Config{Limit: 1, Trust: func(*http.Request) bool { return true }})
	return p, p.handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(100 * time.Millisecond)
		next.ServeHTTP(w, r)
	}))
}

// ask sends a request with a deadline and a priority while the slot is taken.
func ask(t *testing.T, p *parts, h http.Handler) {
	release, err := p.shed.Acquire(t.Context(), degrade.Normal)
	require.NoError(t, err)
	time.AfterFunc(100*time.Millisecond, release)
	r := httptest.NewRequest("GET", "http://api.example/", nil)
	r.Header.Set(degrade.PriorityHeader, "critical")
	r.Header.Set(degrade.TimeoutHeader, "500")
	h.ServeHTTP(httptest.NewRecorder(), r)
}

func TestDeadlineAndPriorityTravelToTheOutgoingRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got http.Header
		var p *parts
		p, h := trusting(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			client := &http.Client{Transport: p.shed.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
				got = r.Header
				return nil, errors.New("enough")
			}))}
			req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://next.example/", nil)
			client.Do(req)
		}))
		ask(t, p, h)
		require.Equal(t, []string{"critical"}, got.Values(degrade.PriorityHeader))
		require.Equal(t, []string{"300"}, got.Values(degrade.TimeoutHeader), "what is left after 200 ms")
	})
}

// A proxy sends the client's own fields on, and those say how much time there
// was when the client asked.
func TestDeadlineAndPriorityTravelThroughAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got http.Header
		var proxy http.Handler
		p, h := trusting(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { proxy.ServeHTTP(w, r) }))
		pool := balancer.MustNew(balancer.Config{Backends: balancer.URLs("http://backend.example")})
		rp := pool.Proxy()
		rp.Transport = p.shed.Transport(pool.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			got = r.Header
			return httptest.NewRecorder().Result(), nil
		})))
		proxy = rp
		ask(t, p, h)
		require.Equal(t, []string{"critical"}, got.Values(degrade.PriorityHeader))
		require.Equal(t, []string{"300"}, got.Values(degrade.TimeoutHeader), "what is left after 200 ms")
	})
}

// TestTheDeadlineIsThatOfTheHandlerToo: who has no time left is cut off, and
// that is a failure, unlike a client that hangs up.
func TestTheDeadlineIsThatOfTheHandlerToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var err error
		var took time.Duration
		p, h := trusting(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := time.Now()
			<-r.Context().Done()
			took, err = time.Since(began), r.Context().Err()
			w.WriteHeader(http.StatusGatewayTimeout)
		}))
		ask(t, p, h)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 300*time.Millisecond, took)
		require.EqualValues(t, 1, p.b.Stats().Failed)
		require.Zero(t, p.b.Stats().Ignored)
	})
}
