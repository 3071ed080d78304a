package cache

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// However fast the hits come, and so however rarely they read the clock, what
// they are given is fresh to the nanosecond.
func TestLoaderExpiresToTheNanosecondHoweverFastTheHits(t *testing.T) {
	for _, ttl := range []time.Duration{
		time.Millisecond, loaderTick, loaderSure - 1, loaderSure, loaderSure + 1, loaderSure + loaderTick/2,
		loaderSure + loaderTick, loaderSure + loaderTick + 1, time.Minute,
	} {
		for _, step := range []time.Duration{0, loaderTick / 3, loaderTick, loaderSure / 3} {
			synctest.Test(t, func(t *testing.T) {
				loads := 0
				l := MustNewLoader(LoaderConfig[string, int]{
					Load: func(context.Context, string) (int, error) { loads++; return loads, nil },
					TTL:  ttl, Jitter: -1, EarlyBeta: -1,
				})
				defer l.Close()
				burst := func(want int) {
					for range 5 {
						v, err := l.Get(t.Context(), "a")
						require.NoError(t, err)
						require.Equal(t, want, v, "after %v of %v", time.Duration(l.now()), ttl)
					}
				}
				burst(1)
				for left := ttl - 1; left > 0; {
					wait := left
					if step > 0 {
						wait = min(left, step)
					}
					time.Sleep(wait)
					burst(1)
					left -= wait
				}
				time.Sleep(time.Nanosecond)
				burst(2)
			})
		}
	}
}

func TestLoaderReadsTheClockOnceForManyHits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := MustNewLoader(LoaderConfig[string, int]{
			Load: func(context.Context, string) (int, error) { return 1, nil },
			TTL:  time.Minute, Jitter: -1, EarlyBeta: -1,
		})
		get := func() { _, _ = l.Get(t.Context(), "a") }
		ticks := func() bool { return l.clock.sure.Load() != loaderNever }
		get()
		for range 10 {
			time.Sleep(loaderFast)
			get()
			require.False(t, ticks(), "hits that come slowly start no timer")
		}
		get()
		require.True(t, ticks(), "two at once do")
		time.Sleep(loaderTick)
		synctest.Wait()
		require.False(t, ticks(), "it ends by itself")
		require.Nil(t, l.clock.tick)

		time.Sleep(time.Second)
		get()
		get()
		require.True(t, ticks())
		require.NoError(t, l.Close())
		require.False(t, ticks(), "and on Close")
		get()
		get()
		get()
		require.False(t, ticks(), "after which there is none")
	})
}

func TestLoaderReadsTheClockForEachHitOnWhatIsSoonToExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := MustNewLoader(LoaderConfig[string, int]{
			Load: func(context.Context, string) (int, error) { return 1, nil },
			TTL:  loaderSure, Jitter: -1,
		})
		defer l.Close()
		for range 10 {
			_, _ = l.Get(t.Context(), "a")
		}
		require.Equal(t, int64(loaderNever), l.clock.sure.Load())
		require.Zero(t, l.clock.last.Load(), "nor do the hits write what they have read")
	})
}
