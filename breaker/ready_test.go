package breaker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

func TestReadyComesBackWhenTheOpenTimeIsOverWithoutACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1}))
		require.True(t, b.Ready(), "closed")
		_ = try(b, errDown)
		require.False(t, b.Ready(), "open")
		time.Sleep(5*time.Second - 1)
		require.False(t, b.Ready(), "one nanosecond early")
		time.Sleep(time.Nanosecond)
		for range 100 {
			require.True(t, b.Ready(), "asking takes no probe")
		}
		require.Equal(t, breaker.Open, b.State(), "and moves nothing on")
		_ = try(b, errDown)
		require.False(t, b.Ready(), "the probe failed")
		time.Sleep(10 * time.Second)
		times(b, 3, nil)
		require.True(t, b.Ready(), "closed again")
		require.Zero(t, b.Stats().Refused, "asking is no call")
	})
}

func TestReadyIsFalseWhileNoProbeHasRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, ProbesAtOnce: 2}))
		_ = try(b, errDown)
		time.Sleep(5 * time.Second)
		first, err := b.Allow(t.Context())
		require.NoError(t, err)
		require.True(t, b.Ready(), "room for a second probe")
		second, err := b.Allow(t.Context())
		require.NoError(t, err)
		require.False(t, b.Ready())
		_, err = b.Allow(t.Context())
		require.ErrorIs(t, err, breaker.ErrOpen, "as Ready said")
		first(nil)
		require.True(t, b.Ready())
		second(nil)
		require.True(t, b.Ready())
	})
}

func TestReadyWhenTheLeaseOfAProbeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1}))
		_ = try(b, errDown)
		time.Sleep(5 * time.Second)
		_, err := b.Allow(t.Context()) // and its end never comes
		require.NoError(t, err)
		time.Sleep(10*time.Second - 1)
		require.False(t, b.Ready())
		time.Sleep(time.Nanosecond)
		require.True(t, b.Ready(), "else no call would come to write it off")
	})
}

func TestReadyIsForEachKeyAndForWhatIsForced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1}))
		_ = try(b.For("http://noisy"), errDown)
		require.False(t, b.For("http://noisy").Ready())
		require.True(t, b.For("http://quiet").Ready())
		require.True(t, b.Ready(), "its own circuit is closed")

		b.ForceOpen(time.Minute, "maintenance")
		require.False(t, b.Ready())
		require.False(t, b.For("http://quiet").Ready())
		time.Sleep(time.Minute)
		require.True(t, b.Ready(), "it ended by itself")

		_ = try(b, errDown)
		b.ForceClosed(0, "we know")
		require.True(t, b.Ready())
		b.Release()
		require.False(t, b.Ready(), "it goes on where it was")
		b.SetDryRun(true)
		require.True(t, b.Ready(), "a dry run refuses nothing")
	})
}

func TestReadyWhileRecovering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, Ramp: time.Minute}))
		_ = try(b, errDown)
		time.Sleep(5 * time.Second)
		times(b, 3, nil)
		require.Equal(t, breaker.Recovering, b.State())
		require.True(t, b.Ready())
	})
}

func TestWhatGoesOffWithTheBreakerComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		down, calls := true, 0
		for ctx.Err() == nil { // a caller that sends nothing while the breaker isn't ready
			if b.Ready() {
				calls++
				if down {
					_ = try(b, errDown)
					down = false
				} else {
					require.NoError(t, try(b, nil))
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, breaker.Closed, b.State())
		require.Greater(t, calls, 500)
	})
}
