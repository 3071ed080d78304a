// Package breaker_test measures package breaker beside the circuit breakers
// that Go services use today. Ratios within one run hold; absolute times belong
// to the machine.
//
//	go test ./breaker -run Figures -v -figures
package breaker_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sentinel "github.com/alibaba/sentinel-golang/api"
	sentinelbreaker "github.com/alibaba/sentinel-golang/core/circuitbreaker"
	"github.com/alibaba/sentinel-golang/core/config"
	"github.com/alibaba/sentinel-golang/logging"
	"github.com/cep21/circuit/v4"
	"github.com/cep21/circuit/v4/closers/hystrix"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/breaker"
)

var figures = flag.Bool("figures", false, "measure, for some tens of seconds")

// A rival is one way of guarding a call that does nothing.
type rival struct {
	name string
	call func()
}

var errDown = errors.New("down")

// guards returns every rival, closed or open.
func guards(t testing.TB, open bool) []rival {
	ctx := context.Background()
	work := func() (int, error) { return 1, nil }
	workCtx := func(context.Context) (int, error) { return 1, nil }

	ours := breaker.MustNew(breaker.Config{Name: "inventory", OpenFor: time.Hour})
	noClock := breaker.MustNew(breaker.Config{SlowCall: -1, OpenFor: time.Hour})
	gb := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: time.Second, Timeout: time.Hour})
	two := gobreaker.NewTwoStepCircuitBreaker[int](gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: time.Second, Timeout: time.Hour})
	fs := circuitbreaker.NewBuilder[int]().WithFailureRateThreshold(0.5, 20, 10*time.Second).WithDelay(time.Hour).Build()
	fsx := failsafe.With(fs)
	logic := circuit.GeneralConfig{
		ClosedToOpenFactory: hystrix.OpenerFactory(hystrix.ConfigureOpener{}),
		OpenToClosedFactory: hystrix.CloserFactory(hystrix.ConfigureCloser{SleepWindow: time.Hour}),
	}
	cep := circuit.NewCircuitFromConfig("x", circuit.Config{General: logic})
	bare := circuit.NewCircuitFromConfig("x", circuit.Config{
		Execution: circuit.ExecutionConfig{MaxConcurrentRequests: -1, Timeout: -1},
		General:   logic,
	})
	resource := startSentinel(t, open)

	if open {
		fail := func(context.Context) (int, error) { return 0, errDown }
		for range 30 {
			_, _ = breaker.Do(ctx, ours, fail)
			_, _ = breaker.Do(ctx, noClock, fail)
			_, _ = gb.Execute(func() (int, error) { return 0, errDown })
			if done, err := two.Allow(); err == nil {
				done(errDown)
			}
		}
		fs.Open()
		cep.OpenCircuit(ctx)
		bare.OpenCircuit(ctx)
		require.Equal(t, gobreaker.StateOpen, gb.State())
		require.Equal(t, breaker.Open, ours.State())
		require.Equal(t, breaker.Open, noClock.State())
	}
	return []rival{
		{"bare call", func() { _, _ = work() }},
		{"2 x time.Now", func() { a, b := time.Now(), time.Now(); sink = b.Sub(a) }},
		{"gobreaker Execute, rolling", func() { _, _ = gb.Execute(work) }},
		{"gobreaker two-step, rolling", func() {
			if done, err := two.Allow(); err == nil {
				done(nil)
			}
		}},
		{"the same, and timed by hand", func() {
			start := time.Now()
			_, _ = gb.Execute(work)
			sink = time.Since(start)
		}},
		{"spillway Do", func() { _, _ = breaker.Do(ctx, ours, workCtx) }},
		{"spillway Do, no slow mark", func() { _, _ = breaker.Do(ctx, noClock, workCtx) }},
		{"spillway Allow", func() {
			if done, err := ours.Allow(ctx); err == nil {
				done(nil)
			}
		}},
		{"spillway Allow, no slow mark", func() {
			if done, err := noClock.Allow(ctx); err == nil {
				done(nil)
			}
		}},
		{"failsafe-go permit", func() {
			if fs.TryAcquirePermit() {
				fs.RecordSuccess()
			}
		}},
		{"failsafe-go executor", func() { _, _ = fsx.Get(work) }},
		{"cep21/circuit as it comes", func() { _ = cep.Execute(ctx, func(context.Context) error { return nil }, nil) }},
		{"cep21/circuit, no timeout", func() { _ = bare.Execute(ctx, func(context.Context) error { return nil }, nil) }},
		{"sentinel-golang", func() {
			if e, blocked := sentinel.Entry(resource); blocked == nil {
				e.Exit()
			}
		}},
	}
}

var (
	sink         time.Duration
	sentinelOnce sync.Once
)

// startSentinel returns the resource to enter.
func startSentinel(t testing.TB, open bool) string {
	sentinelOnce.Do(func() {
		c := config.NewDefaultConfig()
		c.Sentinel.Log.Logger = logging.NewConsoleLogger()
		c.Sentinel.Log.Metric.FlushIntervalSec = 0
		logging.ResetGlobalLoggerLevel(logging.ErrorLevel)
		require.NoError(t, sentinel.InitWithConfig(c))
	})
	resource := fmt.Sprint("open: ", open)
	_, err := sentinelbreaker.LoadRules([]*sentinelbreaker.Rule{{
		Resource: resource, Strategy: sentinelbreaker.ErrorRatio, RetryTimeoutMs: 3_600_000,
		MinRequestAmount: 20, StatIntervalMs: 10_000, StatSlidingWindowBucketCount: 10, Threshold: 0.5,
	}})
	require.NoError(t, err)
	if open {
		for range 40 {
			if e, blocked := sentinel.Entry(resource); blocked == nil {
				sentinel.TraceError(e, errDown)
				e.Exit()
			}
		}
		_, blocked := sentinel.Entry(resource)
		require.NotNil(t, blocked)
	}
	return resource
}

// ops per round, and rounds: interleaved, so that noise hits all alike.
const ops, rounds = 20_000, 25

// measure returns the nanoseconds per call, the least and the median of the
// rounds, with the given number of goroutines.
func measure(rivals []rival, workers int) (least, median []float64) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(workers))
	all := make([][]float64, len(rivals))
	for range rounds {
		for i, r := range rivals {
			start := time.Now()
			var wg sync.WaitGroup
			for range workers {
				wg.Go(func() {
					for range ops / workers {
						r.call()
					}
				})
			}
			wg.Wait()
			all[i] = append(all[i], float64(time.Since(start).Nanoseconds())/ops)
		}
	}
	for _, times := range all {
		slices.Sort(times)
		least = append(least, times[0])
		median = append(median, times[len(times)/2])
	}
	return least, median
}

// A figure is what a call costs, in nanoseconds and in calls of the base, on one
// core and on two.
type figure struct{ ns, x [2]float64 }

func table(t *testing.T, title string, rivals []rival, base string) map[string]figure {
	at := slices.IndexFunc(rivals, func(r rival) bool { return r.name == base })
	one, oneMid := measure(rivals, 1)
	two, twoMid := measure(rivals, 2)
	all := make(map[string]figure)
	var out strings.Builder
	fmt.Fprintf(&out, "\n%-30s %18s %6s %18s %6s %7s\n", title, "1 core ns (median)", "x", "2 cores ns", "x", "allocs")
	for i, r := range rivals {
		all[r.name] = figure{[2]float64{one[i], two[i]}, [2]float64{one[i] / one[at], two[i] / two[at]}}
		fmt.Fprintf(&out, "%-30s %9.0f (%6.0f) %6.2f %9.0f (%6.0f) %6.2f %7.0f\n", r.name,
			one[i], oneMid[i], one[i]/one[at], two[i], twoMid[i], two[i]/two[at], testing.AllocsPerRun(1000, r.call))
	}
	t.Log(out.String())
	return all
}

const base = "gobreaker Execute, rolling"

// TestFiguresClosed says what a call costs that is let through and succeeds,
// which is most of what a breaker ever does.
//
// Of gobreaker's call three quarters are two readings of time.Now, and the rest
// is its mutex, twice. Package breaker reads the clock twice as well, for the
// slow mark, but the monotonic one alone, which is half of time.Now; the
// remaining third of its call are four atomic additions and Do itself. What
// was tried before: gobreaker's Execute for each call that has ended, which
// alone is the 1.0 that everything is compared with, came to 1.6 with the slow
// mark and 1.1 without (gobreaker timed by hand is 1.6, too); its two-step form
// allocates and costs a quarter more than Execute. So gobreaker is now told only
// of what can change its state: each failure, and the first success after it.
//
// Like is compared with like. failsafe-go's executor calls a function, as Do
// does. Its permits know neither errors nor how long a call took, nor whether it
// was told twice: beside them is Allow without a slow mark, although that
// allocates a function to be called when done.
func TestFiguresClosed(t *testing.T) {
	if !*figures {
		t.Skip("measures for some tens of seconds: run with -figures")
	}
	all := table(t, "closed, the call succeeds", guards(t, false), base)
	for on, cores := range []string{"one core", "two cores"} {
		do := all["spillway Do"]
		require.LessOrEqual(t, do.x[on], 1.5, "gobreaker's own call, on %s", cores)
		for _, rival := range []string{"failsafe-go executor", "cep21/circuit as it comes", "cep21/circuit, no timeout", "sentinel-golang"} {
			require.Less(t, do.ns[on], all[rival].ns[on], "%s on %s", rival, cores)
		}
		require.Less(t, all["spillway Allow, no slow mark"].ns[on], all["failsafe-go permit"].ns[on], cores)
	}
}

func TestFiguresOpen(t *testing.T) {
	if !*figures {
		t.Skip("measures for some tens of seconds: run with -figures")
	}
	all := table(t, "open, the call is refused", guards(t, true), base)
	for on, cores := range []string{"one core", "two cores"} {
		for _, ours := range []string{"spillway Do", "spillway Allow"} {
			require.Less(t, all[ours].ns[on], 200.0, "%s on %s", ours, cores)
			require.LessOrEqual(t, all[ours].x[on], 1.0, "%s on %s", ours, cores)
		}
	}
}

// TestFiguresHTTP says what a handler and a transport cost, on top of a stub.
func TestFiguresHTTP(t *testing.T) {
	if !*figures {
		t.Skip("measures for some tens of seconds: run with -figures")
	}
	b := breaker.MustNew(breaker.Config{})
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	guarded := b.Handler(ok)
	in := httptest.NewRequest(http.MethodGet, "/", nil)
	stub := roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: oneByte{}}, nil
	})
	toEnd, toHeader := b.Transport(stub), breaker.MustNew(breaker.Config{HeadersOnly: true}).Transport(stub)
	fs := failsafehttp.NewRoundTripper(stub, circuitbreaker.NewWithDefaults[*http.Response]())
	out := httptest.NewRequest(http.MethodGet, "http://a/", nil)
	out.RequestURI = ""
	send := func(rt http.RoundTripper) func() {
		return func() {
			resp, err := rt.RoundTrip(out)
			if err == nil {
				resp.Body.Close()
			}
		}
	}
	gb := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: time.Second})
	table(t, "over HTTP types, on a stub", []rival{
		{base, func() { _, _ = gb.Execute(func() (int, error) { return 1, nil }) }},
		{"stub handler", func() { ok.ServeHTTP(discard{}, in) }},
		{"spillway Handler", func() { guarded.ServeHTTP(discard{}, in) }},
		{"stub transport", send(stub)},
		{"spillway Transport, to header", send(toHeader)},
		{"spillway Transport, to end", send(toEnd)},
		{"failsafehttp transport", send(fs)},
	}, base)
}

type discard struct{}

func (discard) Header() http.Header         { return nil }
func (discard) WriteHeader(int)             {}
func (discard) Write(p []byte) (int, error) { return len(p), nil }

type oneByte struct{}

func (oneByte) Read(p []byte) (int, error) { return 1, nil }
func (oneByte) Close() error               { return nil }

// TestFiguresHosts says what a hundred thousand hosts take.
func TestFiguresHosts(t *testing.T) {
	if !*figures {
		t.Skip("measures for some tens of seconds: run with -figures")
	}
	const hosts = 100_000
	b := breaker.MustNew(breaker.Config{MaxKeys: hosts + hosts/2})
	rt := b.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	before := heap()
	for i := range hosts {
		_, err := rt.RoundTrip(httptest.NewRequest(http.MethodGet, fmt.Sprintf("http://tenant-%d.example.com/", i), nil))
		require.NoError(t, err)
	}
	perHost := (heap() - before) / hosts
	t.Logf("%d hosts: %.0f bytes each, %.0f MiB in all", b.Stats().Keys, perHost, perHost*hosts/(1<<20))
	require.Less(t, perHost, 1500.0, "package breaker says 1.4 KB and about")
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
