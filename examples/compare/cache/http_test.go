package cache_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-chi/stampede"
	"github.com/gregjones/httpcache"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

// httpOrigin answers with five header fields and a body.
func httpOrigin(size int) http.Handler {
	body := []byte(strings.Repeat("x", size))
	length := fmt.Sprint(size)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "public, max-age=3600")
		h.Set("Etag", `"v1"`)
		h.Set("Content-Length", length)
		h.Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		w.Write(body)
	})
}

// httpRivals are what stands in front of a handler: nothing, our cache, and
// others.
var httpRivals = []struct {
	name string
	wrap func(http.Handler) http.Handler
}{
	{"bare", func(h http.Handler) http.Handler { return h }},
	{"spillway", func(h http.Handler) http.Handler {
		return cache.MustNew(cache.Config{MaxBytes: 256 << 20}).Handler(h)
	}},
	{"stampede", func(h http.Handler) http.Handler { return stampede.Handler(100_000, time.Hour)(h) }},
}

type httpNull struct{ h http.Header }

func (w *httpNull) Header() http.Header         { return w.h }
func (w *httpNull) WriteHeader(int)             {}
func (w *httpNull) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkHTTPHit(b *testing.B) {
	for _, size := range []int{1 << 10, 100 << 10} {
		for _, rival := range httpRivals {
			h := rival.wrap(httpOrigin(size))
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, rival.name), func(b *testing.B) {
				r := httptest.NewRequest("GET", "http://example.com/page?q=1", nil)
				r.Header.Set("Accept-Encoding", "gzip, br")
				r.Header.Set("User-Agent", "bench")
				h.ServeHTTP(httptest.NewRecorder(), r)
				w := &httpNull{http.Header{}}
				b.ReportAllocs()
				for b.Loop() {
					clear(w.h)
					h.ServeHTTP(w, r)
				}
			})
		}
	}
}

// BenchmarkHTTPHitOfAMillion hits one of a million stored responses, at random.
// The requests are put together from two thousand strings, so that the only
// memory that is far away is the cache's. "loop" is what the benchmark itself
// takes: a handler that does nothing.
func BenchmarkHTTPHitOfAMillion(b *testing.B) {
	var parts [1000]string
	for i := range parts {
		parts[i] = fmt.Sprint(i)
	}
	for _, k := range []struct {
		name string
		n    int
		h    http.Handler
	}{
		{"loop", 1, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})},
		{"1000", 1000, cache.MustNew(cache.Config{}).Handler(httpOrigin(16))},
		{"1000000", 1_000_000, cache.MustNew(cache.Config{MaxBytes: 4 << 30}).Handler(httpOrigin(16))},
	} {
		r := httptest.NewRequest("GET", "http://example.com/page", nil)
		w := &httpNull{http.Header{}}
		ask := func(i int) {
			r.URL.Path, r.URL.RawQuery = parts[i/1000], parts[i%1000]
			clear(w.h)
			k.h.ServeHTTP(w, r)
		}
		for i := range k.n {
			ask(i)
		}
		b.Run(k.name, func(b *testing.B) {
			b.ReportAllocs()
			for x := uint64(1); b.Loop(); {
				x = x*6364136223846793005 + 1442695040888963407
				ask(int(x >> 33 % uint64(k.n)))
			}
		})
	}
}

func BenchmarkHTTPTransportHit(b *testing.B) {
	next := httptest.NewServer(httpOrigin(1 << 10))
	defer next.Close()
	for _, rival := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"spillway", cache.MustNew(cache.Config{}).Transport(nil)},
		{"gregjones", httpcache.NewMemoryCacheTransport()},
	} {
		b.Run(rival.name, func(b *testing.B) {
			r := httptest.NewRequest("GET", next.URL, nil)
			r.RequestURI = ""
			b.ReportAllocs()
			for b.Loop() {
				resp, err := rival.rt.RoundTrip(r)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
}

// BenchmarkHTTPLoopback asks over 32 connections, with a client that does as
// little as it can. Compare the requests per second of one run.
func BenchmarkHTTPLoopback(b *testing.B) {
	for _, size := range []int{1 << 10, 100 << 10} {
		for _, rival := range httpRivals {
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, rival.name), func(b *testing.B) {
				srv := httptest.NewServer(rival.wrap(httpOrigin(size)))
				defer srv.Close()
				var left atomic.Int64
				left.Store(int64(b.N))
				var wg sync.WaitGroup
				b.ResetTimer()
				for range 32 {
					wg.Go(func() { httpAsk(b, srv.Listener.Addr().String(), &left) })
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
			})
		}
	}
}

func httpAsk(b *testing.B, addr string, left *atomic.Int64) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Error(err)
		return
	}
	defer conn.Close()
	br := bufio.NewReaderSize(conn, 64<<10)
	for left.Add(-1) >= 0 {
		io.WriteString(conn, "GET /page HTTP/1.1\r\nHost: example.com\r\nUser-Agent: b\r\n\r\n")
		length := 0
		for {
			line, err := br.ReadSlice('\n')
			if err != nil {
				b.Error(err)
				return
			}
			if len(line) <= 2 {
				break
			}
			fmt.Sscanf(string(line), "Content-Length: %d", &length)
		}
		if _, err := br.Discard(length); err != nil {
			b.Error(err)
			return
		}
	}
}

// TestHTTPBurst prints what collapsing costs and saves: calls of the origin
// for 1000 misses at once, wrong bodies for 200 users of a private page, good
// answers of 50 when the first client hangs up, and the rate of a URL that
// can't be cached as a share of what the origin gives. The origin sleeps on the
// real clock: a rival holds a mutex meanwhile, and in a bubble time stands still
// while anybody waits for one.
func TestHTTPBurst(t *testing.T) {
	for _, rival := range httpRivals {
		calls, wrong := httpStorm(rival.wrap, 1000, "max-age=60", false), httpStorm(rival.wrap, 200, "private", true)
		good, goodCalls := httpHangUp(rival.wrap)
		rate := httpUncacheable(rival.wrap) / httpUncacheable(httpRivals[0].wrap)
		t.Logf("%-9s 1000 misses: %4d calls | private: %3d of 200 wrong | first hangs up: %2d of 50 good, %2d calls | uncacheable: %3.0f %% of direct",
			rival.name, calls, wrong, good, goodCalls, 100*rate)
		if rival.name == "spillway" {
			require.Equal(t, 1, calls)
			require.Zero(t, wrong)
			require.Equal(t, 50, good)
			require.Equal(t, 1, goodCalls)
		}
	}
}

// httpStorm sends n requests at once and returns how often the origin was
// called, or how many users got another's body.
func httpStorm(wrap func(http.Handler) http.Handler, n int, cc string, wrong bool) int {
	var calls, bad atomic.Int64
	h := wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		time.Sleep(100 * time.Millisecond)
		w.Header().Set("Cache-Control", cc)
		io.WriteString(w, "for "+r.Header.Get("Cookie"))
	}))
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			r := httptest.NewRequest("GET", "http://example.com/page", nil)
			r.Header.Set("Cookie", fmt.Sprint("user=", i))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Body.String() != "for "+r.Header.Get("Cookie") {
				bad.Add(1)
			}
		})
	}
	wg.Wait()
	if wrong {
		return int(bad.Load())
	}
	return int(calls.Load())
}

// httpHangUp has the first of 51 clients hang up when the others wait for the
// same call, and returns how many of those got a good answer, and from how many
// calls.
func httpHangUp(wrap func(http.Handler) http.Handler) (good, calls int) {
	var n, ok, asked atomic.Int64
	called, answered, all := make(chan struct{}), make(chan struct{}), make(chan struct{})
	answer := sync.OnceFunc(func() { close(answered) })
	h := wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			close(called)
		}
		select {
		case <-time.After(100 * time.Millisecond):
			answer()
			w.Header().Set("Cache-Control", "max-age=60")
			io.WriteString(w, "good")
		case <-r.Context().Done():
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://example.com/page", nil).WithContext(ctx))
	})
	<-called
	for range 50 {
		wg.Go(func() {
			waits := sync.OnceFunc(func() {
				if asked.Add(1) == 50 {
					close(all)
				}
			})
			r := httptest.NewRequest("GET", "http://example.com/page", nil)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r.WithContext(watched{r.Context(), waits}))
			if w.Code == 200 && w.Body.String() == "good" {
				ok.Add(1)
			}
		})
	}
	select {
	case <-all:
	case <-answered: // they wait without a look at their contexts
	}
	cancel()
	wg.Wait()
	return int(ok.Load()), int(n.Load())
}

// A watched context tells when somebody waits for it to end.
type watched struct {
	context.Context
	waits func()
}

func (c watched) Done() <-chan struct{} {
	c.waits()
	return c.Context.Done()
}

// httpUncacheable returns how many requests a second 50 clients get answered
// by an origin that takes 50 ms and forbids caching.
func httpUncacheable(wrap func(http.Handler) http.Handler) float64 {
	h := wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(50 * time.Millisecond)
		w.Header().Set("Cache-Control", "no-store")
		io.WriteString(w, "x")
	}))
	var n atomic.Int64
	end := time.Now().Add(2 * time.Second)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for time.Now().Before(end) {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://example.com/page", nil))
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / 2
}
