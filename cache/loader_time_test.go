package cache_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

func TestLoaderServesAStaleValueAtOnceWhileOneReloadRuns(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, StaleFor: time.Hour}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		loaderGet(t, l, "a")
		src.slow = time.Second
		time.Sleep(time.Minute)
		from := time.Now()
		for range 100 {
			require.Equal(t, "a#1", loaderGet(t, l, "a"))
		}
		require.Zero(t, time.Since(from))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, "a#2", loaderGet(t, l, "a"))
		st := l.Stats()
		require.EqualValues(t, 2, st.Loads)
		require.EqualValues(t, 1, st.Reloads)
		require.EqualValues(t, 100, st.Stale)
	})
}

func TestLoaderServesAStaleValueWhileReloadsFailAndTriesLessAndLessOften(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, StaleFor: time.Hour}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		loaderGet(t, l, "a")
		time.Sleep(time.Minute)
		src.failWith(errors.New("source is down"))
		asked := func(d time.Duration) int64 {
			before := src.asked.Load()
			for until := time.Now().Add(d); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
				require.Equal(t, "a#1", loaderGet(t, l, "a"))
				synctest.Wait()
			}
			return src.asked.Load() - before
		}
		require.EqualValues(t, 1, asked(time.Second))
		require.EqualValues(t, 1, asked(2*time.Second))
		require.EqualValues(t, 1, asked(4*time.Second))
		require.EqualValues(t, 1, asked(8*time.Second))
		require.EqualValues(t, 1, asked(16*time.Second))
		require.EqualValues(t, 2, asked(64*time.Second), "32 seconds are the most")
		src.failWith(nil)
		time.Sleep(32 * time.Second)
		require.Equal(t, "a#1", loaderGet(t, l, "a"))
		synctest.Wait()
		require.Contains(t, loaderGet(t, l, "a"), "a#")
		require.NotEqual(t, "a#1", loaderGet(t, l, "a"))
	})
}

func TestLoaderStopsServingAValueWhenStaleForIsOver(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, StaleFor: time.Minute}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		loaderGet(t, l, "a")
		src.failWith(errors.New("source is down"))
		time.Sleep(2*time.Minute - time.Nanosecond)
		require.Equal(t, "a#1", loaderGet(t, l, "a"))
		synctest.Wait()
		time.Sleep(time.Nanosecond)
		_, err := l.Get(t.Context(), "a")
		require.EqualError(t, err, "source is down")
	})
}

func TestLoaderKeepsANegativeAnswerForATimeOfItsOwn(t *testing.T) {
	src := &loaderSource{}
	noRows := errors.New("no rows")
	src.failWith(fmt.Errorf("select: %w", noRows))
	cfg := cache.LoaderConfig[string, string]{
		TTL: time.Hour, StaleFor: time.Hour, NotFoundTTL: time.Second,
		NotFound: func(err error) bool { return errors.Is(err, noRows) },
	}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		for range 10 {
			_, err := l.Get(t.Context(), "a")
			require.ErrorIs(t, err, cache.ErrNotFound)
			require.ErrorIs(t, err, noRows, "what the source said is there too")
			require.EqualError(t, err, "select: no rows")
		}
		require.EqualValues(t, 1, src.asked.Load())
		_, ok := l.Peek("a")
		require.False(t, ok)
		src.failWith(nil)
		time.Sleep(time.Second)
		require.Equal(t, "a#2", loaderGet(t, l, "a"))
		require.EqualValues(t, 1, l.Stats().NotFound)
		require.Zero(t, l.Stats().Failures)
	})
}

func TestLoaderForgetsAValueThatIsGoneFromTheSource(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, StaleFor: time.Hour, NotFoundTTL: -1}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		loaderGet(t, l, "a")
		src.failWith(cache.ErrNotFound)
		time.Sleep(time.Minute)
		loaderGet(t, l, "a") // stale, and starts the reload that finds nothing
		synctest.Wait()
		_, err := l.Get(t.Context(), "a")
		require.ErrorIs(t, err, cache.ErrNotFound)
		require.EqualValues(t, 3, src.asked.Load(), "with a negative NotFoundTTL every Get asks")
		require.Zero(t, l.Stats().Entries)
	})
}

func TestLoaderKeepsAnErrorForAMomentThatDoubles(t *testing.T) {
	src := &loaderSource{}
	src.failWith(errors.New("source is down"))
	loaderBubble(t, src, cache.LoaderConfig[string, string]{ErrorTTL: time.Second}, func(t *testing.T, l *cache.Loader[string, string]) {
		for i, pause := range []time.Duration{1, 2, 4, 8, 16, 32, 32} {
			_, err := l.Get(t.Context(), "a")
			require.EqualError(t, err, "source is down")
			require.EqualValues(t, i+1, src.asked.Load())
			time.Sleep(pause*time.Second - time.Nanosecond)
			_, err = l.Get(t.Context(), "a")
			require.EqualError(t, err, "source is down")
			require.EqualValues(t, i+1, src.asked.Load())
			time.Sleep(time.Nanosecond)
		}
		src.failWith(nil)
		require.Equal(t, "a#8", loaderGet(t, l, "a"))
	})
}

func TestLoaderAsksAgainAfterAnErrorByDefault(t *testing.T) {
	src := &loaderSource{}
	src.failWith(errors.New("hiccup"))
	loaderBubble(t, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, l *cache.Loader[string, string]) {
		_, err := l.Get(t.Context(), "a")
		require.EqualError(t, err, "hiccup")
		src.failWith(nil)
		require.Equal(t, "a#2", loaderGet(t, l, "a"))
	})
}

func TestLoaderReloadsAHotKeyEarlyByTheXFetchFormula(t *testing.T) {
	// took is 1 s, so at d before the expiry one Get reloads with probability
	// exp(-d/1s): once in 22,000 at 10 s, once in 7.4 at 2 s.
	trials, early := 400, map[time.Duration]int{}
	for _, before := range []time.Duration{10 * time.Second, 2 * time.Second, time.Second / 2} {
		for range trials {
			src := &loaderSource{slow: time.Second}
			cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, EarlyBeta: 1}
			loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
				loaderGet(t, l, "a")
				time.Sleep(time.Minute - before)
				require.Equal(t, "a#1", loaderGet(t, l, "a"), "served at once all the same")
				synctest.Wait()
				if src.asked.Load() == 2 {
					early[before]++
				}
			})
		}
	}
	require.LessOrEqual(t, early[10*time.Second], 2)
	require.InDelta(t, 0.135*float64(trials), early[2*time.Second], 35) // five standard deviations
	require.InDelta(t, 0.607*float64(trials), early[time.Second/2], 50)
}

func TestLoaderJitterOnlyShortensTheTTL(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: 100 * time.Second, Jitter: 0.2}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		for i := range 1000 {
			loaderGet(t, l, fmt.Sprint(i))
		}
		kept := func() (n int) {
			for i := range 1000 {
				if _, ok := l.Peek(fmt.Sprint(i)); ok {
					n++
				}
			}
			return n
		}
		time.Sleep(80*time.Second - time.Nanosecond)
		require.Equal(t, 1000, kept())
		time.Sleep(10 * time.Second)
		require.InDelta(t, 500, kept(), 80)
		time.Sleep(10*time.Second + time.Nanosecond)
		require.Zero(t, kept())
	})
}

func TestLoaderTTLOfGivesEachValueItsOwnTime(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{
		TTL: time.Minute,
		TTLOf: func(key, value string) time.Duration {
			return map[string]time.Duration{"short": time.Second, "never": -1}[key]
		},
	}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		require.Equal(t, "short#1", loaderGet(t, l, "short"))
		require.Equal(t, "long#2", loaderGet(t, l, "long"))
		require.Equal(t, "never#3", loaderGet(t, l, "never"))
		require.Equal(t, "never#4", loaderGet(t, l, "never"))
		time.Sleep(time.Second)
		require.Equal(t, "short#5", loaderGet(t, l, "short"))
		require.Equal(t, "long#2", loaderGet(t, l, "long"))
	})
}

func TestLoaderKeepsForEverWithANegativeTTL(t *testing.T) {
	src := &loaderSource{}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{TTL: -1, StaleFor: time.Hour}, func(t *testing.T, l *cache.Loader[string, string]) {
		loaderGet(t, l, "a")
		time.Sleep(50 * 365 * 24 * time.Hour)
		require.Equal(t, "a#1", loaderGet(t, l, "a"))
	})
}
