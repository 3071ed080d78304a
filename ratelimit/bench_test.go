package ratelimit_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-spillway/spillway/ratelimit"
)

var plenty = ratelimit.Rate{Requests: 1_000_000, Per: time.Millisecond, Burst: 1_000_000}

// BenchmarkClock is what hot keys are measured against.
func BenchmarkClock(b *testing.B) {
	for b.Loop() {
		_ = time.Now()
	}
}

func BenchmarkAllow(b *testing.B) {
	ctx := context.Background()
	for _, c := range []struct {
		name string
		rate ratelimit.Rate
	}{{"admitted", plenty}, {"refused", ratelimit.PerDay(1)}} {
		name, rate := c.name, c.rate
		b.Run("hot/"+name+"/serial", func(b *testing.B) {
			l := ratelimit.MustNew(ratelimit.Config{Rate: rate})
			b.ReportAllocs()
			for b.Loop() {
				l.Allow(ctx, "203.0.113.9", 1)
			}
		})
		b.Run("hot/"+name+"/parallel", func(b *testing.B) {
			l := ratelimit.MustNew(ratelimit.Config{Rate: rate})
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					l.Allow(ctx, "203.0.113.9", 1)
				}
			})
		})
	}
	b.Run("two rates/serial", func(b *testing.B) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: plenty, Also: []ratelimit.Rate{plenty}})
		b.ReportAllocs()
		for b.Loop() {
			l.Allow(ctx, "203.0.113.9", 1)
		}
	})
	keys := make([]string, 1<<20)
	for i := range keys {
		keys[i] = "client-" + strconv.Itoa(i)
	}
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, uint64(len(keys)-1))
	order := make([]uint32, 1<<20)
	for i := range order {
		order[i] = uint32(zipf.Uint64())
	}
	million := func(b *testing.B) *ratelimit.Limiter {
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1 << 30), MaxKeys: 1 << 21})
		for _, k := range keys {
			l.Allow(ctx, k, 1<<29)
		}
		b.ReportAllocs()
		b.ResetTimer()
		return l
	}
	b.Run("zipf/serial", func(b *testing.B) {
		l, i := million(b), 0
		for b.Loop() {
			l.Allow(ctx, keys[order[i&(len(order)-1)]], 1)
			i++
		}
	})
	b.Run("zipf/parallel", func(b *testing.B) {
		l := million(b)
		var start atomic.Int64
		b.RunParallel(func(pb *testing.PB) {
			for i := int(start.Add(77777)); pb.Next(); i++ {
				l.Allow(ctx, keys[order[i&(len(order)-1)]], 1)
			}
		})
	})
}

// BenchmarkFullTable decides for keys that have no bucket when a million others
// are in debt: there is no room to find, and no pause to look for it.
func BenchmarkFullTable(b *testing.B) {
	const n = 1 << 20
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1 << 30), MaxKeys: n})
	for i := range n {
		l.Allow(context.Background(), "debtor-"+strconv.Itoa(i), 1<<29)
	}
	fresh := make([]string, n)
	for i := range fresh {
		fresh[i] = "fresh-" + strconv.Itoa(i)
	}
	var longest time.Duration
	i := 0
	for b.Loop() {
		start := time.Now()
		l.Allow(context.Background(), fresh[i%n], 1)
		longest = max(longest, time.Since(start))
		i++
	}
	b.ReportMetric(float64(longest.Nanoseconds()), "longest-ns")
	if s := l.Stats(); s.Overflowed == 0 || s.Keys > n {
		b.Fatal("the table is not full of debts")
	}
}

type nowhere struct{ h http.Header }

func (w nowhere) Header() http.Header         { return w.h }
func (w nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w nowhere) WriteHeader(int)             {}

func BenchmarkHandler(b *testing.B) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	for _, c := range [][2]string{{"ipv4", "203.0.113.9:4711"}, {"ipv6", "[2001:db8:1:2:3:4:5:6]:4711"}} {
		name, remote := c[0], c[1]
		run := func(name string, h http.Handler) {
			b.Run(name, func(b *testing.B) {
				r := httptest.NewRequest("GET", "/", nil)
				r.RemoteAddr = remote
				w := nowhere{make(http.Header)}
				b.ReportAllocs()
				for b.Loop() {
					clear(w.h)
					h.ServeHTTP(w, r)
				}
			})
		}
		run(name+"/bare", next)
		run(name+"/allowed", ratelimit.MustNew(ratelimit.Config{Rate: plenty}).Handler(next))
		run(name+"/refused", ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerDay(1)}).Handler(next))
	}
}
