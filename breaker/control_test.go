package breaker_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

// conditions returns what b says is wrong, a line each.
func conditions(b *breaker.Breaker) (lines []string) {
	for subject, what := range b.Conditions() {
		lines = append(lines, subject+": "+what)
	}
	return lines
}

func changes(b *breaker.Breaker) (lines []string) {
	for at, what := range b.Changes() {
		lines = append(lines, at.UTC().Format("05.000 ")+what)
	}
	return lines
}

func TestForceOpenEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(breaker.Config{Name: "mail"})
		b.ForceOpen(time.Minute, "maintenance")
		require.Equal(t, breaker.Open, b.State())
		require.Equal(t, []string{"mail: forced open until 00:01:00Z: maintenance"}, conditions(b))
		time.Sleep(time.Minute - 1)
		err := try(b, nil)
		require.EqualError(t, err, "breaker: mail is open until 2000-01-01T00:01:00Z: forced open: maintenance")
		time.Sleep(time.Nanosecond)
		require.NoError(t, try(b, nil))
		require.Equal(t, breaker.Closed, b.State())
		require.Empty(t, conditions(b))
		require.Equal(t, []string{
			"00.000 mail: opened: forced open: maintenance",
			"00.000 mail: closed: no longer forced open",
		}, changes(b))
	})
}

func TestAForcedKeyThatNobodyCallsIsReleasedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(breaker.Config{})
		b.For("k").ForceOpen(time.Minute, "moving")
		require.Equal(t, breaker.Open, b.State())
		time.Sleep(time.Minute)
		require.Equal(t, breaker.Closed, b.State())
	})
}

func TestForceClosedLetsEverythingThroughAndLearnsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(breaker.Config{Name: "mail", ConsecutiveFailures: 1})
		_ = try(b, errDown)
		b.ForceClosed(time.Minute, "we know")
		require.Equal(t, breaker.Closed, b.State())
		for range 100 {
			require.ErrorIs(t, try(b, errDown), errDown)
		}
		require.EqualValues(t, 101, b.Stats().Failed)
		require.EqualValues(t, 100, b.Stats().Spared)
		require.Equal(t, []string{"mail: forced closed until 00:01:00Z: we know"}, conditions(b))
		b.Release()
		require.Equal(t, breaker.Open, b.State(), "it goes on where it was")
	})
}

func TestForceOnTheBreakerSpeaksForEveryKey(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	b.ForceOpen(0, "")
	require.ErrorIs(t, try(b.For("a"), nil), breaker.ErrOpen)
	require.Equal(t, breaker.Open, b.For("a").State())
	b.ForceClosed(0, "")
	b.For("a").ForceOpen(0, "")
	require.NoError(t, try(b.For("a"), nil), "the Breaker's own word comes first")
	b.Release()
	require.ErrorIs(t, try(b.For("a"), nil), breaker.ErrOpen)
	require.NoError(t, try(b.For("b"), nil))
	b.Reset()
	require.NoError(t, try(b.For("a"), nil))
}

func TestDryRunDecidesAndReportsButNeverRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{Name: "mail", DryRun: true}))
		for range 50 {
			require.ErrorIs(t, try(b, errDown), errDown)
		}
		s := b.Stats()
		require.Equal(t, breaker.Open, s.State)
		require.EqualValues(t, 30, s.Spared)
		require.Zero(t, s.Refused)
		require.Equal(t, []string{
			"mail: dry run: no call is refused",
			"mail: open until 00:00:05Z: 20 of 20 calls failed",
		}, conditions(b))

		time.Sleep(5 * time.Second)
		times(b, 3, nil)
		require.Equal(t, breaker.Closed, b.State(), "probes decide in a dry run too")

		b.SetDryRun(false)
		times(b, 20, errDown)
		require.ErrorIs(t, try(b, nil), breaker.ErrOpen)
	})
}

func TestResetClosesAndForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{}))
		times(b, 20, errDown)
		b.Reset()
		require.Equal(t, breaker.Closed, b.State())
		times(b, 19, errDown)
		require.Equal(t, breaker.Closed, b.State(), "the failures from before are forgotten")
		require.EqualValues(t, 39, b.Stats().Failed, "the totals are not")
		_ = try(b, errDown)
		require.Equal(t, 5*time.Second, time.Until(b.Stats().Until), "and so is the growth")
	})
}

func TestRampAdmitsAGrowingShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{Name: "mail", ConsecutiveFailures: 1, Ramp: 100 * time.Second}))
		_ = try(b, errDown)
		time.Sleep(5 * time.Second)
		times(b, 3, nil)
		require.Equal(t, breaker.Recovering, b.State())
		require.Equal(t, []string{"mail: recovering until 00:01:45Z"}, conditions(b))

		var shares []float64
		for range 10 { // ten times 10 s
			passed := 0
			for range 5000 {
				if try(b, nil) == nil {
					passed++
				}
				time.Sleep(2 * time.Millisecond)
			}
			shares = append(shares, float64(passed)/5000)
		}
		require.True(t, slices.IsSorted(shares), "%v", shares)
		require.InDelta(t, 0.145, shares[0], 0.05)
		require.InDelta(t, 0.955, shares[9], 0.05)

		require.NoError(t, try(b, nil))
		require.Equal(t, breaker.Closed, b.State())
		require.Equal(t, "mail: closed: full traffic", changes(b)[3][len("05.000 "):])

		_ = try(b, errDown)
		time.Sleep(5 * time.Second)
		times(b, 3, nil)
		for b.State() == breaker.Recovering {
			_ = try(b, errDown)
		}
		require.Equal(t, breaker.Open, b.State(), "a failure on the way up opens it again")
	})
}

func TestOnChangeComesInOrderOnceAndSurvivesPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		b := breaker.MustNew(steady(breaker.Config{
			Name: "mail", ConsecutiveFailures: 1, Probes: 1,
			OnChange: func(c breaker.Change) {
				got = append(got, fmt.Sprint(c.From, " to ", c.To))
				panic("a bug in the hook")
			},
		}))
		for range 2 {
			_ = try(b, errDown)
			time.Sleep(10 * time.Second)
			require.NoError(t, try(b, nil))
		}
		require.Equal(t, []string{
			"closed to open", "open to half-open", "half-open to closed",
			"closed to open", "open to half-open", "half-open to closed",
		}, got)
		require.EqualValues(t, 6, b.Stats().HookPanics)
	})
}

func TestChangesKeepsTheLast64(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	for range 50 {
		b.ForceOpen(0, "")
		b.Release()
	}
	require.Len(t, changes(b), 64)
	for range b.Changes() {
		break // an early end is fine
	}
}

func TestJitterShortensOpenTimesAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(map[time.Duration]bool)
		for range 100 {
			b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1, OpenFor: 10 * time.Second, Jitter: 0.5})
			_ = try(b, errDown)
			d := time.Until(b.Stats().Until)
			require.GreaterOrEqual(t, d, 5*time.Second)
			require.LessOrEqual(t, d, 10*time.Second)
			seen[d] = true
		}
		require.Greater(t, len(seen), 90)
	})
}

func TestAProbesSlownessIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, SlowCall: time.Second, ProbeLease: time.Minute}))
		_ = try(b, errDown)
		time.Sleep(5 * time.Second)
		_, err := breaker.Do(t.Context(), b, func(context.Context) (int, error) { time.Sleep(time.Second); return 1, nil })
		require.NoError(t, err)
		require.Equal(t, breaker.Open, b.State())
		require.Equal(t, "a probe was slow", b.Stats().Why)
	})
}

func TestRefusalsWhileProbingAskForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{Name: "mail", ConsecutiveFailures: 1, Probes: 2}))
		_ = try(b, errDown)
		time.Sleep(5 * time.Second)
		done, err := b.Allow(t.Context())
		require.NoError(t, err)
		var e *breaker.OpenError
		require.ErrorAs(t, try(b, nil), &e)
		require.Equal(t, breaker.HalfOpen, e.State)
		require.Equal(t, time.Second, e.RetryAfter())
		require.Equal(t, "breaker: mail is half-open: probing", e.Error())
		require.Equal(t, []string{"mail: half-open: 0 of 2 probes succeeded, 1 in flight"}, conditions(b))
		done(nil)
		require.Equal(t, []string{"mail: half-open: 1 of 2 probes succeeded, 0 in flight"}, conditions(b))

		b.Reset()
		_ = try(b, errDown)
		time.Sleep(6 * time.Second)
		require.Equal(t, []string{"mail: open, the next call will be a probe: a call failed"}, conditions(b))
	})
}

func TestACancelledProbeGivesItsPlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, Probes: 1}))
		_ = try(b, errDown)
		time.Sleep(5 * time.Second)
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := breaker.Do(ctx, b, func(ctx context.Context) (int, error) { cancel(); return 0, ctx.Err() })
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, breaker.HalfOpen, b.State())
		}
		require.NoError(t, try(b, nil))
		require.Equal(t, breaker.Closed, b.State())
	})
}

func TestResultsFromBeforeAStateChangeAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, Probes: 2, SlowCall: -1}))
		ok, _ := b.Allow(t.Context())
		bad, _ := b.Allow(t.Context())
		_ = try(b, errDown)
		time.Sleep(5 * time.Second)
		require.NoError(t, try(b, nil))
		ok(nil)
		require.Equal(t, breaker.HalfOpen, b.State(), "a success from before is no probe")
		bad(errDown)
		require.Equal(t, breaker.HalfOpen, b.State(), "nor is a failure")
		require.NoError(t, try(b, nil))
		require.Equal(t, breaker.Closed, b.State())
	})
}

func TestDoneCountsOnce(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	done, err := b.Allow(t.Context())
	require.NoError(t, err)
	done(nil)
	done(errDown)
	done(errDown)
	require.EqualValues(t, 1, b.Stats().Succeeded)
	require.Zero(t, b.Stats().Failed)
}

func TestAHungCallIsForgottenAfterAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(breaker.Config{SlowCall: time.Second, MinCalls: 4})
		for range 3 {
			_, err := b.Allow(t.Context()) // done is forgotten
			require.NoError(t, err)
		}
		time.Sleep(2 * time.Second)
		require.NoError(t, try(b, nil))
		require.NoError(t, try(b, nil))
		require.Equal(t, breaker.Closed, b.State(), "three are fewer than MinCalls, the fourth came after")
		require.Equal(t, 3, b.Stats().WindowSlow)
		time.Sleep(10 * time.Second)
		require.NoError(t, try(b, nil))
		require.Zero(t, b.Stats().WindowSlow)
	})
}
