package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// heap returns the bytes in use.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestTheHeapStaysNearItsBound(t *testing.T) {
	urls, bound := 20_000, int64(8<<20)
	if os.Getenv("SPILLWAY_MILLION") != "" {
		urls, bound = 1_000_000, 256<<20
	}
	for _, size := range []int{0, 100, 3000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			body := make([]byte, size)
			before := heap()
			c := cache.MustNew(cache.Config{MaxBytes: bound})
			h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=3600")
				w.Header().Set("Etag", fmt.Sprintf("%q", r.URL.Path))
				w.Header().Set("Cache-Tag", "all "+r.URL.Path)
				w.Header().Set("Vary", "Accept-Encoding")
				w.Write(body)
			}))
			r := benchRequest(page)
			for i := range urls {
				r.URL.Path = fmt.Sprint("/some/path/to/an/object/", i)
				h.ServeHTTP(&nullWriter{http.Header{}}, r)
			}
			used := heap() - before
			s := c.Stats()
			t.Logf("%d entries say %d MiB, the heap has %d MiB, bound %d MiB, %.2fx", s.Entries, s.Bytes>>20, used>>20, bound>>20, float64(used)/float64(bound))
			require.LessOrEqual(t, s.Bytes, bound)
			require.Less(t, float64(used), 1.2*float64(bound))
			require.Greater(t, s.Evicted, uint64(0))
			runtime.KeepAlive(h)
		})
	}
}

func TestVariantsOfOneURLAreBounded(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60", "Vary", "User-Agent")
	c := cache.MustNew(cache.Config{MaxVariants: 4})
	h := c.Handler(o)
	for i := range 100 {
		get(h, page, "User-Agent", fmt.Sprint(i))
	}
	require.Equal(t, 4, c.Stats().Entries)
	require.Contains(t, status(get(h, page, "User-Agent", "99")), "hit")
}

func TestBodiesOnTheirWayShareABudget(t *testing.T) {
	// Sixteen responses of 1 MiB at once, where 2 MiB may be held: those that
	// are too many are sent but not stored, and nothing waits.
	gate, end := make(chan struct{}), make(chan struct{})
	var sent atomic.Int64
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, "x")
		<-gate
		w.Write(make([]byte, 1<<20-1))
		sent.Add(1)
		<-end
	}
	c := cache.MustNew(cache.Config{MaxBytes: 8 << 20, MaxBodyBytes: 1 << 20})
	h := c.Handler(o)
	done := make(chan int, 16)
	for i := range 16 {
		go func() { done <- get(h, fmt.Sprint("http://example.com/", i)).Body.Len() }()
	}
	for o.calls.Load() < 16 {
		runtime.Gosched()
	}
	close(gate)
	for sent.Load() < 16 {
		runtime.Gosched()
	}
	close(end)
	for range 16 {
		require.Equal(t, 1<<20, <-done)
	}
	require.LessOrEqual(t, c.Stats().Bytes, int64(8<<20))
	require.LessOrEqual(t, c.Stats().Entries, 2)
}
