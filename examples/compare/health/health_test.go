// Package health_test measures package health beside the health libraries that
// people use, each set up as its own documentation says.
package health_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	gosundheit "github.com/AppsFlyer/go-sundheit"
	"github.com/AppsFlyer/go-sundheit/checks"
	sundheithttp "github.com/AppsFlyer/go-sundheit/http"
	alex "github.com/alexliesenfeld/health"
	hellofresh "github.com/hellofresh/health-go/v5"
	"github.com/heptiolabs/healthcheck"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

const every = 100 * time.Millisecond

// libraries set up n checks that call probe every 100 ms in the background,
// where the library can do that, with a timeout of 50 ms.
var libraries = []struct {
	name  string
	setup func(tb testing.TB, n int, probe func(context.Context) error) http.Handler
}{
	{"spillway", func(tb testing.TB, n int, probe func(context.Context) error) http.Handler {
		config := health.Config{Checks: map[string]health.Check{}}
		for i := range n {
			config.Checks[strconv.Itoa(i)] = health.Check{Probe: probe, Every: every, Timeout: every / 2, Fall: 1}
		}
		h := health.MustNew(config)
		go func() { _ = h.Run(tb.Context()) }()
		front := h.Handler(http.NotFoundHandler())
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = "/readyz"
			front.ServeHTTP(w, r)
		})
	}},
	{"alexliesenfeld periodic", func(tb testing.TB, n int, probe func(context.Context) error) http.Handler {
		var options []alex.CheckerOption
		for i := range n {
			options = append(options, alex.WithPeriodicCheck(every, 0, alex.Check{Name: strconv.Itoa(i), Check: probe}))
		}
		checker := alex.NewChecker(options...)
		tb.Cleanup(func() { go checker.Stop() }) // it waits for ever for a check that hangs
		return alex.NewHandler(checker)
	}},
	{"alexliesenfeld cached", func(_ testing.TB, n int, probe func(context.Context) error) http.Handler {
		options := []alex.CheckerOption{alex.WithTimeout(every / 2)}
		for i := range n {
			options = append(options, alex.WithCheck(alex.Check{Name: strconv.Itoa(i), Check: probe}))
		}
		return alex.NewHandler(alex.NewChecker(options...))
	}},
	{"go-sundheit", func(tb testing.TB, n int, probe func(context.Context) error) http.Handler {
		h := gosundheit.New()
		tb.Cleanup(func() { go h.DeregisterAll() })
		for i := range n {
			_ = h.RegisterCheck(&checks.CustomCheck{CheckName: strconv.Itoa(i), CheckFunc: func(ctx context.Context) (any, error) {
				return nil, probe(ctx)
			}}, gosundheit.ExecutionPeriod(every), gosundheit.ExecutionTimeout(every/2))
		}
		return http.HandlerFunc(sundheithttp.HandleHealthJSON(h))
	}},
	{"heptiolabs Async", func(tb testing.TB, n int, probe func(context.Context) error) http.Handler {
		h := healthcheck.NewHandler()
		for i := range n {
			h.AddReadinessCheck(strconv.Itoa(i), healthcheck.AsyncWithContext(tb.Context(), func() error { return probe(tb.Context()) }, every))
		}
		return http.HandlerFunc(h.ReadyEndpoint)
	}},
	{"hellofresh", func(_ testing.TB, n int, probe func(context.Context) error) http.Handler {
		h, err := hellofresh.New()
		if err != nil {
			panic(err)
		}
		for i := range n {
			_ = h.Register(hellofresh.Config{Name: strconv.Itoa(i), Timeout: every / 2, Check: probe})
		}
		return h.Handler()
	}},
}

// status asks once.
func status(h http.Handler) int {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	return rec.Code
}

// A check passes and then hangs, deaf to its context, as a driver does that is
// stuck in a read. What does the service say half a second later, and how many
// calls are stuck?
func TestACheckThatHangs(t *testing.T) {
	want := map[string]int{
		"spillway":                503,
		"alexliesenfeld periodic": 200, // for ever
		"alexliesenfeld cached":   503,
		"go-sundheit":             200, // for ever
		"heptiolabs Async":        200, // for ever
		"hellofresh":              503,
	}
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			var hang atomic.Bool
			var stuck atomic.Int32
			release := make(chan struct{})
			t.Cleanup(func() { close(release) })
			h := lib.setup(t, 1, func(context.Context) error {
				if hang.Load() {
					stuck.Add(1)
					<-release
				}
				return nil
			})
			require.Eventually(t, func() bool { return status(h) == 200 }, 10*time.Second, every/10)
			hang.Store(true)
			var last int
			asked := time.Now()
			require.Eventually(t, func() bool {
				last = status(h)
				return stuck.Load() > 0 && time.Since(asked) > 20*every
			}, 30*time.Second, every/2)
			t.Logf("%d after %v, with %d stuck calls", last, time.Since(asked).Round(every), stuck.Load())
			require.Equal(t, want[lib.name], last, "if a rival has become better, say so here")
			if lib.name == "spillway" {
				require.Equal(t, int32(1), stuck.Load())
			}
		})
	}
}

// BenchmarkProbe is one readiness probe of a service with ten checks that pass.
func BenchmarkProbe(b *testing.B) {
	for _, lib := range libraries {
		b.Run(lib.name, func(b *testing.B) {
			h := lib.setup(b, 10, func(context.Context) error { return nil })
			for status(h) != 200 {
				<-time.After(every / 10)
			}
			r := httptest.NewRequest("GET", "/", nil)
			w := &discard{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
}

// discard is a ResponseWriter that costs nothing.
type discard struct{ header http.Header }

func (w *discard) Header() http.Header         { return w.header }
func (w *discard) Write(p []byte) (int, error) { return len(p), nil }
func (w *discard) WriteHeader(int)             {}
