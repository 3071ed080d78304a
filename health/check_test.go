package health_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

// check returns what is known of one check.
func check(t *testing.T, h *health.Checker, name string) health.Result {
	for _, r := range h.Report().Checks {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("there is no check %q", name)
	return health.Result{}
}

// one returns a Checker with a single check called "it" without jitter.
func one(c health.Check) *health.Checker {
	c.Jitter = -1
	return health.MustNew(health.Config{Checks: map[string]health.Check{"it": c}})
}

// Each of alexliesenfeld/health (periodic), heptiolabs/healthcheck (Async),
// go-sundheit and InVision/go-health answers 200 for ever here.
func TestACheckThatPassesAndThenHangsForeverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		release := make(chan struct{})
		h := one(health.Check{Every: 10 * time.Second, Probe: func(context.Context) error {
			if calls.Add(1) > 1 {
				<-release // deaf to its context, as a driver stuck in a read
			}
			return nil
		}})
		run(t, h)
		require.True(t, h.Ready())
		time.Sleep(10500 * time.Millisecond) // the second call began at 10 s, and its timeout ended at 12 s
		require.Equal(t, health.Pass, check(t, h, "it").Status, "one failure of three")
		time.Sleep(5 * time.Second)
		require.False(t, h.Ready())
		require.Contains(t, check(t, h, "it").Reason, "overrun: running for ")

		before := runtime.NumGoroutine()
		time.Sleep(13 * time.Hour)
		require.False(t, h.Ready())
		require.Equal(t, "overrun: running for 13h0m7s", check(t, h, "it").Reason)
		require.Equal(t, int32(2), calls.Load(), "at most one call in flight, ever")
		require.LessOrEqual(t, runtime.NumGoroutine(), before, "nothing piles up behind it")

		close(release)
		time.Sleep(2 * time.Second)
		require.True(t, h.Ready(), "it is called again when it has returned")
	})
}

// InVision/go-health answers 200 before any result.
func TestACheckThatHangsFromTheStartIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := one(health.Check{Probe: func(context.Context) error { <-release; return nil }})
		front := h.Handler(teapot)
		run(t, h)
		time.Sleep(time.Second)
		require.Equal(t, 503, get(front, "/readyz").Code)
		require.Equal(t, 200, get(front, "/livez").Code)
		require.Equal(t, health.Fail, check(t, h, "it").Status, "the first result counts at once")
		close(release)
	})
}

func TestTheTimeoutIsEnforcedFromOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := one(health.Check{Timeout: 500 * time.Millisecond, FailEvery: time.Hour, Every: time.Hour,
			Probe: func(context.Context) error { <-release; return nil }})
		run(t, h)
		require.Equal(t, "timeout", check(t, h, "it").Reason)
		close(release)
		synctest.Wait()
		require.Equal(t, "timeout", check(t, h, "it").Reason, "a late pass is no pass")
	})
}

// Five of eight libraries die here: hellofresh, heptiolabs (Async), go-sundheit,
// InVision and brpaz.
func TestAPanickingCheckIsAFailureAndTheProcessLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes []health.Change
		h := health.MustNew(health.Config{
			Checks: map[string]health.Check{
				"panics": {Probe: func(context.Context) error { panic("boom") }},
				"exits":  {Probe: func(context.Context) error { runtime.Goexit(); return nil }},
			},
			OnChange: func(c health.Change) { changes = append(changes, c) },
		})
		run(t, h)
		require.Equal(t, "panic", check(t, h, "panics").Reason)
		require.Equal(t, "panic", check(t, h, "exits").Reason)
		require.False(t, h.Ready())
		for _, c := range changes {
			if c.Subject == "panics" {
				require.ErrorContains(t, c.Err, "boom")
				require.ErrorContains(t, c.Err, "check_test.go", "the hook gets the stack")
			}
		}
	})
}

func TestAResultTooOldIsStaleWhenSomebodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := one(health.Check{Every: 10 * time.Second, Timeout: 2 * time.Second, Probe: pass})
		front := h.Handler(teapot)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		synctest.Wait()
		require.True(t, h.Ready())
		cancel() // the scheduler is gone, as if it had died
		require.NoError(t, <-done)

		time.Sleep(32*time.Second - time.Nanosecond)
		require.Equal(t, 200, get(front, "/readyz").Code, "MaxAge is 3 times 10 s and 2 s")
		time.Sleep(time.Nanosecond)
		require.Equal(t, 503, get(front, "/readyz").Code)
		time.Sleep(8 * time.Second)
		require.Equal(t, "stale: last result 40s ago", check(t, h, "it").Reason)
		require.Equal(t, health.Unknown, check(t, h, "it").Status)
		for subject, text := range h.Conditions() {
			require.Equal(t, "it: stale: last result 40s ago", subject+": "+text)
		}
	})
}

func TestTheFirstResultAfterAStaleOneCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		h := one(health.Check{Every: 10 * time.Second, Fall: 3, Probe: func(context.Context) error {
			if down.Load() {
				return errDown
			}
			return nil
		}})
		for _, d := range []bool{false, true, false} {
			down.Store(d)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
			require.NoError(t, h.Run(ctx)) // one run
			cancel()
			require.Equal(t, !d, h.Ready(), "what was known long ago does not soften it")
			time.Sleep(time.Hour)
			require.False(t, h.Ready())
		}
		var got []string
		for _, text := range h.Changes() {
			if strings.HasPrefix(text, "it: ") {
				got = append(got, text)
			}
		}
		require.Equal(t, []string{
			"it: pass (was unknown)",
			"it: unknown: stale: last result 1h0m0s ago (was pass)",
			"it: fail: error (was unknown)",
			"it: unknown: stale: last result 1h0m0s ago (was fail)",
			"it: pass (was unknown)",
			"it: unknown: stale: last result 1h0m0s ago (was pass)",
		}, got)
	})
}

func TestCancellationByTheProbeItselfIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := one(health.Check{Probe: func(context.Context) error { return fmt.Errorf("pool: %w", context.Canceled) }})
		run(t, h)
		require.Equal(t, "canceled", check(t, h, "it").Reason)
		require.False(t, h.Ready())
	})
}

func TestTheEndOfRunIsNoFailureOfACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := one(health.Check{Every: time.Second, Timeout: time.Second, Fall: 1, Probe: func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(900 * time.Millisecond):
				return nil
			}
		}})
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), 5500*time.Millisecond)
			require.NoError(t, h.Run(ctx))
			cancel()
			require.Equal(t, health.Pass, check(t, h, "it").Status)
		}
	})
}

func TestACallThatOutlivesRunIsNotJoinedByASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inFlight, most atomic.Int32
		release := make(chan struct{})
		h := one(health.Check{Probe: func(context.Context) error {
			most.Store(max(most.Load(), inFlight.Add(1)))
			defer inFlight.Add(-1)
			<-release
			return nil
		}})
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			require.NoError(t, h.Run(ctx))
			cancel()
		}
		require.Equal(t, int32(1), most.Load())
		close(release)
	})
}

// Caddy adds failures up that are not consecutive (caddy#7625).
func TestFailuresThatAlternateWithPassesNeverTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		h := one(health.Check{Every: time.Second, Fall: 2, Probe: func(context.Context) error {
			if n.Add(1)%2 == 0 {
				return errDown
			}
			return nil
		}})
		run(t, h)
		for range 100 {
			time.Sleep(time.Second)
			require.True(t, h.Ready())
		}
	})
}

func TestFallAndRiseCountInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		h := one(health.Check{Every: time.Second, Fall: 3, Rise: 2, Probe: func(context.Context) error {
			if down.Load() {
				return errDown
			}
			return nil
		}})
		run(t, h)
		time.Sleep(500 * time.Millisecond) // between two runs
		down.Store(true)
		time.Sleep(2 * time.Second)
		require.True(t, h.Ready(), "two of three")
		time.Sleep(time.Second)
		require.False(t, h.Ready())
		down.Store(false)
		time.Sleep(time.Second)
		require.False(t, h.Ready(), "one of two")
		time.Sleep(time.Second)
		require.True(t, h.Ready())
	})
}

func TestAFailingCheckRunsFaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		h := one(health.Check{Every: time.Minute, FailEvery: time.Second, Probe: func(context.Context) error { n.Add(1); return errDown }})
		run(t, h) // runs at 0, 1 and, at the last instant, 2 seconds
		synctest.Wait()
		require.Equal(t, int32(3), n.Load())
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, int32(13), n.Load())
	})
}

func TestAFleetThatStartsTogetherDoesNotProbeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		first := map[time.Duration]int{} // first runs in each 100 ms
		for range 200 {
			var once sync.Once
			h := health.MustNew(health.Config{Checks: map[string]health.Check{"db": {Probe: func(context.Context) error {
				once.Do(func() {
					mu.Lock()
					defer mu.Unlock()
					first[time.Since(start).Truncate(100*time.Millisecond)]++
				})
				return nil
			}}}})
			go func() { _ = h.Run(t.Context()) }()
		}
		time.Sleep(2 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		total := 0
		for when, n := range first {
			require.Less(t, when, time.Second, "within a tenth of Every")
			require.Less(t, n, 60, "20 are expected in each tenth of a second")
			total += n
		}
		require.Equal(t, 200, total)
	})
}

func TestHooksComeInOrderAndMayPanicAndCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		var h *health.Checker
		h = health.MustNew(health.Config{
			Checks: map[string]health.Check{"it": {Probe: fail, Jitter: -1}},
			OnChange: func(c health.Change) {
				got = append(got, c.String())
				h.SetMaintenance(true, "from the hook") // must not deadlock
				panic("a bad hook")
			},
		})
		run(t, h)
		require.Equal(t, []string{
			"it: fail: error (was unknown)",
			"startup: pass (was fail)",
		}, got)
		require.Equal(t, uint64(len(got)), h.Stats().HookPanics)
	})
}

// In tavsec/gin-healthcheck a channel that nobody reads wedges the endpoint.
func TestAHookThatHangsHoldsUpNeitherTheOtherChecksNorTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var down atomic.Bool
		h := health.MustNew(health.Config{
			Checks: map[string]health.Check{
				"first": {Probe: fail, Optional: true, Jitter: -1},
				"other": {Jitter: -1, Fall: 1, Every: 5 * time.Second, Probe: func(context.Context) error {
					time.Sleep(time.Second)
					if down.Load() {
						return errDown
					}
					return nil
				}},
			},
			OnChange: func(health.Change) { <-release },
		})
		front := h.Handler(teapot)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.Serve(ctx, &http.Server{Handler: front}, newSilent()) }()
		time.Sleep(3 * time.Second)
		require.Equal(t, 200, get(front, "/readyz").Code)
		down.Store(true)
		time.Sleep(10 * time.Second)
		require.Equal(t, 503, get(front, "/readyz").Code)
		time.Sleep(time.Minute)
		require.Equal(t, health.Unknown, check(t, h, "first").Status, "the one that waits for the hook is stale")
		cancel()
		begin := time.Now()
		require.NoError(t, <-done)
		require.Less(t, time.Since(begin), 20*time.Second)

		// The same where the drain itself is the first to call it.
		h = health.MustNew(health.Config{OnChange: func(health.Change) { <-release }})
		begin = time.Now()
		require.NoError(t, h.Serve(ctx, &http.Server{}, newSilent()))
		require.Less(t, time.Since(begin), 10*time.Second)
		close(release)
	})
}

func TestAFirstResultComesWithinAMomentWhateverEveryIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{Checks: map[string]health.Check{"daily": {Probe: pass, Every: 24 * time.Hour, Jitter: 1}}})
		run(t, h)
		require.True(t, h.Ready())
	})
}

func TestTheLast64ChangesAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{})
		for i := range 100 {
			h.SetMaintenance(i%2 == 0, "")
			time.Sleep(time.Second)
		}
		var at []time.Time
		for when, text := range h.Changes() {
			at = append(at, when)
			require.True(t, strings.HasPrefix(text, "ready: "), text)
		}
		require.Len(t, at, 64)
		for i := 1; i < len(at); i++ {
			require.Equal(t, time.Second, at[i].Sub(at[i-1]), "oldest first")
		}
		require.Equal(t, time.Second, time.Since(at[63]))
	})
}

func TestRunCannotRunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := one(health.Check{Probe: pass})
		run(t, h)
		require.ErrorContains(t, h.Run(t.Context()), "health: Run: the checks are already running")
	})
}
