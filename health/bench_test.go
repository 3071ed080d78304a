package health_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/go-spillway/spillway/health"
)

// ready returns a handler with ten checks that have passed, and a request.
func ready(b *testing.B) (http.Handler, *http.Request) {
	var calls atomic.Int64
	h := tenChecks(&calls)
	go func() { _ = h.Run(b.Context()) }()
	for !h.Ready() {
	}
	return h.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})), httptest.NewRequest("GET", "/readyz", nil)
}

// BenchmarkProbe is one readiness probe with ten checks.
func BenchmarkProbe(b *testing.B) {
	b.Run("serial", func(b *testing.B) {
		front, r := ready(b)
		w := &bare{header: http.Header{}}
		b.ReportAllocs()
		for b.Loop() {
			front.ServeHTTP(w, r)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		front, r := ready(b)
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			w := &bare{header: http.Header{}}
			for pb.Next() {
				front.ServeHTTP(w, r)
			}
		})
	})
}

// BenchmarkRequest is what every other request pays.
func BenchmarkRequest(b *testing.B) {
	front, _ := ready(b)
	// Serve puts into the context of a connection what this one has found out
	// about its own.
	var r *http.Request
	health.MustNew(health.Config{}).Handler(http.HandlerFunc(func(_ http.ResponseWriter, inner *http.Request) { r = inner })).
		ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	b.Run("serial", func(b *testing.B) {
		w := &bare{header: http.Header{}}
		b.ReportAllocs()
		for b.Loop() {
			front.ServeHTTP(w, r)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			w := &bare{header: http.Header{}}
			for pb.Next() {
				front.ServeHTTP(w, r)
			}
		})
	})
}

// BenchmarkWatched is the same with a dashboard that nobody looks at and a
// handler of metrics that nobody asks, which keep a history in the background.
func BenchmarkWatched(b *testing.B) {
	for _, watched := range []bool{false, true} {
		b.Run(map[bool]string{false: "without", true: "with"}[watched], func(b *testing.B) {
			var calls atomic.Int64
			h := tenChecks(&calls)
			if watched {
				health.Dashboard(h)
				health.Metrics(h)
			}
			go func() { _ = h.Run(b.Context()) }()
			for !h.Ready() {
			}
			front := h.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			r := httptest.NewRequest("GET", "/", nil)
			w := &bare{header: http.Header{}}
			for b.Loop() {
				front.ServeHTTP(w, r)
			}
		})
	}
}

func BenchmarkBeat(b *testing.B) {
	beat := new(health.Beat)
	b.ReportAllocs()
	for b.Loop() {
		beat.Touch()
	}
}

// BenchmarkMetrics is one scrape of a Checker with ten checks and the process.
func BenchmarkMetrics(b *testing.B) {
	var calls atomic.Int64
	metrics := health.Metrics(tenChecks(&calls))
	r := httptest.NewRequest("GET", "/metrics", nil)
	b.ReportAllocs()
	for b.Loop() {
		metrics.ServeHTTP(&bare{header: http.Header{}}, r)
	}
}
