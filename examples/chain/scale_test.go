// A thread is asked for its processor time.

//go:build unix

package chain

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/ratelimit"
)

var scale = flag.Bool("scale", false, "measure a million of everything, instead of a hundredth of it")

// heap is what lives on the heap.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// stacks is what the goroutines' stacks take.
func stacks() float64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.StackInuse)
}

// cpu is the processor time that this thread has used. Unlike the wall clock it
// stands still while others have the processor.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(1, &u) // RUSAGE_THREAD
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perCall is the processor time of one call, of the fastest of five runs, and
// what it allocates.
func perCall(n int, call func(i int)) (ns, allocs float64) {
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
	return ns, testing.AllocsPerRun(1000, next)
}

// sink is a ResponseWriter that costs nothing.
type sink struct{ header http.Header }

func (w *sink) Header() http.Header         { return w.header }
func (w *sink) Write(p []byte) (int, error) { return len(p), nil }
func (w *sink) WriteHeader(int)             {}

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
	{"keys of the limiter", 1_000_000, 128, func(n int) (func(int), func(*testing.T), any) {
		rate := ratelimit.PerSecond(2000)
		rate.Per = 24 * time.Hour // a bucket in debt is held, one that is full again need not be
		lim := ratelimit.MustNew(ratelimit.Config{Rate: rate, Key: ratelimit.ClientIP()})
		h := lim.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		w, r := &sink{http.Header{}}, plainRequest()
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
	{"cached objects", 1_000_000, 1500, func(n int) (func(int), func(*testing.T), any) {
		pages := cache.MustNew(cache.Config{MaxBytes: 4 << 30})
		h := pages.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Cache-Control"] = []string{"max-age=3600"}
			io.WriteString(w, "a small response")
		}))
		w, r := &sink{http.Header{}}, plainRequest()
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
	{"backends", 1000, 8 << 10, func(n int) (func(int), func(*testing.T), any) {
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
	{"hosts of the breaker", 100_000, 3 << 10, func(n int) (func(int), func(*testing.T), any) {
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
// is wanted is that memory grows with the number and no faster, and that a call
// allocates no more among many than among few.
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
			var ns, allocs [2]float64
			var each float64
			for i, n := range []int{few, n} {
				before := heap()
				call, there, keep := g.make(n)
				for j := range n {
					call(j)
				}
				each = (heap() - before) / float64(n)
				there(t)
				ns[i], allocs[i] = perCall(n, call)
				runtime.KeepAlive(keep)
			}
			t.Logf("| %d %s | %.0f B each, %.1f MB | %.0f ns a call; among %d: %.0f ns |", n, g.name, each, each*float64(n)/1e6, ns[1], few, ns[0])
			require.Less(t, each, g.bytes, "bytes for each")
			require.LessOrEqual(t, allocs[1], allocs[0]+0.5, "a call allocates no more among many")
		})
	}
}

// TestTenThousandStreams holds server-sent events open through the whole chain,
// by the bare handler and by the chain, and compares what each stream takes.
// Every stream gets every event, a normal request passes meanwhile, and nothing
// is left when the clients have gone.
func TestTenThousandStreams(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has a heap of its own")
	}
	n := 300
	if *scale {
		n = 10_000
	}
	each, stack := map[string]float64{}, map[string]float64{}
	var took [2]time.Duration
	for i, name := range []string{"bare", "chain"} {
		tick := make(chan struct{})
		events := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/events" {
				io.WriteString(w, "ok")
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-store")
			rc := http.NewResponseController(w)
			for {
				io.WriteString(w, "data: event\n\n")
				if rc.Flush() != nil {
					return
				}
				select {
				case <-tick:
				case <-r.Context().Done():
					return
				}
			}
		})
		p := newParts()
		p.shed = degrade.MustNew(degrade.Config{}) // streams give their slot back
		h := http.Handler(events)
		if name == "chain" {
			h = p.handler(h)
		}
		ln := newPipes()
		srv := &http.Server{Handler: h, ErrorLog: quiet}
		served := make(chan error)
		go func() { served <- srv.Serve(ln) }()

		goroutinesBefore, before, stacksBefore := runtime.NumGoroutine(), heap(), stacks()
		conns := make([]net.Conn, n)
		readers := make([]*bufio.Reader, n)
		for i := range conns {
			conns[i] = ln.dial()
			_, err := io.WriteString(conns[i], "GET /events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
			require.NoError(t, err)
			readers[i] = bufio.NewReaderSize(conns[i], 1024)
			requireEvent(t, readers[i])
		}
		each[name] = (heap() - before) / float64(n)
		stack[name] = (stacks() - stacksBefore) / float64(n)
		if name == "chain" {
			require.Equal(t, n, p.shed.Stats().Streams)
			require.Zero(t, p.shed.Stats().InFlight)
			require.Equal(t, 200, get(h, "/normal").Code)
		}
		began := time.Now()
		go func() { // one more event for everybody
			for range n {
				tick <- struct{}{}
			}
		}()
		var wg sync.WaitGroup
		missing := make(chan error, n)
		for _, r := range readers {
			wg.Go(func() {
				if err := readEvent(r); err != nil {
					missing <- err
				}
			})
		}
		wg.Wait()
		took[i] = time.Since(began)
		require.Empty(t, missing)
		for _, c := range conns {
			c.Close()
		}
		settles(t, "goroutines return", func() bool { return runtime.NumGoroutine() <= goroutinesBefore+5 })
		if name == "chain" {
			require.Zero(t, p.shed.Stats().Streams)
			require.Zero(t, p.health.Stats().InFlight)
			require.Zero(t, p.b.Stats().Failed, "a client that hangs up is no failure")
		}
		srv.Close()
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	}
	t.Logf("| %d streams of server-sent events | %.1f KB each and %.1f KB of stack, without the chain %.1f and %.1f | an event to all in %v; without the chain %v |",
		n, each["chain"]/1e3, stack["chain"]/1e3, each["bare"]/1e3, stack["bare"]/1e3, took[1].Round(time.Millisecond), took[0].Round(time.Millisecond))
	require.Less(t, each["chain"]-each["bare"], 8e3, "bytes of heap that the chain takes for a stream")
}

// readEvent reads to the end of the next event. The header of the response
// comes with the first.
func readEvent(r *bufio.Reader) error {
	for {
		line, err := r.ReadString('\n')
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(line, "HTTP/1.1 ") && !strings.HasPrefix(line, "HTTP/1.1 200"):
			return errors.New(line)
		case strings.HasPrefix(line, "data: event"):
			return nil
		}
	}
}

func requireEvent(t *testing.T, r *bufio.Reader) {
	t.Helper()
	require.NoError(t, readEvent(r))
}
