package degrade_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/go-spillway/spillway/degrade"
)

var nothing = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

func run(b *testing.B, f func()) {
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				f()
			}
		})
	})
}

func BenchmarkHandlerAlone(b *testing.B) {
	r := httptest.NewRequest("GET", "/", nil)
	var w writer
	run(b, func() { nothing.ServeHTTP(w, r) })
}

func BenchmarkAdmission(b *testing.B) {
	h := degrade.MustNew(degrade.Config{}).Handler(nothing)
	r := httptest.NewRequest("GET", "/", nil)
	var w writer
	run(b, func() { h.ServeHTTP(w, r) })
}

func BenchmarkAdmissionOfCritical(b *testing.B) {
	h := degrade.MustNew(degrade.Config{Priority: func(*http.Request) degrade.Priority { return degrade.Critical }}).Handler(nothing)
	r := httptest.NewRequest("GET", "/", nil)
	var w writer
	run(b, func() { h.ServeHTTP(w, r) })
}

func BenchmarkAcquire(b *testing.B) {
	shed := degrade.MustNew(degrade.Config{})
	ctx := context.Background()
	run(b, func() {
		if release, err := shed.Acquire(ctx, degrade.Normal); err == nil {
			release()
		}
	})
}

type writer struct{}

func (writer) Header() http.Header         { return http.Header{} }
func (writer) Write(b []byte) (int, error) { return len(b), nil }
func (writer) WriteHeader(int)             {}

type keep struct{ h http.Header }

func (k keep) Header() http.Header       { return k.h }
func (keep) Write(b []byte) (int, error) { return len(b), nil }
func (keep) WriteHeader(int)             {}

func BenchmarkRefusal(b *testing.B) {
	shed := degrade.MustNew(degrade.Config{Limit: 1, MaxWait: -1})
	release, _ := shed.Acquire(context.Background(), degrade.Normal)
	defer release()
	h := shed.Handler(nothing)
	b.Run("serial", func(b *testing.B) {
		w, r := keep{http.Header{}}, httptest.NewRequest("GET", "/", nil)
		b.ReportAllocs()
		for b.Loop() {
			h.ServeHTTP(w, r)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			w, r := keep{http.Header{}}, httptest.NewRequest("GET", "/", nil)
			for pb.Next() {
				h.ServeHTTP(w, r)
			}
		})
	})
}

func BenchmarkEnabled(b *testing.B) {
	f := degrade.MustNewSwitch(degrade.SwitchConfig{}).Feature("reviews", degrade.Optional)
	run(b, func() {
		if !f.Enabled() {
			b.Fail()
		}
	})
}

func BenchmarkEnabledFor(b *testing.B) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	f := sw.Feature("reviews", degrade.Optional)
	var ctx context.Context
	sw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { ctx = r.Context() })).ServeHTTP(writer{}, httptest.NewRequest("GET", "/", nil))
	run(b, func() {
		if !f.EnabledFor(ctx) {
			b.Fail()
		}
	})
}

func BenchmarkSwitchHandler(b *testing.B) {
	h := degrade.MustNewSwitch(degrade.SwitchConfig{}).Handler(nothing)
	r := httptest.NewRequest("GET", "/", nil)
	var w writer
	run(b, func() { h.ServeHTTP(w, r) })
}
