package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/sony/gobreaker/v2"
)

// bench runs fn serially and in parallel.
func bench(b *testing.B, fn func()) {
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			fn()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				fn()
			}
		})
	})
}

// BenchmarkGobreaker is what the others are compared with: gobreaker's own call
// with a rolling window.
func BenchmarkGobreaker(b *testing.B) {
	settings := gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: time.Second}
	fn := func() (int, error) { return 1, nil }
	cb := gobreaker.NewCircuitBreaker[int](settings)
	b.Run("closed", func(b *testing.B) { bench(b, func() { _, _ = cb.Execute(fn) }) })
	for range 6 {
		_, _ = cb.Execute(func() (int, error) { return 0, errors.New("down") })
	}
	b.Run("open", func(b *testing.B) { bench(b, func() { _, _ = cb.Execute(fn) }) })
}

func BenchmarkDo(b *testing.B) {
	br := breaker.MustNew(breaker.Config{Name: "inventory"})
	ctx := context.Background()
	fn := func(context.Context) (int, error) { return 1, nil }
	b.Run("closed", func(b *testing.B) { bench(b, func() { _, _ = breaker.Do(ctx, br, fn) }) })
	br.ForceOpen(0, "benchmark")
	b.Run("forced", func(b *testing.B) { bench(b, func() { _, _ = breaker.Do(ctx, br, fn) }) })

	br = breaker.MustNew(breaker.Config{OpenFor: time.Hour, ConsecutiveFailures: 1})
	_, _ = breaker.Do(ctx, br, func(context.Context) (int, error) { return 0, errors.New("down") })
	b.Run("open", func(b *testing.B) { bench(b, func() { _, _ = breaker.Do(ctx, br, fn) }) })
}

func BenchmarkAllow(b *testing.B) {
	br := breaker.MustNew(breaker.Config{Name: "inventory"})
	ctx := context.Background()
	bench(b, func() {
		if done, err := br.Allow(ctx); err == nil {
			done(nil)
		}
	})
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkHandler(b *testing.B) {
	h := breaker.MustNew(breaker.Config{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
	}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	w := discard{http.Header{}}
	bench(b, func() { h.ServeHTTP(w, r) })
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type emptyBody struct{ *strings.Reader }

func (emptyBody) Close() error { return nil }

func BenchmarkTransport(b *testing.B) {
	shared := emptyBody{strings.NewReader("")}
	rt := breaker.MustNew(breaker.Config{}).Transport(roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: shared}, nil // 1 allocation
	}))
	for _, hosts := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%dhosts", hosts), func(b *testing.B) {
			var reqs []*http.Request
			for i := range hosts {
				reqs = append(reqs, httptest.NewRequest(http.MethodGet, fmt.Sprintf("http://host%d/", i), nil))
			}
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				resp, _ := rt.RoundTrip(reqs[i%len(reqs)])
				_ = resp.Body.Close()
				i++
			}
		})
	}
}
