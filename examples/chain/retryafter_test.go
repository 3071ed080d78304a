package chain

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/ratelimit"
)

// TestRetryAfterIsTrue: who comes back when it was told to is let in, and where
// the moment is known, who comes a second earlier is not.
func TestRetryAfterIsTrue(t *testing.T) {
	var failing, gone atomic.Bool
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if failing.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
		io.WriteString(w, "good")
	})
	tests := map[string]struct {
		make   func(p *parts) (h http.Handler, refuse func(h http.Handler))
		status int
		known  bool // the moment
	}{
		"ratelimit": {func(p *parts) (http.Handler, func(http.Handler)) {
			p.lim = ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(100)})
			return p.handler(next), func(h http.Handler) {
				for get(h, "/").Code == 200 {
				}
			}
		}, 429, true},
		"breaker": {func(p *parts) (http.Handler, func(http.Handler)) {
			p.b = breaker.MustNew(breaker.Config{OpenFor: 40 * time.Second})
			return p.handler(next), func(h http.Handler) {
				failing.Store(true)
				for get(h, "/").Code == 500 {
				}
				failing.Store(false)
			}
		}, 503, true},
		"shedder": {func(p *parts) (http.Handler, func(http.Handler)) {
			p.shed = degrade.MustNew(degrade.Config{Limit: 1, MaxWait: -1})
			return p.handler(next), func(http.Handler) {
				release, err := p.shed.Acquire(context.Background(), degrade.Normal)
				if err != nil {
					panic(err)
				}
				time.AfterFunc(500*time.Millisecond, release)
			}
		}, 503, false},
		"balancer": {func(p *parts) (http.Handler, func(http.Handler)) {
			pool := balancer.MustNew(balancer.Config{
				Backends: balancer.URLs("http://backend.example"), PanicShare: -1, Healthy: func(balancer.Backend) bool { return !gone.Load() },
			})
			rp := pool.Proxy()
			rp.Transport = pool.Transport(answering(next))
			return p.handler(rp), func(http.Handler) {
				gone.Store(true)
				time.AfterFunc(500*time.Millisecond, func() { gone.Store(false) })
			}
		}, 503, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, refuse := test.make(newParts())
				require.Equal(t, 200, get(h, "/").Code)
				refuse(h)
				w := get(h, "/")
				require.Equal(t, test.status, w.Code)
				requireRetryAfter(t, w)
				seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
				require.NoError(t, err)
				if test.known {
					require.Greater(t, seconds, 20)
					time.Sleep(time.Duration(seconds-1) * time.Second)
					w = get(h, "/")
					require.Equal(t, test.status, w.Code)
					require.Equal(t, "1", w.Header().Get("Retry-After"))
					seconds = 1
				}
				require.LessOrEqual(t, seconds, 2, "what lasts half a second")
				time.Sleep(time.Duration(seconds) * time.Second)
				require.Equal(t, 200, get(h, "/").Code)
			})
		})
	}
}
