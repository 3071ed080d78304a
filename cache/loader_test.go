package cache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

// loaderSource is a source whose answers tell how often it was asked.
type loaderSource struct {
	asked atomic.Int64
	slow  time.Duration
	mu    sync.Mutex
	fail  error
}

func (s *loaderSource) load(ctx context.Context, key string) (string, error) {
	n := s.asked.Add(1)
	if s.slow > 0 {
		select {
		case <-time.After(s.slow):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return "", s.fail
	}
	return fmt.Sprintf("%s#%d", key, n), nil
}

func (s *loaderSource) failWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// loaderBubble runs f with a Loader in a bubble. Unless cfg says otherwise its
// times to live are exact.
func loaderBubble(t *testing.T, src *loaderSource, cfg cache.LoaderConfig[string, string], f func(t *testing.T, l *cache.Loader[string, string])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if cfg.Load == nil {
			cfg.Load = src.load
		}
		if cfg.Jitter == 0 {
			cfg.Jitter = -1
		}
		if cfg.EarlyBeta == 0 {
			cfg.EarlyBeta = -1
		}
		l := cache.MustNewLoader(cfg)
		defer l.Close()
		f(t, l)
	})
}

func loaderGet(t *testing.T, l *cache.Loader[string, string], key string) string {
	t.Helper()
	v, err := l.Get(t.Context(), key)
	require.NoError(t, err)
	return v
}

func TestLoaderKeepsAValueForItsTTLToTheNanosecond(t *testing.T) {
	src := &loaderSource{}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{TTL: time.Minute}, func(t *testing.T, l *cache.Loader[string, string]) {
		require.Equal(t, "a#1", loaderGet(t, l, "a"))
		time.Sleep(time.Minute - time.Nanosecond)
		require.Equal(t, "a#1", loaderGet(t, l, "a"), "one nanosecond early")
		time.Sleep(time.Nanosecond)
		require.Equal(t, "a#2", loaderGet(t, l, "a"))
		st := l.Stats()
		require.EqualValues(t, 1, st.Hits)
		require.EqualValues(t, 2, st.Misses)
		require.EqualValues(t, 2, st.Loads)
		require.Equal(t, 1, st.Entries)
	})
}

func TestLoaderLoadsAKeyOnceForTenThousandConcurrentMisses(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, l *cache.Loader[string, string]) {
		var wg sync.WaitGroup
		for range 10_000 {
			wg.Go(func() {
				if v, err := l.Get(t.Context(), "hot"); v != "hot#1" || err != nil {
					t.Errorf("got %q, %v", v, err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, src.asked.Load())
		require.EqualValues(t, 9999, l.Stats().Coalesced)
	})
}

func TestLoaderGoesOnLoadingWhenTheFirstCallerGivesUp(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, l *cache.Loader[string, string]) {
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() {
			_, err := l.Get(ctx, "a")
			first <- err
		}()
		synctest.Wait()
		second := make(chan string, 1)
		go func() { second <- loaderGet(t, l, "a") }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-first, context.Canceled)
		require.Equal(t, "a#1", <-second)
		require.EqualValues(t, 1, src.asked.Load())
	})
}

type loaderCtxKey struct{}

func TestLoaderGivesALoadTheValuesOfItsCallerAndADeadlineOfItsOwn(t *testing.T) {
	var got any
	var left time.Duration
	load := func(ctx context.Context, key string) (string, error) {
		got = ctx.Value(loaderCtxKey{})
		at, _ := ctx.Deadline()
		left = time.Until(at)
		return key, nil
	}
	loaderBubble(t, nil, cache.LoaderConfig[string, string]{Load: load, LoadTimeout: 7 * time.Second}, func(t *testing.T, l *cache.Loader[string, string]) {
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), loaderCtxKey{}, "trace"), time.Second)
		defer cancel()
		_, err := l.Get(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, "trace", got)
		require.Equal(t, 7*time.Second, left)
	})
}

func TestLoaderLetsGoOfALoadThatPaysNoHeedToItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var calls atomic.Int64
		l := cache.MustNewLoader(cache.LoaderConfig[string, string]{
			LoadTimeout: time.Second,
			Load: func(context.Context, string) (string, error) {
				calls.Add(1)
				<-release
				return "late", nil
			},
		})
		from := time.Now()
		_, err := l.Get(t.Context(), "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "LoadTimeout (1s)")
		require.Equal(t, time.Second, time.Since(from))
		_, err = l.Get(t.Context(), "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualValues(t, 1, calls.Load(), "no second load while the first still runs")
		close(release)
		synctest.Wait()
		v, err := l.Get(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, "late", v, "what came in the end is kept")
		l.Close()
	})
}

func TestLoaderTurnsAPanicIntoAnErrorForThoseWhoWait(t *testing.T) {
	n := 0
	load := func(_ context.Context, key string) (string, error) {
		if n++; n == 1 {
			panic(errors.New("boom"))
		}
		return key, nil
	}
	loaderBubble(t, nil, cache.LoaderConfig[string, string]{Load: load}, func(t *testing.T, l *cache.Loader[string, string]) {
		_, err := l.Get(t.Context(), "a")
		var panicked *cache.LoadPanicError
		require.ErrorAs(t, err, &panicked)
		require.EqualError(t, panicked.Unwrap(), "boom")
		require.Contains(t, string(panicked.Stack), "loader_test.go", "the stack leads to the culprit")
		require.Equal(t, "a", loaderGet(t, l, "a"), "and nothing else is broken")
		require.EqualValues(t, 1, l.Stats().Panics)
	})
}

func TestLoaderSurvivesALoadThatEndsItsGoroutine(t *testing.T) {
	load := func(context.Context, string) (string, error) { runtime.Goexit(); return "", nil }
	loaderBubble(t, nil, cache.LoaderConfig[string, string]{Load: load, MaxLoads: 1}, func(t *testing.T, l *cache.Loader[string, string]) {
		for range 2 { // the second would wait for ever if the first kept its place
			_, err := l.Get(t.Context(), "a")
			require.ErrorContains(t, err, "Goexit")
		}
	})
}

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

func TestLoaderRunsNoMoreThanMaxLoadsAtOnce(t *testing.T) {
	var running, most atomic.Int64
	load := func(ctx context.Context, key string) (string, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		time.Sleep(time.Second)
		return key, nil
	}
	loaderBubble(t, nil, cache.LoaderConfig[string, string]{Load: load, MaxLoads: 3}, func(t *testing.T, l *cache.Loader[string, string]) {
		from := time.Now()
		var wg sync.WaitGroup
		for i := range 9 {
			wg.Go(func() { _, _ = l.Get(t.Context(), fmt.Sprint(i)) })
		}
		wg.Wait()
		require.EqualValues(t, 3, most.Load())
		require.Equal(t, 3*time.Second, time.Since(from))
	})
}

func TestLoaderFailsALoadThatDoesNotGetItsTurnInTime(t *testing.T) {
	src := &loaderSource{slow: 10 * time.Second}
	cfg := cache.LoaderConfig[string, string]{MaxLoads: 1, LoadTimeout: 11 * time.Second}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		go func() { _, _ = l.Get(t.Context(), "a") }()
		go func() { _, _ = l.Get(t.Context(), "b") }()
		synctest.Wait()
		_, err := l.Get(t.Context(), "c")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestLoaderPutsAReloadOffWhileThereIsNoPlaceForIt(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, StaleFor: time.Hour, MaxLoads: 1}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		loaderGet(t, l, "a")
		time.Sleep(time.Minute)
		src.slow = time.Second
		go func() { _, _ = l.Get(t.Context(), "b") }()
		synctest.Wait()
		require.Equal(t, "a#1", loaderGet(t, l, "a"))
		require.Equal(t, 1, l.Stats().InFlight, "only that of b")
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, "a#1", loaderGet(t, l, "a"))
		require.Equal(t, 1, l.Stats().InFlight, "now that of a")
	})
}

func TestLoaderDeleteWinsOverALoadInFlight(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, l *cache.Loader[string, string]) {
		old := make(chan string, 1)
		go func() { old <- loaderGet(t, l, "a") }()
		synctest.Wait()
		require.NoError(t, l.Delete(t.Context(), "a"))
		require.Equal(t, "a#2", loaderGet(t, l, "a"), "asks anew and doesn't join the old load")
		require.Equal(t, "a#1", <-old, "who asked before is given what came")
		require.Equal(t, "a#2", loaderGet(t, l, "a"))
		require.EqualValues(t, 2, src.asked.Load())
	})
}

func TestLoaderSetWinsOverALoadInFlight(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, l *cache.Loader[string, string]) {
		go func() { _, _ = l.Get(t.Context(), "a") }()
		synctest.Wait()
		require.NoError(t, l.Set(t.Context(), "a", "mine"))
		time.Sleep(2 * time.Second)
		require.Equal(t, "mine", loaderGet(t, l, "a"))
		v, ok := l.Peek("a")
		require.True(t, ok)
		require.Equal(t, "mine", v)
	})
}

func TestLoaderDeleteWinsOverAReloadInFlight(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, StaleFor: time.Hour}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		loaderGet(t, l, "a")
		time.Sleep(time.Minute)
		src.slow = time.Second
		loaderGet(t, l, "a") // starts the reload
		synctest.Wait()
		require.NoError(t, l.Delete(t.Context(), "a"))
		time.Sleep(time.Second)
		synctest.Wait()
		_, ok := l.Peek("a")
		require.False(t, ok, "the reload was of the time before Delete")
	})
}

func TestLoaderCloseEndsTheLoadsThatRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &loaderSource{slow: time.Hour}
		l := cache.MustNewLoader(cache.LoaderConfig[string, string]{Load: src.load, LoadTimeout: -1})
		require.NoError(t, l.Set(t.Context(), "b", "kept"))
		failed := make(chan error, 1)
		go func() {
			_, err := l.Get(t.Context(), "a")
			failed <- err
		}()
		synctest.Wait()
		from := time.Now()
		require.NoError(t, l.Close())
		require.Zero(t, time.Since(from))
		require.Error(t, <-failed)
		_, err := l.Get(t.Context(), "a")
		require.ErrorIs(t, err, cache.ErrLoaderClosed)
		require.Equal(t, "kept", loaderGet(t, l, "b"))
		require.NoError(t, l.Close(), "twice does no harm")
		require.EqualValues(t, 1, src.asked.Load())
	}) // and the bubble checks that no goroutine is left
}

func TestLoaderNeverHoldsMoreThanMaxEntries(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 10, 100, 1000, 5000} {
		evicted := 0
		l := cache.MustNewLoader(cache.LoaderConfig[int, int]{
			Load:       func(_ context.Context, k int) (int, error) { return k, nil },
			MaxEntries: limit,
			OnEvict:    func(k, v int) { require.Equal(t, k, v); evicted++ },
		})
		for k := range 3 * limit {
			v, err := l.Get(t.Context(), k)
			require.NoError(t, err)
			require.Equal(t, k, v)
			require.LessOrEqual(t, l.Stats().Entries, limit)
		}
		st := l.Stats()
		if limit > 10 {
			require.Greater(t, st.Entries, limit*9/10, "and uses the room")
		}
		require.EqualValues(t, 3*limit-st.Entries, st.Evictions)
		require.EqualValues(t, st.Evictions, evicted)
		l.Close()
	}
}

func TestLoaderNeverHoldsMoreThanMaxCost(t *testing.T) {
	l := cache.MustNewLoader(cache.LoaderConfig[int, []byte]{
		Load:    func(_ context.Context, k int) ([]byte, error) { return make([]byte, k%1000), nil },
		MaxCost: 100_000,
		Cost:    func(_ int, v []byte) int64 { return int64(len(v)) },
	})
	defer l.Close()
	for k := range 5000 {
		v, err := l.Get(t.Context(), k)
		require.NoError(t, err)
		require.Len(t, v, k%1000)
		require.LessOrEqual(t, l.Stats().Cost, int64(100_000))
	}
	require.Greater(t, l.Stats().Cost, int64(80_000))
	require.NoError(t, l.Set(t.Context(), 1, make([]byte, 50_000)), "too large to be kept")
	_, ok := l.Peek(1)
	require.False(t, ok)
}

func TestLoaderSaysWhenTheSourceFailsAndWhenItIsBack(t *testing.T) {
	src := &loaderSource{}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{Name: "products"}, func(t *testing.T, l *cache.Loader[string, string]) {
		conditions := func() (all []string) {
			for subject, text := range l.Conditions() {
				all = append(all, subject+": "+text)
			}
			return all
		}
		src.failWith(errors.New("connection refused\nand more"))
		for range 4 {
			_, _ = l.Get(t.Context(), "a")
		}
		require.Empty(t, conditions())
		_, _ = l.Get(t.Context(), "a")
		require.Equal(t, []string{"products: the source fails since 00:00:00Z: 5 loads in a row, the last with: connection refused"}, conditions())
		src.failWith(nil)
		loaderGet(t, l, "a")
		require.Empty(t, conditions())
		var changes []string
		for _, text := range l.Changes() {
			changes = append(changes, text)
		}
		require.Equal(t, []string{
			"products: the source fails: 5 loads in a row, the last with: connection refused",
			"products: the source answers again, after 5 failed loads",
		}, changes)
	})
}

func TestLoaderCollectsEverySeriesFromTheStart(t *testing.T) {
	src := &loaderSource{}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{Name: "products"}, func(t *testing.T, l *cache.Loader[string, string]) {
		collect := func() (names []string, values map[string]float64) {
			values = map[string]float64{}
			l.Collect(func(name, help, kind string, value float64, labels ...string) {
				require.NotEmpty(t, help)
				require.Contains(t, []string{"counter", "gauge", "histogram"}, kind)
				require.Equal(t, []string{"loader", "products"}, labels[:2])
				key := name + strings.Join(labels[2:], "=")
				names = append(names, key)
				values[key] = value
			})
			return names, values
		}
		before, _ := collect()
		loaderGet(t, l, "a")
		loaderGet(t, l, "a")
		after, values := collect()
		require.Equal(t, before, after)
		require.EqualValues(t, 1, values["spillway_loader_requests_totaloutcome=hit"])
		require.EqualValues(t, 1, values["spillway_loader_requests_totaloutcome=miss"])
		require.EqualValues(t, 1, values["spillway_loader_loads_totaloutcome=success"])
		require.EqualValues(t, 1, values["spillway_loader_load_duration_seconds_bucketle=+Inf"])
		require.EqualValues(t, 1, values["spillway_loader_entries"])
	})
}

func TestLoaderOutlivesHooksThatPanic(t *testing.T) {
	l := cache.MustNewLoader(cache.LoaderConfig[int, int]{
		Load:       func(_ context.Context, k int) (int, error) { return k, nil },
		MaxEntries: 1,
		OnLoad:     func(cache.LoadEvent[int]) { panic("hook") },
		OnEvict:    func(int, int) { panic("hook") },
	})
	for k := range 3 {
		_, err := l.Get(t.Context(), k)
		require.NoError(t, err)
	}
	l.Close()
	require.EqualValues(t, 5, l.Stats().HookPanics)
}

func TestLoaderRefusesAConfigurationFieldByField(t *testing.T) {
	_, err := cache.NewLoader(cache.LoaderConfig[string, string]{
		Jitter: 1, StaleFor: -1, ErrorTTL: -1, MaxLoads: -1, MaxEntries: -1, MaxCost: -1,
	})
	require.EqualError(t, err, strings.Join([]string{
		"cache: LoaderConfig.Load is nil, must say how a value is loaded",
		"cache: LoaderConfig.Jitter is 1, must be less than 1",
		"cache: LoaderConfig.StaleFor is -1ns, must not be negative",
		"cache: LoaderConfig.ErrorTTL is -1ns, must not be negative",
		"cache: LoaderConfig.MaxLoads is -1, must not be negative",
		"cache: LoaderConfig.MaxEntries is -1, must not be negative",
		"cache: LoaderConfig.MaxCost is -1, must not be negative",
	}, "\n"))
	require.Panics(t, func() { cache.MustNewLoader(cache.LoaderConfig[string, string]{}) })
}

func TestLoaderHitAllocatesNothing(t *testing.T) {
	l := cache.MustNewLoader(cache.LoaderConfig[string, []byte]{
		Load: func(context.Context, string) ([]byte, error) { return make([]byte, 64), nil },
	})
	defer l.Close()
	ctx := t.Context()
	_, _ = l.Get(ctx, "a")
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = l.Get(ctx, "a") }))
}
