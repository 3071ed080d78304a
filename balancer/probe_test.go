package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

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
