package ratelimit_test

import (
	"flag"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
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
// many seldom (Zipf, 1.1). With a token every 4 milliseconds, one in four has
// paid its debt when it comes again, and spillway has forgotten it; with one
// every half minute all are in debt throughout.
//
// The rivals take turns of some tens of milliseconds, each round in another
// order, so that what else the machine does falls on all alike. It prints the
// median turn of each, the best, and the median of how much longer each took
// than spillway in the same round. Run it alone:
//
//	go test ./ratelimit -figures -run MillionKeys -v
//
// Keys come in two ways. "As from requests": strings made a moment ago, as a
// server makes them of what it has just read; a limiter that keeps keys compares
// them with copies of its own. "Its own": the strings that it was filled with,
// which no server has at hand: that spares a map the reading of its copy, since
// equal pointers are equal strings, and charges everybody with fetching keys
// from all over the memory. "nothing" is what the test itself costs.
func TestMillionKeys(t *testing.T) {
	needFigures(t)
	t.Run("forgotten", func(t *testing.T) { millionKeys(t, time.Hour) })
	t.Run("in debt", func(t *testing.T) { millionKeys(t, 365*24*time.Hour) })
}

// millionKeys does so with a million tokens per period.
func millionKeys(t *testing.T, per time.Duration) {
	const n, turn, rounds = 1 << 20, 100_000, 20
	keys := make([]string, n)
	for i := range keys {
		keys[i] = "client-" + strconv.Itoa(i)
	}
	order := make([]uint32, n)
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, n-1)
	for i := range order {
		order[i] = uint32(zipf.Uint64())
	}
	nothing := limiter{"nothing", func(int, time.Duration, int) func(string) bool {
		return func(key string) bool { return key[len(key)-1] != 0 }
	}}
	rivals := append(slices.Clone(limiters), nothing)
	allow := make([]func(string) bool, len(rivals))
	for i, l := range rivals {
		allow[i] = l.make(1_000_000, per, 2*n)
		for _, k := range keys {
			allow[i](k)
		}
	}
	asked := make([]string, 2*turn)
	for _, cores := range []int{1, 2} {
		for _, fresh := range []bool{true, false} {
			runtime.GC()
			took := make([][]float64, len(rivals))
			for round := range rounds {
				for i := range rivals {
					i = (i + round) % len(rivals)
					for j := range asked {
						asked[j] = keys[order[(2*turn*round+j)%n]]
					}
					if fresh {
						text := strings.Join(asked, "")
						for j, k := range asked {
							asked[j], text = text[:len(k)], text[len(k):]
						}
					}
					start := time.Now()
					var wg sync.WaitGroup
					for c := range cores {
						wg.Go(func() {
							for _, k := range asked[c*turn : (c+1)*turn] {
								allow[i](k)
							}
						})
					}
					wg.Wait()
					took[i] = append(took[i], float64(time.Since(start).Nanoseconds())/float64(turn*cores))
				}
			}
			way := map[bool]string{true: "as from requests", false: "its own"}[fresh]
			for i, l := range rivals {
				ratios := make([]float64, rounds)
				for r := range ratios {
					ratios[r] = took[i][r] / took[0][r]
				}
				slices.Sort(ratios)
				sorted := slices.Sorted(slices.Values(took[i]))
				t.Logf("%d cores, keys %-16s: %-16s median %4.0f ns, best %4.0f ns; %.2f times spillway", cores, way, l.name, sorted[rounds/2], sorted[0], ratios[rounds/2])
				if fresh && l.name != "spillway" && l.name != "nothing" {
					require.GreaterOrEqual(t, ratios[rounds/2], 1.5, l.name)
				}
			}
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
// admits under contention: at most 1 of what could have come in by the end,
// and at least 0.99 of what had come in when somebody was last refused. Before
// a refusal there can be no tokens left over, however seldom a busy machine
// let us ask. Spillway must keep to both; the others are shown.
func TestAccuracy(t *testing.T) {
	needFigures(t)
	for _, c := range []struct{ perSecond, goroutines int }{{1000, 8}, {100_000, 64}, {1_000_000, 64}} {
		for _, l := range limiters {
			allow := l.make(c.perSecond, time.Second, 1<<16)
			var admitted, offered, refused atomic.Int64 // refused: the latest time when somebody was, or before
			start := time.Now()
			var wg sync.WaitGroup
			for range c.goroutines {
				wg.Go(func() {
					for now := time.Duration(0); now < 1500*time.Millisecond; now = time.Since(start) {
						n := int64(0)
						for range 100 {
							if allow("hot") {
								n++
							}
						}
						admitted.Add(n)
						offered.Add(100)
						if n < 100 {
							for last := refused.Load(); int64(now) > last && !refused.CompareAndSwap(last, int64(now)); last = refused.Load() {
							}
						}
					}
				})
			}
			wg.Wait()
			bound := func(d time.Duration) float64 { return float64(c.perSecond) * (1 + d.Seconds()) }
			most, least := bound(time.Since(start)), bound(time.Duration(refused.Load()))
			got := float64(admitted.Load())
			t.Logf("%7d/s, %2d goroutines: %-16s admitted/bound %.4f by the end, %.4f by the last refusal (offered/bound %.1f)", c.perSecond, c.goroutines, l.name, got/most, got/least, float64(offered.Load())/most)
			if l.name == "spillway" {
				require.LessOrEqual(t, got/most, 1.0)
				if refused.Load() == 0 {
					t.Log("too little was offered to show that no less is admitted")
					continue
				}
				require.GreaterOrEqual(t, got/least, 0.99)
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
