package ratelimit_test

import (
	"flag"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var figures = flag.Bool("figures", false, "measure what takes tens of seconds")

func needFigures(t *testing.T) {
	if !*figures {
		t.Skip("takes long: ask for it with -figures")
	}
}

// plenty is a limit that a benchmark does not reach.
const plenty = 100_000_000

// BenchmarkClock is what a hot key is measured against.
func BenchmarkClock(b *testing.B) {
	for b.Loop() {
		_ = time.Now()
	}
}

// BenchmarkHotKey decides for one key. With -cpu 2, two cores fight for it.
func BenchmarkHotKey(b *testing.B) {
	for _, l := range limiters {
		b.Run(l.name, func(b *testing.B) {
			allow := l.make(plenty, time.Second, 1<<16)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					allow("203.0.113.9")
				}
			})
		})
	}
}

// TestMillionKeys decides for a million keys, drawn as clients are: few often,
// many seldom (Zipf, 1.1). The rivals take turns of some milliseconds, so that
// what else the machine does falls on all alike. It prints the median turn of
// each and the best. Run it alone:
//
//	go test ./ratelimit -figures -run MillionKeys -v
func TestMillionKeys(t *testing.T) {
	needFigures(t)
	const n, turn, turns = 1 << 20, 20_000, 60
	keys := make([]string, n)
	for i := range keys {
		keys[i] = "client-" + strconv.Itoa(i)
	}
	order := make([]uint32, n)
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, n-1)
	for i := range order {
		order[i] = uint32(zipf.Uint64())
	}
	for _, cores := range []int{1, 2} {
		allow := make([]func(string) bool, len(limiters))
		took := make([][]float64, len(limiters))
		for i, l := range limiters {
			allow[i] = l.make(100_000, time.Hour, 2*n)
			for _, k := range keys {
				allow[i](k)
			}
		}
		runtime.GC()
		for round := range turns {
			for i := range limiters {
				start := time.Now()
				var wg sync.WaitGroup
				for c := range cores {
					at := (round*cores + c) * turn
					wg.Go(func() {
						for j := at; j < at+turn; j++ {
							allow[i](keys[order[j&(n-1)]])
						}
					})
				}
				wg.Wait()
				took[i] = append(took[i], float64(time.Since(start).Nanoseconds())/float64(turn*cores))
			}
		}
		for i, l := range limiters {
			slices.Sort(took[i])
			t.Logf("%d cores: %-16s median %6.0f ns, best %6.0f ns", cores, l.name, took[i][turns/2], took[i][0])
		}
	}
}

type nowhere struct{ h http.Header }

func (w nowhere) Header() http.Header         { return w.h }
func (w nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w nowhere) WriteHeader(int)             {}

// BenchmarkMiddleware serves an allowed request with the header fields that
// each rival sends.
func BenchmarkMiddleware(b *testing.B) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for _, m := range middlewares {
		b.Run(m.name, func(b *testing.B) {
			h := m.make(plenty)(next)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				r := httptest.NewRequest("GET", "/", nil)
				r.RemoteAddr = "203.0.113.9:4711"
				w := nowhere{make(http.Header)}
				for pb.Next() {
					clear(w.h)
					h.ServeHTTP(w, r)
				}
			})
		})
	}
}

// TestHeap prints what a million keys cost in memory and in garbage
// collection. Run it alone:
//
//	go test ./ratelimit -figures -run Heap -v
func TestHeap(t *testing.T) {
	needFigures(t)
	const n = 1_000_000
	keys := make([]string, n)
	for i := range keys {
		keys[i] = "client-" + strconv.Itoa(i)
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for _, l := range limiters {
		before := heap()
		gc := time.Now()
		runtime.GC()
		idle := time.Since(gc)
		allow := l.make(1000, time.Hour, n)
		for _, k := range keys {
			allow(k)
		}
		perKey := float64(heap()-before) / n
		gc = time.Now()
		runtime.GC()
		t.Logf("%-16s %6.1f bytes a key, a forced GC %6.1f ms (without it %.1f ms)", l.name, perKey, time.Since(gc).Seconds()*1e3, idle.Seconds()*1e3)
		if l.name == "spillway" {
			require.LessOrEqual(t, perKey, 24.0)
		}
		runtime.KeepAlive(allow)
	}
	runtime.KeepAlive(keys)
}

// TestAccuracy prints how much of the exact bound, burst + rate*time, each
// admits under contention. Spillway must not exceed it; the others are shown.
func TestAccuracy(t *testing.T) {
	needFigures(t)
	for _, c := range []struct{ perSecond, goroutines int }{{1000, 8}, {100_000, 64}, {1_000_000, 64}} {
		for _, l := range limiters {
			allow := l.make(c.perSecond, time.Second, 1<<16)
			var admitted, offered atomic.Int64
			start := time.Now()
			var wg sync.WaitGroup
			for range c.goroutines {
				wg.Go(func() {
					for time.Since(start) < time.Second {
						n := int64(0)
						for range 100 {
							if allow("hot") {
								n++
							}
						}
						admitted.Add(n)
						offered.Add(100)
					}
				})
			}
			wg.Wait()
			bound := float64(c.perSecond) * (1 + time.Since(start).Seconds())
			ratio := float64(admitted.Load()) / bound
			t.Logf("%7d/s, %2d goroutines: %-16s admitted/bound %.3f (offered/bound %.1f)", c.perSecond, c.goroutines, l.name, ratio, float64(offered.Load())/bound)
			if l.name == "spillway" {
				require.LessOrEqual(t, ratio, 1.0)
			}
		}
	}
}

// TestFlood exhausts a key, floods the limiter with ten times as many other
// keys as it may keep, and asks again.
func TestFlood(t *testing.T) {
	const maxKeys = 1 << 14
	for _, l := range limiters {
		allow := l.make(1, time.Second, maxKeys)
		start := time.Now()
		allow("victim")
		for i := range 10 * maxKeys {
			allow("flood-" + strconv.Itoa(i))
		}
		again := allow("victim")
		if took := time.Since(start); took > time.Second {
			t.Logf("%-16s took %v: the victim's second is over, nothing is shown", l.name, took)
			continue
		}
		t.Logf("%-16s admits the victim again: %v", l.name, again)
		if l.name == "spillway" {
			require.False(t, again)
		}
	}
}
