package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// origin is a handler whose answers a test sets, and that counts its calls.
type origin struct {
	calls  atomic.Int64
	status int
	header http.Header
	body   string
	serve  http.HandlerFunc // instead of the above

	mu   sync.Mutex
	last *http.Request
}

func newOrigin(header ...string) *origin {
	o := &origin{header: http.Header{}, body: "body"}
	o.set(header...)
	return o
}

func (o *origin) set(header ...string) {
	o.header = http.Header{}
	for i := 0; i < len(header); i += 2 {
		o.header.Add(header[i], header[i+1])
	}
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.calls.Add(1)
	o.mu.Lock()
	o.last = r
	o.mu.Unlock()
	if o.serve != nil {
		o.serve(w, r)
		return
	}
	for k, v := range o.header {
		w.Header()[k] = v
	}
	if o.status != 0 {
		w.WriteHeader(o.status)
	}
	io.WriteString(w, o.body)
}

func (o *origin) request() *http.Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

const page = "http://example.com/page"

func status(w *httptest.ResponseRecorder) string { return w.Header().Get("Cache-Status") }

func TestAStoredResponseAnswersTheNextRequest(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60", "X-Thing", "1", "X-Thing", "2")
	h := cache.MustNew(cache.Config{}).Handler(o)
	require.Equal(t, "body", get(h, page).Body.String())
	w := get(h, page)
	require.Equal(t, 200, w.Code)
	require.Equal(t, "body", w.Body.String())
	require.Equal(t, []string{"1", "2"}, w.Header()["X-Thing"])
	require.Equal(t, "4", w.Header().Get("Content-Length"))
	require.EqualValues(t, 1, o.calls.Load())
}

func TestNobodyWaitsForAPrivateResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(100 * time.Millisecond)
			w.Header().Set("Cache-Control", "private, max-age=60")
			io.WriteString(w, "for "+r.Header.Get("Cookie"))
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		var wrong atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 200 {
			wg.Go(func() {
				user := fmt.Sprintf("user=%d", i)
				if get(h, page, "Cookie", user).Body.String() != "for "+user {
					wrong.Add(1)
				}
			})
		}
		wg.Wait()
		require.Zero(t, wrong.Load())
		require.LessOrEqual(t, time.Since(start), 200*time.Millisecond, "one wait for the header, then all at once")
	})
}

func TestAThousandConcurrentMissesMakeOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(100 * time.Millisecond)
			w.Header().Set("Cache-Control", "max-age=60")
			io.WriteString(w, strings.Repeat("x", 100<<10))
		}
		c := cache.MustNew(cache.Config{})
		h := c.Handler(o)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { require.Len(t, get(h, page).Body.String(), 100<<10) })
		}
		wg.Wait()
		require.EqualValues(t, 1, o.calls.Load())
		require.EqualValues(t, 999, c.Stats().Collapsed)
	})
}

func TestALeaderThatHangsUpCostsNobodyTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
				w.WriteHeader(502)
				return
			}
			w.Header().Set("Cache-Control", "max-age=60")
			io.WriteString(w, "good")
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(context.Background())
		wg.Go(func() {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", page, nil).WithContext(ctx))
		})
		time.Sleep(10 * time.Millisecond)
		for range 50 {
			wg.Go(func() { require.Equal(t, "good", get(h, page).Body.String()) })
		}
		time.Sleep(10 * time.Millisecond)
		cancel()
		wg.Wait()
		require.EqualValues(t, 1, o.calls.Load())
	})
}

func TestACallThatNobodyWaitsForIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cause error
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			cause = context.Cause(r.Context())
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", page, nil).WithContext(ctx))
		require.ErrorContains(t, cause, "every client")
	})
}

func TestAPanickingLeaderLeavesTheOthersToRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(10 * time.Millisecond)
			if o.calls.Load() == 1 {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Cache-Control", "max-age=60")
			io.WriteString(w, "good")
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		var wg sync.WaitGroup
		wg.Go(func() {
			require.PanicsWithValue(t, http.ErrAbortHandler, func() { get(h, page) })
		})
		time.Sleep(time.Millisecond)
		for range 20 {
			wg.Go(func() { require.Equal(t, "good", get(h, page).Body.String()) })
		}
		wg.Wait()
		require.EqualValues(t, 2, o.calls.Load())
	})
}

func TestAPurgeWinsOverAFillThatBeganBefore(t *testing.T) {
	for name, target := range map[string]cache.Target{
		"url": cache.URL(page), "prefix": cache.Prefix("http://example.com/"), "tag": cache.Tag("a"), "all": cache.All(),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin()
				o.serve = func(w http.ResponseWriter, r *http.Request) {
					body := fmt.Sprint("version ", o.calls.Load())
					time.Sleep(100 * time.Millisecond)
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set("Cache-Tag", "a")
					io.WriteString(w, body)
				}
				c := cache.MustNew(cache.Config{})
				h := c.Handler(o)
				var wg sync.WaitGroup
				wg.Go(func() { get(h, page) })
				time.Sleep(50 * time.Millisecond)
				require.NoError(t, c.Purge(t.Context(), target))
				wg.Wait()
				require.Equal(t, "version 2", get(h, page).Body.String())
			})
		})
	}
}

func TestFieldsOfOuterLayersAreNotStored(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60", "Vary", "Accept")
	inner := cache.MustNew(cache.Config{}).Handler(o)
	n := 0
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("RateLimit", fmt.Sprint(n))
		w.Header().Set("X-Request-Id", fmt.Sprint("id", n))
		inner.ServeHTTP(w, r)
	})
	require.Equal(t, "1", get(h, page).Header().Get("RateLimit"))
	w := get(h, page)
	require.Contains(t, status(w), "hit")
	require.Equal(t, []string{"2"}, w.Header().Values("RateLimit"))
	require.Equal(t, []string{"id2"}, w.Header().Values("X-Request-Id"))
}

func TestALimitersFieldsAreNotStored(t *testing.T) {
	fields := []string{"RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Spillway-Degraded"}
	o := newOrigin("Cache-Control", "max-age=60")
	for _, name := range fields {
		o.header.Set(name, "9")
	}
	h := cache.MustNew(cache.Config{}).Handler(o)
	first, hit := get(h, page), get(h, page)
	require.Contains(t, status(hit), "hit")
	for _, name := range fields {
		require.Equal(t, "9", first.Header().Get(name), "the client that asked is told")
		require.Empty(t, hit.Header().Get(name), "%s is about one request alone", name)
	}
}

func TestStaleWhileRevalidateAnswersAtOnceAndAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			n := o.calls.Load()
			if n > 1 {
				time.Sleep(time.Second)
			}
			w.Header().Set("Cache-Control", "max-age=10, stale-while-revalidate=30")
			fmt.Fprint(w, "version ", n)
		}
		c := cache.MustNew(cache.Config{})
		h := c.Handler(o)
		get(h, page)
		time.Sleep(11 * time.Second)
		for range 5 {
			start := time.Now()
			require.Equal(t, "version 1", get(h, page).Body.String())
			require.Zero(t, time.Since(start))
		}
		time.Sleep(2 * time.Second)
		require.Equal(t, "version 2", get(h, page).Body.String())
		require.EqualValues(t, 2, o.calls.Load())
		require.NoError(t, c.Close())
	})
}

func TestMetricsExistFromTheStart(t *testing.T) {
	seen := map[string]float64{}
	c := cache.MustNew(cache.Config{Name: "pages"})
	h := c.Handler(newOrigin("Cache-Control", "max-age=60"))
	collect := func() {
		c.Collect(func(name, help, kind string, v float64, labels ...string) {
			require.NotEmpty(t, help)
			seen[name+"{"+strings.Join(labels, ",")+"}"] = v
		})
	}
	collect()
	require.Contains(t, seen, "spillway_cache_requests_total{cache,pages,outcome,hit}")
	get(h, page)
	get(h, page)
	collect()
	require.EqualValues(t, 1, seen["spillway_cache_requests_total{cache,pages,outcome,hit}"])
	require.EqualValues(t, 1, seen["spillway_cache_requests_total{cache,pages,outcome,miss}"])
	require.EqualValues(t, 1, seen["spillway_cache_entries{cache,pages}"])
	require.EqualValues(t, 1, seen["spillway_cache_fill_duration_seconds_bucket{cache,pages,le,+Inf}"])
}

func TestChangesAndConditionsTell(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=0, stale-if-error=60")
	c := cache.MustNew(cache.Config{Name: "pages"})
	h := c.Handler(o)
	get(h, page)
	for range c.Conditions() {
		t.Fatal("all is well")
	}
	o.status = 503
	require.Equal(t, 200, get(h, page).Code)
	n := 0
	for subject, what := range c.Conditions() {
		n++
		require.Equal(t, "pages", subject)
		require.Contains(t, what, "stale")
	}
	require.Equal(t, 1, n)
	require.NoError(t, c.Purge(t.Context(), cache.Tag("x")))
	for _, what := range c.Changes() {
		require.Equal(t, "pages: purged tag x: 0 responses", what)
		n++
	}
	require.Equal(t, 2, n)
}

func TestAConfigurationIsRefusedFieldByField(t *testing.T) {
	_, err := cache.New(cache.Config{
		MaxBytes: 65535, MaxBodyBytes: 65536, MaxVariants: -1, TTL: -1, StaleWhileRevalidate: -1, StoreTimeout: -1,
		Targets: []string{"CDN-Cache-Control", "a b"}, TagHeaders: []string{""}, Key: cache.KeyConfig{Headers: []string{"a:"}},
		Normalize: map[string]cache.Normalizer{"Foo": nil}, SetCookie: 3,
	})
	require.EqualError(t, err, strings.Join([]string{
		"cache: Config.MaxBytes is 65535, must be 0 or at least 65536",
		"cache: Config.MaxBodyBytes is 65536, must not be negative or more than MaxBytes (65535)",
		"cache: Config.MaxVariants is -1, must not be negative",
		"cache: Config.TTL is -1ns, must not be negative",
		"cache: Config.StaleWhileRevalidate is -1ns, must not be negative",
		"cache: Config.StoreTimeout is -1ns, must not be negative",
		`cache: Config.Targets has "a b", which is not a field name`,
		`cache: Config.TagHeaders has "", which is not a field name`,
		`cache: Config.Key.Headers has "a:", which is not a field name`,
		`cache: Config.Normalize has "Foo", which must be a field name with a function`,
		"cache: Config.SetCookie is 3, must be one of the constants",
	}, "\n"))
	_, err = cache.New(cache.Config{MaxBytes: 1 << 62})
	require.EqualError(t, err, "cache: Config.MaxBytes is 4611686018427387904, must be at most 2305843009213693951")
	require.PanicsWithError(t, "cache: Config.MaxBodyBytes is -1, must not be negative or more than MaxBytes (67108864)", func() {
		cache.MustNew(cache.Config{MaxBodyBytes: -1})
	})
	cache.MustNew(cache.Config{MaxBytes: 65536, MaxBodyBytes: 65536, FillTimeout: -1, HitForMiss: -1, StaleIfError: -1})
}

// A Normalizer runs with what it needs locked: a panic must leave that usable,
// and tell clients apart by what they sent.
func TestANormalizerThatPanicsLocksNothing(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60", "Vary", "X-Device")
	c := cache.MustNew(cache.Config{Normalize: map[string]cache.Normalizer{
		"x-device": func([]string) string { panic("no such device") },
	}})
	h := c.Handler(o)
	ask := func(device string) string {
		r := httptest.NewRequest("GET", page, nil)
		r.Header.Set("X-Device", device)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, 200, w.Code)
		return w.Header().Get("Cache-Status")
	}
	require.NotContains(t, ask("phone"), "hit")
	require.NotContains(t, ask("desk"), "hit")
	require.Contains(t, ask("phone"), "hit")
	require.Contains(t, ask("desk"), "hit")
	require.Positive(t, c.Stats().Panics)
}
