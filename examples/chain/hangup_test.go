package chain

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/ratelimit"
)

// A client that hangs up says nothing of the service, good or bad.

const hangUps = 10

// TestClientHangUpCountsNowhere hangs up while the handler works, before it has
// answered and after its header.
func TestClientHangUpCountsNowhere(t *testing.T) {
	for _, protocol := range protocols {
		for _, balanced := range []bool{false, true} {
			for _, answers := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, balanced=%v, answers=%v", protocol, balanced, answers), func(t *testing.T) {
					hangUp(t, protocol, balanced, answers)
				})
			}
		}
	}
}

func hangUp(t *testing.T, protocol string, balanced, answers bool) {
	p := newParts()
	began := make(chan struct{})
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answers {
			http.NewResponseController(w).Flush()
		}
		began <- struct{}{}
		<-r.Context().Done()
		w.WriteHeader(http.StatusInternalServerError)
	})
	pool, rp, _ := proxy(t, h)
	if balanced {
		h = rp
	}
	s := serve(t, protocol, p.handler(h))
	for i := range hangUps {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/"+strconv.Itoa(i), nil) // or one waits for what another asked for
		if answers {
			resp, err := s.client.Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			<-began
			cancel()
			continue
		}
		go func() {
			<-began
			cancel()
		}()
		_, err := s.client.Do(req)
		require.ErrorIs(t, err, context.Canceled)
	}
	const timed = "spillway_http_request_duration_seconds_count"
	settles(t, "all are gone", func() bool {
		return p.shed.Stats().InFlight == 0 && pool.Stats().InFlight == 0 && total(p.health, timed) == hangUps
	})
	b := p.b.Stats()
	require.Zero(t, b.Failed)
	require.Zero(t, b.Succeeded)
	require.Zero(t, b.Slow)
	require.EqualValues(t, hangUps, b.Ignored)
	require.Zero(t, pool.Stats().Failure)
	if !answers { // what has sent its header did well, for all that the balancer knows
		require.Zero(t, pool.Stats().Success)
	}
	require.Zero(t, p.shed.Stats().Refused)
	require.Zero(t, p.lim.Stats().Refused)
	c := p.pages.Stats()
	require.Zero(t, c.Hits+c.Stale+c.Revalidated+c.Collapsed)
	if !answers {
		require.EqualValues(t, hangUps, c.Failed)
	}
	require.EqualValues(t, hangUps, total(p.health, timed, "canceled"))
}

// TestAHangUpInAQueueIsNoRefusal: who goes while it waits for a turn or a slot
// leaves it to others, and is counted as gone.
func TestAHangUpInAQueueIsNoRefusal(t *testing.T) {
	wait := func(h http.Handler) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		time.AfterFunc(time.Millisecond, cancel)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "http://api.example/", nil))
		require.Equal(t, 200, w.Code, "which is what says nothing")
		require.Zero(t, w.Body.Len(), "nobody is there to read it")
	}
	t.Run("for a slot", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newParts()
			p.shed = degrade.MustNew(degrade.Config{Limit: 1, MaxWait: time.Second})
			h := p.handler(http.NotFoundHandler())
			release, err := p.shed.Acquire(t.Context(), degrade.Normal)
			require.NoError(t, err)
			for range hangUps {
				wait(h)
			}
			left, leave := context.WithCancel(context.Background())
			leave()
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(left, "GET", "http://api.example/", nil))
			s := p.shed.Stats()
			require.Zero(t, s.Refused)
			require.EqualValues(t, hangUps+1, s.Abandoned)
			require.Zero(t, s.Waiting)
			require.Zero(t, total(p.b, "spillway_breaker_requests_total"))
			require.Zero(t, p.pages.Stats().Misses+p.pages.Stats().Bypassed, "they had no answer")
			release()
			require.Equal(t, 404, get(h, "/").Code)
			require.Zero(t, p.shed.Stats().InFlight)
		})
	})
	t.Run("for a token", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newParts()
			p.lim = ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(1), MaxWait: time.Second})
			h := p.handler(http.NotFoundHandler())
			require.Equal(t, 404, get(h, "/").Code)
			for range hangUps {
				wait(h)
			}
			require.Zero(t, p.lim.Stats().Refused)
			require.EqualValues(t, 1, total(p.b, "spillway_breaker_requests_total"))
			began := time.Now()
			require.Equal(t, 404, get(h, "/").Code)
			require.LessOrEqual(t, time.Since(began), time.Second, "their tokens are there again")
		})
	})
}

// TestAHangUpGivesTheBreakersProbeBack: one request at a time finds out whether
// the service is well again, and some do not stay to see.
func TestAHangUpGivesTheBreakersProbeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newParts()
		p.b = breaker.MustNew(breaker.Config{OpenFor: 10 * time.Second, MinCalls: 5, Probes: 1, ProbesAtOnce: 1, ProbeLease: time.Hour})
		h := p.handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/fails":
				w.WriteHeader(http.StatusInternalServerError)
			case "/panics":
				panic("hostile")
			case "/waits":
				<-r.Context().Done()
			}
		}))
		for range 5 {
			require.Equal(t, 500, get(h, "/fails").Code)
		}
		require.Equal(t, breaker.Open, p.b.State())
		time.Sleep(10 * time.Second)
		for range hangUps {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Second, cancel)
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "http://api.example/waits", nil))
		}
		require.EqualValues(t, hangUps, p.b.Stats().Ignored)
		require.Equal(t, breaker.HalfOpen, p.b.State())
		require.PanicsWithValue(t, "hostile", func() { get(h, "/panics") })
		require.Equal(t, breaker.Open, p.b.State(), "a panic is an answer")
		time.Sleep(20 * time.Second)
		require.Equal(t, 200, get(h, "/").Code)
		require.NotEqual(t, breaker.Open, p.b.State())
		require.Zero(t, p.shed.Stats().InFlight)
		require.Empty(t, get(h, "/").Header().Get("Retry-After"))
	})
}
