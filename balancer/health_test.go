package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestFiveFailuresInARowEjectAndOneTrialRestores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(4), Policy: balancer.RoundRobin(), SlowStart: -1})
		rt := b.Transport(l)
		l.set("b1", 503)
		require.Equal(t, 40, send(rt, 40, 400*time.Millisecond), "retries hide it")
		require.Equal(t, 5, l.count("b1"))
		require.Equal(t, balancer.Ejected, state(b, 1))
		require.Equal(t, "5 failures in a row", b.Backends()[1].Why)

		time.Sleep(6100 * time.Millisecond) // 5 s and a fifth, at most
		require.Equal(t, balancer.Probation, state(b, 1))
		require.Equal(t, 10, send(rt, 10, 100*time.Millisecond))
		require.Equal(t, 1, l.count("b1"), "one trial, and it failed")
		require.Equal(t, balancer.Ejected, state(b, 1))
		out := time.Until(b.Backends()[1].Until)
		require.InDelta(t, 10, out.Seconds(), 2.2, "twice as long")

		l.set("b1", 200)
		time.Sleep(12100 * time.Millisecond)
		require.Equal(t, 1, send(rt, 1, time.Millisecond))
		require.Equal(t, 1, l.count("b1"), "the first request is the trial")
		require.Equal(t, balancer.Ready, state(b, 1))
		require.EqualValues(t, 2, b.Backends()[1].Ejections)
	})
}

func TestTrialWaitsForARequestThatCanBeRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(3), Policy: balancer.RoundRobin()})
		rt := b.Transport(l)
		l.set("b0", 503)
		send(rt, 30, 300*time.Millisecond)
		require.Equal(t, balancer.Ejected, state(b, 0))
		time.Sleep(6100 * time.Millisecond)
		l.count("b0")
		for range 20 {
			require.Equal(t, 200, do(rt, http.MethodPost), "a POST is not risked")
		}
		require.Zero(t, l.count("b0"))
		require.Equal(t, 200, do(rt, http.MethodGet))
		require.Equal(t, 1, l.count("b0"))
	})
}

func TestRatioEjectsWhatNeverFailsFiveTimesInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(3), Policy: balancer.RoundRobin()})
		var n atomic.Int64
		l.play("b2", func(*http.Request) (int, http.Header) {
			if n.Add(1)%4 == 0 {
				return 200, nil
			}
			return 500, nil
		})
		send(b.Transport(l), 90, 3*time.Second)
		require.Equal(t, balancer.Ejected, state(b, 2))
		require.Equal(t, "16 of 21 answers failed", b.Backends()[2].Why)
	})
}

func TestGatewayErrorsCanBeCountedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for code, want := range map[int]balancer.State{502: balancer.Ejected, 500: balancer.Ready} {
			l := newLab()
			b := must(t, balancer.Config{Backends: l.hosts(3), Policy: balancer.RoundRobin(), Eject: balancer.Eject{Gateway: 2, Consecutive: 50, Ratio: -1}})
			l.set("b0", code)
			send(b.Transport(l), 18, time.Second)
			require.Equal(t, want, state(b, 0), "status %d", code)
		}
	})
}

func TestSlowOutlierIsEjectedIfAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(10), Policy: balancer.RoundRobin(), Eject: balancer.Eject{SlowerThan: 5}})
		for i := range 9 {
			l.takes(fmt.Sprint("b", i), 10*time.Millisecond)
		}
		l.takes("b9", 400*time.Millisecond)
		send(b.Transport(l), 300, 3*time.Second)
		require.Equal(t, balancer.Ejected, state(b, 9))
		require.Contains(t, b.Backends()[9].Why, "ms, the pool in ")
		require.Equal(t, 9, b.Stats().Available)
	})
}

func TestNeverMoreThanAShareIsEjected(t *testing.T) {
	for n, most := range map[int]int{1: 0, 2: 1, 3: 1, 4: 2, 10: 5} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab()
			b := must(t, balancer.Config{Backends: l.hosts(n), Policy: balancer.RoundRobin(), Retry: balancer.Retry{Max: -1}})
			rt := b.Transport(l)
			send(rt, 20*n, time.Second)
			for i := range n {
				if i > 0 || n == 1 { // one goes on well, so that the others stand out
					l.set(fmt.Sprint("b", i), 0)
				}
			}
			send(rt, 40*n, 2*time.Second)
			require.LessOrEqual(t, n-b.Stats().Available, most, "of %d", n)
			if n > 1 {
				require.NotZero(t, n-b.Stats().Available, "of %d", n)
			}
		})
	}
}

func TestWhenAllFailAlikeNobodyIsEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(6), Policy: balancer.RoundRobin(), Retry: balancer.Retry{Max: -1}})
		rt := b.Transport(l)
		for i := range 6 {
			l.set(fmt.Sprint("b", i), 503)
		}
		send(rt, 600, 6*time.Second)
		require.Equal(t, 6, b.Stats().Available)
	})
}

func TestEjectionCanBeTurnedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(3), Policy: balancer.RoundRobin(), Eject: balancer.Eject{Consecutive: -1}})
		l.set("b0", 0)
		send(b.Transport(l), 300, 30*time.Second)
		require.Equal(t, 3, b.Stats().Available)
	})
}

func TestFewAvailableMeansAllAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, share := range []float64{0, -1} {
			l := newLab()
			var down atomic.Int64
			b := must(t, balancer.Config{
				Backends: l.hosts(10), Policy: balancer.RoundRobin(), PanicShare: share, Retry: balancer.Retry{Max: -1},
				Healthy: func(d balancer.Backend) bool { return int64(d.ID[1]-'0') >= down.Load() },
			})
			rt := b.Transport(l)
			down.Store(5)
			send(rt, 100, 3*time.Second)
			require.Equal(t, 5, b.Stats().Available)
			require.False(t, b.Stats().Panic, "half is enough")
			l.count("b0")
			send(rt, 100, 3*time.Second)
			require.Zero(t, l.count("b0"))

			down.Store(6)
			send(rt, 100, 3*time.Second)
			l.count("b0")
			require.Equal(t, 100, send(rt, 100, 3*time.Second))
			if share < 0 {
				require.False(t, b.Stats().Panic)
				require.Zero(t, l.count("b0"))
			} else {
				require.True(t, b.Stats().Panic)
				require.InDelta(t, 10, l.count("b0"), 1)
			}
			down.Store(0)
			send(rt, 100, 3*time.Second)
			require.Equal(t, 10, b.Stats().Available)
			require.False(t, b.Stats().Panic)
		}
	})
}

func TestNoBackendIsA503WithATrueRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := must(t, balancer.Config{Backends: balancer.URLs("http://a"), PanicShare: -1, Healthy: func(balancer.Backend) bool { return false }})
		_, err := b.Acquire(nil)
		require.ErrorIs(t, err, balancer.ErrNoBackend)
		var none *balancer.NoBackendError
		require.ErrorAs(t, err, &none)
		require.GreaterOrEqual(t, none.RetryAfter(), time.Second)
		require.Equal(t, time.Second, none.RetryAfter(), "then Healthy is asked again")
		require.Equal(t, "balancer: default: no backend is available", err.Error())
	})
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		b := must(t, balancer.Config{
			Backends: balancer.URLs("http://a"), PanicShare: -1,
			Probe: balancer.Probe{Every: 20 * time.Second, Check: func(context.Context, balancer.Backend) error {
				if down.Load() {
					return errors.New("no")
				}
				return nil
			}},
		})
		probing(t, b)
		down.Store(true)
		time.Sleep(time.Minute)
		_, err := b.Acquire(nil)
		var none *balancer.NoBackendError
		require.ErrorAs(t, err, &none)
		down.Store(false)
		require.InDelta(t, 20, none.RetryAfter().Seconds(), 4, "two probes must pass, of which the next is soon")
		time.Sleep(none.RetryAfter() + 4*time.Second)
		_, err = b.Acquire(nil)
		require.NoError(t, err)
	})
}

func TestRetryAfterIsTheNextDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		found := func(context.Context) ([]balancer.Backend, error) {
			return []balancer.Backend{{URL: "http://a", Drain: true}}, nil
		}
		for _, c := range []struct {
			cfg           balancer.Config
			before, after time.Duration // Run
		}{
			{balancer.Config{Backends: []balancer.Backend{{URL: "http://a", Drain: true}}}, time.Minute, time.Minute},
			{balancer.Config{Discover: found}, time.Second, 10 * time.Second},
		} {
			b := must(t, c.cfg)
			for _, want := range []time.Duration{c.before, c.after} {
				_, err := b.Acquire(nil)
				var none *balancer.NoBackendError
				require.ErrorAs(t, err, &none)
				require.Equal(t, want, none.RetryAfter())
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_ = b.Run(ctx)
				cancel()
			}
		}
	})
}

func TestProbesKeepTheirPaceBelowASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		b := must(t, balancer.Config{
			Backends: balancer.URLs("http://a"),
			Probe: balancer.Probe{Every: 250 * time.Millisecond, Check: func(context.Context, balancer.Backend) error {
				time.Sleep(time.Millisecond)
				n.Add(1)
				return nil
			}},
		})
		probing(t, b)
		time.Sleep(10 * time.Second)
		require.InDelta(t, 40, n.Load(), 4) // they vary by a tenth
	})
}

// probing runs b until the end of the test's bubble.
func probing(t *testing.T, b *balancer.Balancer) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

func TestProbesRiseAndFall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		var mu sync.Mutex
		var at []time.Duration
		ran := func() []time.Duration { mu.Lock(); defer mu.Unlock(); return slices.Clone(at) }
		begin := time.Now()
		down.Store(true)
		b := must(t, balancer.Config{Backends: balancer.URLs("http://a", "http://b", "http://c"), Probe: balancer.Probe{
			Check: func(_ context.Context, d balancer.Backend) error {
				if d.URL != "http://a" {
					return nil
				}
				mu.Lock()
				at = append(at, time.Since(begin))
				mu.Unlock()
				if down.Load() {
					return errors.New("disk full")
				}
				return nil
			},
		}})
		require.Equal(t, balancer.Ready, state(b, 0), "unknown is healthy")
		probing(t, b)
		synctest.Wait()
		require.Equal(t, balancer.Unhealthy, state(b, 0), "the first probe decides")
		require.Equal(t, "probe: disk full", b.Backends()[0].Why)
		time.Sleep(10 * time.Second)
		n := len(ran())
		require.InDelta(t, 11, n, 1, "every second while it fails")

		down.Store(false)
		time.Sleep(1200 * time.Millisecond)
		require.Equal(t, balancer.Unhealthy, state(b, 0), "one success is not enough")
		time.Sleep(5500 * time.Millisecond)
		require.Equal(t, balancer.Warming, state(b, 0), "two are, and it comes back slowly")
		time.Sleep(20 * time.Second)
		require.Equal(t, balancer.Ready, state(b, 0))

		n = len(ran())
		time.Sleep(50 * time.Second)
		require.InDelta(t, 10, len(ran())-n, 1, "every five seconds while it passes")
		gaps := map[time.Duration]bool{}
		for i, all := n, ran(); i < len(all); i++ {
			gaps[all[i]-all[i-1]] = true
		}
		require.Greater(t, len(gaps), 5, "with jitter")

		down.Store(true)
		for n = len(ran()); len(ran()) == n; {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(1150 * time.Millisecond)
		require.Equal(t, balancer.Ready, state(b, 0), "two failures are not enough")
		time.Sleep(1150 * time.Millisecond)
		require.Equal(t, balancer.Unhealthy, state(b, 0), "three are")
	})
}

func TestBackendThatProbesSawRestartedIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		var down atomic.Bool
		b := must(t, balancer.Config{Backends: l.hosts(4), Policy: balancer.RoundRobin(), SlowStart: -1,
			Eject: balancer.Eject{Base: time.Minute, Max: time.Hour},
			Probe: balancer.Probe{Every: time.Second, Check: func(_ context.Context, d balancer.Backend) error {
				if d.ID == "b1" && down.Load() {
					return errors.New("connection refused")
				}
				return nil
			}}})
		probing(t, b)
		rt := b.Transport(l)
		l.set("b1", 503)
		send(rt, 40, 0)
		down.Store(true)
		time.Sleep(4 * time.Second)
		require.Equal(t, balancer.Unhealthy, state(b, 1))

		down.Store(false)
		l.set("b1", 200)
		time.Sleep(3 * time.Second)
		require.Equal(t, balancer.Probation, state(b, 1), "its minute is not over, but it has risen")
		send(rt, 4, 0)
		require.Equal(t, balancer.Ready, state(b, 1))
	})
}

func TestProbesAreBoundedAndTimedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		b := must(t, balancer.Config{Backends: many(50), Probe: balancer.Probe{
			Concurrent: 4,
			Check: func(ctx context.Context, _ balancer.Backend) error {
				most.Store(max(most.Load(), now.Add(1)))
				defer now.Add(-1)
				<-ctx.Done()
				return ctx.Err()
			},
		}})
		probing(t, b)
		time.Sleep(20 * time.Second)
		require.EqualValues(t, 4, most.Load())
		require.Equal(t, "probe: no answer within 1s", b.Backends()[0].Why)
		require.True(t, b.Stats().Panic, "a health page that all fail does not take the service down")
	})
}

func TestProbesThatShutdownCutsShortAreNoFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := must(t, balancer.Config{Backends: balancer.URLs("http://a"), Probe: balancer.Probe{Check: func(ctx context.Context, _ balancer.Backend) error {
			<-ctx.Done()
			return ctx.Err()
		}}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = b.Run(ctx); close(done) }()
		synctest.Wait()
		cancel()
		<-done
		require.Equal(t, balancer.Ready, state(b, 0))
	})
}

func TestCheckThatPanicsIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := must(t, balancer.Config{Backends: balancer.URLs("http://a"), Probe: balancer.Probe{Check: func(context.Context, balancer.Backend) error { panic("oops") }}})
		probing(t, b)
		synctest.Wait()
		require.Equal(t, "probe: the check panicked: oops", b.Backends()[0].Why)
	})
}

func TestProbeLooksAtStatusBodyAndHeader(t *testing.T) {
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/host" && r.Host == "health.internal" && r.Header.Get("X-Probe") == "1":
			fmt.Fprint(w, "all good")
		case r.URL.Path == "/teapot":
			w.WriteHeader(http.StatusTeapot)
		case r.URL.Path == "/leaving":
			w.Header().Set("Spillway-Draining", "1")
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/host", http.StatusFound)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	header := http.Header{"Host": {"health.internal"}, "X-Probe": {"1"}}
	for _, c := range []struct {
		probe balancer.Probe
		why   string
	}{
		{balancer.Probe{Path: "/host", Header: header, Contains: "good"}, ""},
		{balancer.Probe{Path: "/host", Header: header, Contains: "better"}, `probe: the body does not contain "better"`},
		{balancer.Probe{Path: "/host"}, "probe: status 404"},
		{balancer.Probe{Path: "/teapot", Status: func(c int) bool { return c == http.StatusTeapot }}, ""},
		{balancer.Probe{Path: "/leaving"}, "probe: it is shutting down"},
		{balancer.Probe{Path: "/moved"}, ""},
	} {
		b := pool(t, balancer.Config{Backends: balancer.URLs(url), Probe: c.probe})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = b.Run(ctx); close(done) }()
		require.Eventually(t, func() bool { return probes(b) > 0 }, 10*time.Second, time.Millisecond)
		cancel()
		<-done
		require.Equal(t, c.why, b.Backends()[0].Why, c.probe.Path)
	}
}

// probes returns how many probes have ended.
func probes(b *balancer.Balancer) (n float64) {
	b.Collect(func(name, _, _ string, v float64, _ ...string) {
		if name == "spillway_balancer_probes_total" {
			n += v
		}
	})
	return n
}

func TestChangesAreToldInOrderAndHooksMayPanicAndCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		var told []string
		var b *balancer.Balancer
		b = must(t, balancer.Config{Backends: l.hosts(3), Policy: balancer.RoundRobin(), OnChange: func(c balancer.Change) {
			told = append(told, c.String())
			_ = b.Stats() // no lock is held
			if len(told) == 1 {
				panic("a hook")
			}
		}})
		rt := b.Transport(l)
		l.set("b0", 503)
		send(rt, 30, time.Second)
		l.set("b0", 200)
		time.Sleep(6 * time.Second)
		send(rt, 3, time.Second)
		time.Sleep(11 * time.Second)
		_ = b.Stats()
		require.Equal(t, []string{
			"b0: ejected, was ready: 5 failures in a row",
			"b0: probation, was ejected: 5 failures in a row",
			"b0: warming, was probation",
			"b0: ready, was warming",
		}, told)
		require.EqualValues(t, 1, b.Stats().HookPanics)
		var log []string
		for _, text := range b.Changes() {
			log = append(log, text)
		}
		require.Equal(t, told, log)
	})
}

func TestConditionsNameWhatIsNotNormal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		list := l.hosts(3)
		b := must(t, balancer.Config{Name: "shop", Backends: list, Policy: balancer.RoundRobin()})
		conditions := func() (all []string) {
			for subject, text := range b.Conditions() {
				all = append(all, subject+": "+text)
			}
			return all
		}
		require.Empty(t, conditions())
		l.set("b0", 503)
		send(b.Transport(l), 30, time.Second)
		list[1].Drain = true
		require.NoError(t, b.SetBackends(list...))
		got := conditions()
		require.Len(t, got, 2)
		require.True(t, strings.HasPrefix(got[0], "b0: ejected until 2000-") || strings.HasPrefix(got[0], "b0: ejected until 00:00:"), got[0])
		require.Equal(t, "b1: draining: configured to drain", got[1])
	})
}

func TestMetricsStandFromTheStartAndSeriesOfANameAreAdjacent(t *testing.T) {
	b := must(t, balancer.Config{Name: "shop", Backends: balancer.URLs("http://a", "http://b")})
	collect := func() (names []string, values map[string]float64) {
		values = map[string]float64{}
		b.Collect(func(name, help, kind string, v float64, labels ...string) {
			require.NotEmpty(t, help)
			require.Contains(t, []string{"counter", "gauge", "histogram"}, kind)
			require.Equal(t, []string{"pool", "shop"}, labels[:2])
			require.Zero(t, len(labels)%2)
			names = append(names, name)
			values[name+strings.Join(labels, ",")] += v
		})
		return names, values
	}
	names, values := collect()
	require.Contains(t, values, "spillway_balancer_requests_totalpool,shop,upstream,http://a,outcome,failure")
	require.EqualValues(t, 1, values["spillway_balancer_upstream_uppool,shop,upstream,http://b"])
	require.EqualValues(t, 1, values["spillway_balancer_available_ratiopool,shop"])
	compact := slices.Compact(slices.Clone(names))
	slices.Sort(compact)
	require.Equal(t, len(compact), len(slices.Compact(compact)), "a name is not resumed")
	again, _ := collect()
	require.Equal(t, names, again)
}
