// A thread is asked for its processor time.

//go:build unix

package chain

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/ratelimit"
)

// cpu is the processor time that this thread has used. Unlike the wall clock it
// stands still while others have the processor.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(1, &u) // RUSAGE_THREAD
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perCall is the processor time of one call, of the fastest of five runs, and
// what it allocates, and how many bytes that is.
func perCall(n int, call func(i int)) (ns, allocs, bytes float64) {
	const calls = 20_000
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	i := 0
	next := func() { call(i % n); i += 7919 }
	for range 5 {
		began := cpu()
		for range calls {
			next()
		}
		if took := float64(cpu()-began) / calls; ns == 0 || took < ns {
			ns = took
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range calls {
		next()
	}
	runtime.ReadMemStats(&after)
	return ns, testing.AllocsPerRun(1000, next), float64(after.TotalAlloc-before.TotalAlloc) / calls
}

func plainRequest() *http.Request {
	return httptest.NewRequest("GET", "http://api.example/product/42", nil)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func none(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
}

// What grows: made with n of it, a call for number i, and a check that all n
// are there.
var growing = []struct {
	name  string
	n     int
	bytes float64 // at most, for each
	make  func(n int) (call func(i int), there func(t *testing.T), keep any)
}{
	{"keys of the limiter", 1_000_000, 48, func(n int) (func(int), func(*testing.T), any) {
		rate := ratelimit.PerSecond(2000)
		rate.Per = 24 * time.Hour // a bucket in debt is held, one that is full again need not be
		lim := ratelimit.MustNew(ratelimit.Config{Rate: rate, Key: ratelimit.ClientIP()})
		h := lim.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		w, r := &blank{http.Header{}}, plainRequest()
		return func(i int) {
				clear(w.header)
				r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:80", i>>16, i>>8&255, i&255)
				h.ServeHTTP(w, r)
			}, func(t *testing.T) {
				s := lim.Stats()
				require.InDelta(t, n, s.Keys, float64(n)/100)
				require.Zero(t, s.Refused)
			}, lim
	}},
	{"cached objects", 1_000_000, 800, func(n int) (func(int), func(*testing.T), any) {
		pages := cache.MustNew(cache.Config{MaxBytes: 4 << 30})
		h := pages.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Cache-Control"] = []string{"max-age=3600"}
			io.WriteString(w, "a small response")
		}))
		w, r := &blank{http.Header{}}, plainRequest()
		return func(i int) {
				clear(w.header)
				r.URL.Path = "/" + strconv.Itoa(10_000_000+i)
				h.ServeHTTP(w, r)
			}, func(t *testing.T) {
				s := pages.Stats()
				require.Equal(t, n, s.Entries)
				require.EqualValues(t, n, s.Misses)
				require.Zero(t, s.Evicted)
			}, pages
	}},
	{"backends", 1000, 1300, func(n int) (func(int), func(*testing.T), any) {
		urls := make([]string, n)
		for i := range urls {
			urls[i] = fmt.Sprintf("http://10.0.%d.%d:8080", i>>8, i&255)
		}
		pool := balancer.MustNew(balancer.Config{Backends: balancer.URLs(urls...)})
		rt := pool.Transport(roundTrip(none))
		r := plainRequest()
		return func(int) {
				resp, err := rt.RoundTrip(r)
				if err != nil {
					panic(err)
				}
				resp.Body.Close()
			}, func(t *testing.T) {
				require.Equal(t, n, pool.Stats().Available)
				require.Zero(t, pool.Stats().InFlight)
			}, pool
	}},
	{"hosts of the breaker", 100_000, 1800, func(n int) (func(int), func(*testing.T), any) {
		b := breaker.MustNew(breaker.Config{MaxKeys: 2 * n})
		rt := b.Transport(roundTrip(none))
		r := plainRequest()
		return func(i int) {
				r.URL.Host = "host-" + strconv.Itoa(10_000_000+i)
				resp, err := rt.RoundTrip(r)
				if err != nil {
					panic(err)
				}
				resp.Body.Close()
			}, func(t *testing.T) {
				require.Equal(t, n, b.Stats().Keys)
				require.Zero(t, b.Stats().Refused)
			}, b
	}},
}

// TestScale makes many of what grows, and looks at what each takes and at what
// a call costs then. It logs rows of a table. The times are for reading; what
// is wanted is that memory grows with the number and no faster, that a call
// allocates no more among many than among few, and that calls leave nothing
// behind.
func TestScale(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has allocations and a heap of its own")
	}
	for _, g := range growing {
		t.Run(g.name, func(t *testing.T) {
			n := g.n
			if !*scale {
				n = max(g.n/100, 100)
			}
			few := max(n/100, 10)
			var ns, allocs, bytes [2]float64
			var each, left float64
			for i, n := range []int{few, n} {
				before := heap()
				call, there, keep := g.make(n)
				for j := range n {
					call(j)
				}
				each = (heap() - before) / float64(n)
				there(t)
				full := heap()
				ns[i], allocs[i], bytes[i] = perCall(n, call)
				left = heap() - full
				there(t)
				runtime.KeepAlive(keep)
			}
			t.Logf("| %d %s | %.0f B each, %.1f MB | %.0f ns a call; among %d: %.0f ns |", n, g.name, each, each*float64(n)/1e6, ns[1], few, ns[0])
			require.Less(t, each, g.bytes, "bytes for each")
			require.LessOrEqual(t, allocs[1], allocs[0]+0.5, "a call allocates no more among many")
			require.LessOrEqual(t, bytes[1], bytes[0]+64, "nor more bytes")
			require.Less(t, left, 128e3, "bytes that 100,000 calls and more left behind")
		})
	}
}
