package chain

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
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
			requireRetryAfter(t, w)
			for _, probe := range []string{"/livez", "/readyz", "/startupz"} {
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
			var gone atomic.Bool
			pool := balancer.MustNew(balancer.Config{
				Backends:   balancer.URLs("http://backend.example"),
				PanicShare: -1,
				Healthy:    func(balancer.Backend) bool { return !gone.Load() },
			})
			rp := pool.Proxy()
			rp.ErrorLog = quiet
			rp.Transport = pool.Transport(answering(next))
			return p.handler(rp), func() { gone.Store(true) }
		},
	}
	for name, make := range refusals {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				allowed := map[string]string{
					"/kept":      "max-age=1, stale-if-error=600",
					"/fresh":     "max-age=600",
					"/forbidden": "max-age=1, stale-if-error=600, must-revalidate",
					"/past":      "max-age=1, stale-if-error=1",
				}
				h, refuse := make(newParts(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", allowed[r.URL.Path])
					io.WriteString(w, "good")
				}))
				for path := range allowed {
					require.Equal(t, 200, get(h, path).Code)
				}
				time.Sleep(3 * time.Second)
				refuse()

				w := get(h, "/kept")
				require.Equal(t, 200, w.Code, "%v", w.Header())
				require.Equal(t, "good", w.Body.String())
				require.Contains(t, w.Header().Get("Cache-Status"), "fwd-status=503")
				require.Empty(t, w.Header().Get("Retry-After"), "that was of the refusal")
				w = get(h, "/fresh")
				require.Equal(t, 200, w.Code, "needs nobody")
				require.Equal(t, "good", w.Body.String())
				for _, path := range []string{"/forbidden", "/past", "/other"} {
					w = get(h, path)
					require.Equal(t, 503, w.Code, path)
					require.NotContains(t, w.Body.String(), "good")
					requireRetryAfter(t, w)
				}
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answering is a handler without a network.
func answering(h http.Handler) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Result(), nil
	})
}

func cacheable(calls *int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*calls++
		w.Header().Set("Cache-Control", "max-age=60, stale-if-error=600")
		w.Header().Set("Etag", `"1"`)
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
	require.EqualValues(t, 2, p.shed.Stats().Admitted, "the one that was kept, and ours")
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
	p.lim = ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10), Headers: ratelimit.LegacyHeaders})
	var calls int
	h := p.handler(cacheable(&calls))
	require1 := func(left int, w *httptest.ResponseRecorder) {
		t.Helper()
		require.Len(t, w.Header().Values("RateLimit"), 1)
		require.Contains(t, w.Header().Get("RateLimit"), fmt.Sprintf("r=%d;", left))
		require.Len(t, w.Header().Values("RateLimit-Policy"), 1)
		require.Equal(t, []string{strconv.Itoa(left)}, w.Header().Values("X-RateLimit-Remaining"))
	}
	for left := 9; left >= 7; left-- {
		w := get(h, "/")
		require.Equal(t, 200, w.Code)
		require1(left, w)
	}
	require.Equal(t, 1, calls)

	// The same for one who has it already, and for what is stale.
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "http://api.example/", nil)
	r.Header.Set("If-None-Match", `"1"`)
	h.ServeHTTP(w, r)
	require.Equal(t, 304, w.Code)
	require1(6, w)
	forceOpen(p.b)
	require.NoError(t, p.pages.Purge(t.Context(), cache.URL("http://api.example/").Soft()))
	w = get(h, "/")
	require.Equal(t, 200, w.Code)
	require.Contains(t, w.Header().Get("Cache-Status"), "fwd-status=503")
	require1(5, w)
	require.Equal(t, 1, calls)

	// With the cache outside, the fields are part of what is kept, and then
	// they would lie to the next client: they are not kept.
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10), Headers: ratelimit.LegacyHeaders})
	h = cache.MustNew(cache.Config{}).Handler(lim.Handler(cacheable(&calls)))
	require1(9, get(h, "/"))
	for name := range get(h, "/").Header() {
		require.NotContains(t, strings.ToLower(name), "ratelimit", "a hit spends no token, and says nothing of tokens")
	}
}

// TestWhoSharesAnAnswerIsToldOfItsOwnTokens: those who wait for another's call
// have spent a token each.
func TestWhoSharesAnAnswerIsToldOfItsOwnTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newParts()
		p.lim = ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10)})
		var calls int
		inner := cacheable(&calls)
		h := p.handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			inner.ServeHTTP(w, r)
		}))
		var first, second *httptest.ResponseRecorder
		go func() { first = get(h, "/") }()
		synctest.Wait()
		go func() { second = get(h, "/") }()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, 1, calls)
		require.Contains(t, first.Header().Get("RateLimit"), "r=9;")
		require.Contains(t, second.Header().Get("RateLimit"), "r=8;")
		require.Equal(t, "kept", second.Body.String())
	})
}

// TestEverythingSaysThatItDrains: whoever answers, the mark is on it.
func TestEverythingSaysThatItDrains(t *testing.T) {
	var calls int
	next := cacheable(&calls)
	p := newParts()
	p.lim = ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(5)})
	h := p.handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upgrade" {
			w.WriteHeader(http.StatusSwitchingProtocols)
			return
		}
		next.ServeHTTP(w, r)
	}))
	require.Equal(t, 200, get(h, "/").Code)
	require.Empty(t, get(h, "/").Header().Get("Spillway-Draining"))
	require.Equal(t, 200, get(h, "/readyz").Code)
	p.health.Drain()

	marked := func(what, path string, status int) {
		t.Helper()
		w := get(h, path)
		require.Equal(t, status, w.Code, what)
		require.Equal(t, "1", w.Header().Get("Spillway-Draining"), what)
		if status == 101 {
			require.Empty(t, w.Header().Get("Connection"), what)
		} else {
			require.Equal(t, "close", w.Header().Get("Connection"), what)
		}
		if status >= 400 {
			requireRetryAfter(t, w)
		}
	}
	marked("a hit", "/", 200)
	marked("an upgrade", "/upgrade", 101)
	forceOpen(p.b)
	marked("a refusal by the breaker", "/other", 503)
	marked("a refusal by the limiter", "/", 429)
	marked("a process that lives", "/livez", 200)
	marked("one that has started", "/startupz", 200)
	marked("one that wants no more", "/readyz", 503)
	require.Equal(t, 1, calls)
	for name, kept := range get(p.pages.Handler(next), "/").Header() {
		require.NotContains(t, name, "Spillway", "nor is it kept: %v", kept)
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
			Drain: health.Drain{Delay: 5 * time.Second, Quiet: 500 * time.Millisecond},
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
