package cache_test

import (
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

func TestWaitersShareOnlyWhatTheirVaryMatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(100 * time.Millisecond)
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Vary", "Accept-Language")
			io.WriteString(w, r.Header.Get("Accept-Language"))
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				lang := []string{"de", "en", "fr"}[i%3]
				require.Equal(t, lang, get(h, page, "Accept-Language", lang).Body.String())
			})
		}
		wg.Wait()
		require.EqualValues(t, 3, o.calls.Load())
	})
}

func TestClientsCollapseToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls, sent atomic.Int64
		c := cache.MustNew(cache.Config{})
		rt := c.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			calls.Add(1)
			time.Sleep(100 * time.Millisecond)
			return &http.Response{
				StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=60"}}, ContentLength: -1, Request: r,
				Body: io.NopCloser(io.TeeReader(strings.NewReader(strings.Repeat("x", 300_000)), countTo(&sent))),
			}, nil
		}))
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				resp, err := rt.RoundTrip(httptest.NewRequest("GET", page, nil))
				require.NoError(t, err)
				b, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Len(t, b, 300_000)
				require.NoError(t, resp.Body.Close())
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, calls.Load())
		require.EqualValues(t, 300_000, sent.Load())
	})
}

type counting struct{ n *atomic.Int64 }

func (c counting) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

func countTo(n *atomic.Int64) io.Writer { return counting{n} }

func TestUncacheableTrafficIsNotSerialised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(50 * time.Millisecond)
			w.Header().Set("Cache-Control", "no-store")
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		var n atomic.Int64
		var wg sync.WaitGroup
		end := time.Now().Add(2 * time.Second)
		for range 50 {
			wg.Go(func() {
				for time.Now().Before(end) {
					get(h, page)
					n.Add(1)
				}
			})
		}
		wg.Wait()
		require.GreaterOrEqual(t, n.Load(), int64(1900), "50 clients, 50 ms each: 2000 in 2 s")
	})
}

func TestAnswersThatNeedValidationAreNotShared(t *testing.T) { // RFC 9111 §4
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(100 * time.Millisecond)
			w.Header().Set("Cache-Control", "no-cache")
			w.Header().Set("Etag", `"a"`)
			fmt.Fprint(w, o.calls.Load())
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		start := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { get(h, page) })
		}
		wg.Wait()
		require.EqualValues(t, 20, o.calls.Load())
		require.LessOrEqual(t, time.Since(start), 200*time.Millisecond)
	})
}

func TestEverythingAtOnce(t *testing.T) {
	// Readers, purges, unsafe requests and failures together: no race, no
	// hang, and no body that the origin never said for its URL.
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" {
			return
		}
		n := o.calls.Load()
		w.Header().Set("Cache-Control", []string{"max-age=60", "max-age=0, stale-while-revalidate=60", "private", "no-cache"}[n%4])
		w.Header().Set("Etag", fmt.Sprintf(`"%s"`, r.URL.Path))
		w.Header().Set("Cache-Tag", "t"+r.URL.Path[1:])
		if n%11 == 0 {
			w.WriteHeader(503)
		}
		if n%13 == 0 {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, strings.Repeat(r.URL.Path, 500))
	}
	c := cache.MustNew(cache.Config{MaxBytes: 64 << 10, StaleIfError: time.Minute})
	h := c.Handler(o)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				path := fmt.Sprint("/", (i*7+g)%9)
				func() {
					defer func() {
						if v := recover(); v != nil && v != http.ErrAbortHandler {
							panic(v)
						}
					}()
					switch i % 10 {
					case 8:
						do(h, "POST", "http://example.com"+path)
					case 9:
						c.Purge(t.Context(), cache.Tag("t"+path[1:]), cache.URL("http://example.com"+path).Soft())
					default:
						w := get(h, "http://example.com"+path)
						if w.Code == 200 {
							require.Equal(t, strings.Repeat(path, 500), w.Body.String())
						}
					}
				}()
			}
		})
	}
	wg.Wait()
	require.NoError(t, c.Close())
	s := c.Stats()
	require.EqualValues(t, 0, s.Panics)
	require.LessOrEqual(t, s.Bytes, int64(64<<10))
	require.EqualValues(t, 8*300*9/10, s.Hits+s.Misses+s.Stale+s.Revalidated+s.Collapsed+s.Bypassed+s.Failed)
}
