package chain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://api.example"+path, nil))
	return w
}

// requireRetryAfter wants a refusal that says truly when to come back.
func requireRetryAfter(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
	require.NoError(t, err, "Retry-After is %q", w.Header().Get("Retry-After"))
	require.GreaterOrEqual(t, seconds, 1)
}

func TestProbesAreAnsweredWhateverTheChainRefuses(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-block })
	refuse := map[string]func(p *parts) (h http.Handler, status int){
		"no tokens": func(p *parts) (http.Handler, int) {
			p.lim = ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1)})
			h := p.handler(http.NotFoundHandler())
			get(h, "/")
			return h, 429
		},
		"no capacity": func(p *parts) (http.Handler, int) {
			p.shed = degrade.MustNew(degrade.Config{Limit: 1, MaxWait: -1})
			h := p.handler(next)
			go get(h, "/busy")
			settles(t, "the slot is taken", func() bool { return p.shed.Stats().InFlight == 1 })
			return h, 503
		},
		"open breaker": func(p *parts) (http.Handler, int) {
			forceOpen(p.b)
			return p.handler(next), 503
		},
		"dead backends": func(p *parts) (http.Handler, int) {
			dead := httptest.NewServer(nil)
			dead.Close()
			rp := balancer.MustNew(balancer.Config{Backends: balancer.URLs(dead.URL)}).Proxy()
			rp.ErrorLog = quiet
			return p.handler(rp), 502
		},
	}
	for name, make := range refuse {
		t.Run(name, func(t *testing.T) {
			h, status := make(newParts())
			w := get(h, "/")
			require.Equal(t, status, w.Code)
			if status != 502 {
				requireRetryAfter(t, w)
			}
			for _, probe := range []string{"/livez", "/readyz"} {
				require.Equal(t, 200, get(h, probe).Code, probe)
			}
		})
	}
}

func forceOpen(b *breaker.Breaker) { b.ForceOpen(time.Hour, "a test") }

// TestRefusalBecomesAStaleAnswerWhereAllowed refuses below the cache in each
// way there is.
func TestRefusalBecomesAStaleAnswerWhereAllowed(t *testing.T) {
	refusals := map[string]func(p *parts, next http.Handler) (h http.Handler, refuse func()){
		"shed": func(p *parts, next http.Handler) (http.Handler, func()) {
			p.shed = degrade.MustNew(degrade.Config{Limit: 1, MaxWait: -1})
			return p.handler(next), func() {
				release, err := p.shed.Acquire(context.Background(), degrade.Normal)
				if err != nil {
					panic(err)
				}
				_ = release // kept
			}
		},
		"breaker open": func(p *parts, next http.Handler) (http.Handler, func()) {
			return p.handler(next), func() { forceOpen(p.b) }
		},
		"no backend": func(p *parts, next http.Handler) (http.Handler, func()) {
			pool := balancer.MustNew(balancer.Config{
				Backends:   balancer.URLs("http://backend.example"),
				PanicShare: -1,
				Healthy:    func(balancer.Backend) bool { return p.shed.Stats().Admitted < 2 },
			})
			rp := pool.Proxy()
			rp.ErrorLog = quiet
			rp.Transport = pool.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				next.ServeHTTP(w, r)
				return w.Result(), nil
			}))
			return p.handler(rp), func() { time.Sleep(2 * time.Second) }
		},
	}
	for name, make := range refusals {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, refuse := make(newParts(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", "max-age=1, stale-if-error=600")
					io.WriteString(w, "good")
				}))
				require.Equal(t, 200, get(h, "/kept").Code)
				time.Sleep(3 * time.Second)
				refuse()

				w := get(h, "/kept")
				require.Equal(t, 200, w.Code, "%v", w.Header())
				require.Equal(t, "good", w.Body.String())
				require.Contains(t, w.Header().Get("Cache-Status"), "fwd-status=50")
				w = get(h, "/other")
				require.GreaterOrEqual(t, w.Code, 502)
				requireRetryAfter(t, w)
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func cacheable(calls *int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*calls++
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, "kept")
	})
}

func TestCachedHitNeedsNoSlot(t *testing.T) {
	p := newParts()
	p.shed = degrade.MustNew(degrade.Config{Limit: 1, MaxWait: -1})
	var calls int
	h := p.handler(cacheable(&calls))
	require.Equal(t, 200, get(h, "/").Code)
	_, err := p.shed.Acquire(t.Context(), degrade.Normal)
	require.NoError(t, err)
	require.Equal(t, 200, get(h, "/").Code, "from the cache")
	require.Equal(t, 503, get(h, "/other").Code)
	require.Equal(t, 1, calls)
}

func TestCachedHitNeedsNoTokenWithTheCacheOutside(t *testing.T) {
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1)})
	var calls int
	h := cache.MustNew(cache.Config{}).Handler(lim.Handler(cacheable(&calls)))
	for range 5 {
		require.Equal(t, 200, get(h, "/").Code)
	}
	require.Equal(t, 1, calls)
	require.Equal(t, 429, get(h, "/other").Code)
}

// TestRateLimitFieldsOnCachedAnswersAreThoseOfTheRequest shows that the cache
// keeps no other client's numbers.
func TestRateLimitFieldsOnCachedAnswersAreThoseOfTheRequest(t *testing.T) {
	p := newParts()
	p.lim = ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10)})
	var calls int
	h := p.handler(cacheable(&calls))
	for left := 9; left >= 7; left-- {
		w := get(h, "/")
		require.Equal(t, 200, w.Code)
		require.Len(t, w.Header().Values("RateLimit"), 1)
		require.Contains(t, w.Header().Get("RateLimit"), fmt.Sprintf("r=%d;", left))
	}
	require.Equal(t, 1, calls)

	// With the cache outside, the fields are part of what is kept, and then
	// they would lie to the next client: they are not kept.
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10)})
	h = cache.MustNew(cache.Config{}).Handler(lim.Handler(cacheable(&calls)))
	require.NotEmpty(t, get(h, "/").Header().Get("RateLimit"))
	require.Empty(t, get(h, "/").Header().Get("RateLimit"), "a hit spends no token, and says nothing of tokens")
}

func TestClientHangUpCountsNowhere(t *testing.T) {
	for _, balanced := range []bool{false, true} {
		t.Run(fmt.Sprintf("balanced=%v", balanced), func(t *testing.T) {
			p := newParts()
			var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				w.WriteHeader(http.StatusInternalServerError)
			})
			pool, rp := proxy(t, h)
			if balanced {
				h = rp
			}
			h = p.handler(h)
			s := serve(t, "http1", h)
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				req, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/", nil)
				_, err := s.client.Do(req)
				require.Error(t, err)
				cancel()
			}
			settles(t, "all are gone", func() bool {
				return p.shed.Stats().InFlight == 0 && pool.Stats().InFlight == 0 && p.health.Stats().InFlight == 0
			})
			b := p.b.Stats()
			require.Zero(t, b.Failed)
			require.Zero(t, b.Succeeded)
			require.NotZero(t, b.Ignored)
			require.Zero(t, pool.Stats().Failure)
			require.Zero(t, pool.Stats().Success)
			require.Zero(t, p.shed.Stats().Refused)
		})
	}
}

// TestDrainingIsVisibleInFront shows that a balancer takes a draining service
// out on its next answer, without a probe.
func TestDrainingIsVisibleInFront(t *testing.T) {
	draining := make(chan struct{})
	backend := func(name string) (string, context.CancelFunc) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		h := health.MustNew(health.Config{
			Drain: health.Drain{Delay: 5 * time.Second},
			OnChange: func(c health.Change) {
				if c.Subject == "phase" && c.To == health.Draining.String() {
					close(draining)
				}
			},
		})
		ctx, cancel := context.WithCancel(context.Background())
		srv := &http.Server{Handler: h.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, name) }))}
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.Serve(ctx, srv, ln)
		}()
		t.Cleanup(func() { cancel(); srv.Close(); <-done })
		return "http://" + ln.Addr().String(), cancel
	}
	leaving, stop := backend("leaving")
	staying, _ := backend("staying")
	pool := balancer.MustNew(balancer.Config{Backends: balancer.URLs(leaving, staying), Policy: balancer.RoundRobin(), SlowStart: -1})
	rp := pool.Proxy()
	ask := func() string {
		w := get(rp, "/")
		require.Equal(t, 200, w.Code)
		require.Empty(t, w.Header().Get("Spillway-Draining"), "that is between us")
		return w.Body.String()
	}
	seen := map[string]bool{}
	for range 4 {
		seen[ask()] = true
	}
	require.Len(t, seen, 2)

	stop()
	<-draining
	ask()
	ask() // one of the two has told
	for range 20 {
		require.Equal(t, "staying", ask())
	}
}

func TestDeadlineAndPriorityTravelToTheOutgoingRequest(t *testing.T) {
	var got http.Header
	p := newParts()
	p.shed = degrade.MustNew(degrade.Config{Trust: func(*http.Request) bool { return true }})
	client := &http.Client{Transport: p.shed.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		got = r.Header
		return nil, errors.New("enough")
	}))}
	h := p.handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://next.example/", nil)
		client.Do(req)
	}))
	r := httptest.NewRequest("GET", "http://api.example/", nil)
	r.Header.Set(degrade.PriorityHeader, "critical")
	r.Header.Set(degrade.TimeoutHeader, "500")
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Equal(t, "critical", got.Get(degrade.PriorityHeader))
	ms, err := strconv.Atoi(got.Get(degrade.TimeoutHeader))
	require.NoError(t, err)
	require.Greater(t, ms, 0)
	require.LessOrEqual(t, ms, 500)
}
