// Package migration_test holds the code of examples/MIGRATING.md, before and
// after, and shows that what the guide says becomes different does.
package migration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/afex/hystrix-go/hystrix"
	"github.com/bufbuild/httplb"
	"github.com/bufbuild/httplb/picker"
	"github.com/didip/tollbooth/v8"
	"github.com/didip/tollbooth/v8/limiter"
	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/go-chi/httprate"
	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"
	"github.com/vulcand/oxy/v2/buffer"
	"github.com/vulcand/oxy/v2/forward"
	"github.com/vulcand/oxy/v2/roundrobin"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/ratelimit"
)

// Each block of Go in the guide must be in this file, but for those that are
// marked as not compiled.
func TestTheGuideShowsCodeThatCompiles(t *testing.T) {
	guide, err := os.ReadFile("../../MIGRATING.md")
	require.NoError(t, err)
	source, err := os.ReadFile("migration_test.go")
	require.NoError(t, err)
	flat := func(s string) string {
		lines := strings.Split(s, "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		return strings.Join(lines, "\n")
	}
	blocks := regexp.MustCompile("(?s)(<!-- not compiled -->\n)?```go\n(.*?)```").FindAllStringSubmatch(string(guide), -1)
	compiled := 0
	for _, b := range blocks {
		if b[1] != "" {
			continue
		}
		compiled++
		require.Contains(t, flat(string(source)), "\n"+flat(b[2]))
	}
	require.Equal(t, 17, compiled, "nine pairs, one of them with a part that is not compiled")
}

func httprateBefore(mux http.Handler) http.Handler {
	limit := httprate.LimitBy(3, time.Minute, func(r *http.Request) (string, error) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		return httprate.CanonicalizeIP(host), err
	})
	return limit(mux)
}

func httprateAfter(mux http.Handler) http.Handler {
	limit := ratelimit.MustNew(ratelimit.Config{
		Rate:    ratelimit.PerMinute(3), // a burst of 3, and one more every 20 seconds
		Key:     ratelimit.ClientIP(),
		Headers: ratelimit.LegacyHeaders, // X-RateLimit-*, as before, beside RateLimit
	})
	return limit.Handler(mux)
}

func TestHttprate(t *testing.T) {
	before, after := httprateBefore(hello), httprateAfter(hello)
	for range 3 {
		require.Equal(t, 200, get(before).Code)
		require.Equal(t, 200, get(after).Code)
	}
	theirs, ours := get(before), get(after)
	require.Equal(t, 429, theirs.Code)
	require.Equal(t, 429, ours.Code)
	require.Equal(t, "60", theirs.Header().Get("Retry-After"), "the window")
	require.Equal(t, "20", ours.Header().Get("Retry-After"), "when a token is there")
	require.NotEmpty(t, theirs.Header().Get("X-RateLimit-Reset"))
	require.NotEmpty(t, ours.Header().Get("X-RateLimit-Reset"))
}

func tollboothBefore(mux http.Handler) http.Handler {
	limit := tollbooth.NewLimiter(2, nil)
	limit.SetBurst(5)
	limit.SetIPLookup(limiter.IPLookup{Name: "RemoteAddr"})
	return tollbooth.LimitHandler(limit, mux)
}

func tollboothAfter(mux http.Handler) http.Handler {
	rate := ratelimit.PerSecond(2)
	rate.Burst = 5
	limit := ratelimit.MustNew(ratelimit.Config{
		Rate: rate,
		Key:  ratelimit.Keys(ratelimit.ClientIP(), func(r *http.Request) string { return r.URL.Path }),
	})
	return limit.Handler(mux)
}

func TestTollbooth(t *testing.T) {
	before, after := tollboothBefore(hello), tollboothAfter(hello)
	passed := func(h http.Handler, path string) (n int) {
		for range 20 {
			if getPath(h, path).Code == 200 {
				n++
			}
		}
		return n
	}
	require.InDelta(t, 5, passed(before, "/a"), 2)
	require.InDelta(t, 5, passed(after, "/a"), 2)
	require.InDelta(t, 5, passed(before, "/b"), 2, "the path is part of the key")
	require.InDelta(t, 5, passed(after, "/b"), 2)

	forgot := tollbooth.LimitHandler(tollbooth.NewLimiter(2, nil), hello)
	require.Equal(t, 20, passed(forgot, "/"), "without SetIPLookup nothing is limited")
	_, err := ratelimit.New(ratelimit.Config{})
	require.ErrorContains(t, err, "Config.Rate")
}

func failsafeBreakerBefore() *http.Client {
	b := circuitbreaker.NewBuilder[*http.Response]().
		HandleIf(func(resp *http.Response, err error) bool {
			return err != nil || resp.StatusCode >= 500
		}).
		WithFailureRateThreshold(0.5, 20, 10*time.Second).
		WithDelay(5 * time.Second).
		Build()
	return &http.Client{Transport: failsafehttp.NewRoundTripper(nil, b)}
}

func failsafeBreakerAfter() *http.Client {
	b := breaker.MustNew(breaker.Config{}) // half of at least 20 calls in 10 seconds, then open for 5
	return &http.Client{Transport: b.Transport(nil)}
}

func TestFailsafeBreaker(t *testing.T) {
	fails := httptest.NewServer(status(500))
	defer fails.Close()
	well := httptest.NewServer(hello)
	defer well.Close()
	before, after := failsafeBreakerBefore(), failsafeBreakerAfter()
	for _, c := range []*http.Client{before, after} {
		for range 20 {
			_, err := call(c, fails.URL)
			require.NoError(t, err)
		}
	}
	_, err := call(before, fails.URL)
	require.ErrorIs(t, err, circuitbreaker.ErrOpen)
	_, err = call(after, fails.URL)
	require.ErrorIs(t, err, breaker.ErrOpen)

	_, err = call(before, well.URL)
	require.ErrorIs(t, err, circuitbreaker.ErrOpen, "one circuit for all hosts")
	_, err = call(after, well.URL)
	require.NoError(t, err, "one for each")
}

func failsafeLimiterBefore(mux http.Handler) http.Handler {
	limit := adaptivelimiter.NewBuilder[*http.Response]().
		WithLimits(1, 200, 20).
		WithQueueing(2, 3).
		Build()
	return failsafehttp.NewHandler(mux, limit)
}

func failsafeLimiterAfter(mux http.Handler) http.Handler {
	shed := degrade.MustNew(degrade.Config{}) // finds its limit, and how long a request may wait
	return shed.Handler(mux)
}

func TestFailsafeLimiter(t *testing.T) {
	require.Equal(t, 200, get(failsafeLimiterBefore(hello)).Code)
	require.Equal(t, 200, get(failsafeLimiterAfter(hello)).Code)

	refused := func(wrap func(http.Handler) http.Handler) *httptest.ResponseRecorder {
		entered, release := make(chan bool), make(chan bool)
		h := wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { entered <- true; <-release }))
		go get(h)
		<-entered
		defer close(release)
		return get(h)
	}
	theirs := refused(func(next http.Handler) http.Handler {
		return failsafehttp.NewHandler(next, adaptivelimiter.NewBuilder[*http.Response]().WithLimits(1, 1, 1).Build())
	})
	ours := refused(degrade.MustNew(degrade.Config{Limit: 1, MaxWait: -1}).Handler)
	require.Equal(t, 429, theirs.Code)
	require.Empty(t, theirs.Header().Get("Retry-After"))
	require.Equal(t, 503, ours.Code)
	require.NotEmpty(t, ours.Header().Get("Retry-After"))
}

func hystrixBefore(ctx context.Context, fetch func(context.Context) (string, error)) (stock string, err error) {
	hystrix.ConfigureCommand("inventory", hystrix.CommandConfig{Timeout: 1000, MaxConcurrentRequests: 10})
	err = hystrix.DoC(ctx, "inventory", func(ctx context.Context) (err error) {
		stock, err = fetch(ctx)
		return err
	}, func(context.Context, error) error {
		stock = "unknown"
		return nil
	})
	return stock, err
}

var (
	inventory = breaker.MustNew(breaker.Config{Name: "inventory"})
	bulkhead  = degrade.MustNew(degrade.Config{Name: "inventory", Limit: 10, MaxWait: -1})
)

func hystrixAfter(ctx context.Context, fetch func(context.Context) (string, error)) (stock string, err error) {
	release, err := bulkhead.Acquire(ctx, degrade.Normal)
	if err != nil {
		return "unknown", nil
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if stock, err = breaker.Do(ctx, inventory, fetch); err != nil {
		return "unknown", nil
	}
	return stock, nil
}

func TestHystrix(t *testing.T) {
	for _, do := range []func(context.Context, func(context.Context) (string, error)) (string, error){hystrixBefore, hystrixAfter} {
		stock, err := do(t.Context(), func(context.Context) (string, error) { return "12", nil })
		require.NoError(t, err)
		require.Equal(t, "12", stock)
		stock, err = do(t.Context(), func(context.Context) (string, error) { return "", errors.New("down") })
		require.NoError(t, err)
		require.Equal(t, "unknown", stock)
	}
}

func gobreakerBefore(fetch func() (string, error)) (string, error) {
	b := gobreaker.NewCircuitBreaker[string](gobreaker.Settings{
		Name:         "inventory",
		Interval:     10 * time.Second,
		BucketPeriod: time.Second,
		Timeout:      5 * time.Second,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.Requests >= 20 && c.TotalFailures*2 >= c.Requests
		},
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
	})
	return b.Execute(fetch)
}

func gobreakerAfter(ctx context.Context, fetch func(context.Context) (string, error)) (string, error) {
	b := breaker.MustNew(breaker.Config{Name: "inventory"})
	return breaker.Do(ctx, b, fetch)
}

func TestGobreaker(t *testing.T) {
	got, err := gobreakerBefore(func() (string, error) { return "12", nil })
	require.NoError(t, err)
	require.Equal(t, "12", got)
	got, err = gobreakerAfter(t.Context(), func(context.Context) (string, error) { return "12", nil })
	require.NoError(t, err)
	require.Equal(t, "12", got)

	wants := errors.New("not found")
	judged := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1, Judge: judge(wants)})
	_, err = breaker.Do(t.Context(), judged, func(context.Context) (string, error) { return "", wants })
	require.ErrorIs(t, err, wants)
	require.Equal(t, breaker.Closed, judged.State())
}

// judge is what IsSuccessful becomes.
func judge(wants error) func(breaker.Outcome) breaker.Verdict {
	return func(o breaker.Outcome) breaker.Verdict {
		if errors.Is(o.Err, wants) {
			return breaker.Success
		}
		return breaker.DefaultJudge(o)
	}
}

func souinAfter(mux http.Handler) http.Handler {
	pages := cache.MustNew(cache.Config{
		TTL:      10 * time.Second, // for what says nothing itself, to requests without a cookie
		MaxBytes: 256 << 20,
	})
	return pages.Handler(mux)
}

func TestSouin(t *testing.T) {
	calls := 0
	h := souinAfter(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		if r.URL.Path == "/login" {
			w.Header().Set("Set-Cookie", "session=1")
		}
		fmt.Fprint(w, "hello")
	}))
	for range 2 {
		require.Equal(t, 200, getPath(h, "/").Code)
	}
	require.Equal(t, 1, calls)
	for range 2 {
		require.Equal(t, 200, getPath(h, "/login").Code)
	}
	require.Equal(t, 3, calls, "what sets a cookie is not kept")
	for range 2 {
		r := httptest.NewRequest("GET", "/account", nil)
		r.Header.Set("Cookie", "session=1")
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	require.Equal(t, 5, calls, "nor what says nothing to one")
}

func httplbBefore() *httplb.Client {
	return httplb.NewClient(httplb.WithPicker(picker.NewPowerOfTwo)) // resolves the host of each URL
}

func httplbAfter() (*balancer.Balancer, *http.Client) {
	pool := balancer.MustNew(balancer.Config{Discover: balancer.DNS("http://inventory.internal:8080")})
	client := &http.Client{Transport: pool.Transport(nil)} // sends every request to this pool
	return pool, client
}

func TestHttplb(t *testing.T) {
	s := httptest.NewServer(hello)
	defer s.Close()
	before := httplbBefore()
	defer before.Close()
	body, err := call(before.Client, s.URL)
	require.NoError(t, err)
	require.Equal(t, "hello", body)

	pool, after := httplbAfter()
	_, err = call(after, "http://inventory.internal")
	require.ErrorIs(t, err, balancer.ErrNoBackend, "nothing is looked up before Run")
	require.NoError(t, pool.SetBackends(balancer.URLs(s.URL)...))
	body, err = call(after, "http://inventory.internal")
	require.NoError(t, err)
	require.Equal(t, "hello", body)
}

func oxyBefore(a, b *url.URL) (http.Handler, error) {
	pool, err := roundrobin.New(forward.New(true))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(pool.UpsertServer(a), pool.UpsertServer(b)); err != nil {
		return nil, err
	}
	return buffer.New(pool, buffer.Retry(`IsNetworkError() && Attempts() < 2`))
}

func oxyAfter(a, b *url.URL) (http.Handler, error) {
	pool, err := balancer.New(balancer.Config{Backends: balancer.URLs(a.String(), b.String())})
	if err != nil {
		return nil, err
	}
	return pool.Proxy(), nil
}

func TestOxy(t *testing.T) {
	up := httptest.NewServer(hello)
	defer up.Close()
	down := httptest.NewServer(hello)
	down.Close() // nobody listens
	a, err := url.Parse(up.URL)
	require.NoError(t, err)
	b, err := url.Parse(down.URL)
	require.NoError(t, err)
	before, err := oxyBefore(a, b)
	require.NoError(t, err)
	after, err := oxyAfter(a, b)
	require.NoError(t, err)
	for range 10 {
		require.Equal(t, 200, get(before).Code)
		require.Equal(t, 200, get(after).Code)
	}
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })

func status(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) })
}

func get(h http.Handler) *httptest.ResponseRecorder { return getPath(h, "/") }

func getPath(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

func call(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}
