package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
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

func TestLoaderSurvivesALoadThatEndsItsGoroutine(t *testing.T) {
	load := func(context.Context, string) (string, error) { runtime.Goexit(); return "", nil }
	loaderBubble(t, nil, cache.LoaderConfig[string, string]{Load: load, MaxLoads: 1}, func(t *testing.T, l *cache.Loader[string, string]) {
		for range 2 { // the second would wait for ever if the first kept its place
			_, err := l.Get(t.Context(), "a")
			require.ErrorContains(t, err, "Goexit")
		}
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
		require.ErrorIs(t, <-failed, cache.ErrClosed)
		_, err := l.Get(t.Context(), "a")
		require.ErrorIs(t, err, cache.ErrClosed)
		require.Equal(t, "kept", loaderGet(t, l, "b"))
		require.NoError(t, l.Close(), "twice does no harm")
		require.EqualValues(t, 1, src.asked.Load())
	}) // and the bubble checks that no goroutine is left
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

func TestLoaderSaysThatALoadHasEndedAtItsDeadline(t *testing.T) {
	src := &loaderSource{slow: time.Minute}
	told := make(chan error, 1)
	cfg := cache.LoaderConfig[string, string]{
		LoadTimeout: time.Second,
		OnLoad:      func(e cache.LoadEvent[string]) { told <- e.Err },
	}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		_, err := l.Get(t.Context(), "a")
		synctest.Wait()
		for _, err := range []error{err, <-told} {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "LoadTimeout (1s)", "not only that some context has ended")
		}
	})
}

func TestLoaderKeepsNothingForAKeyThatCannotBeFoundAgain(t *testing.T) {
	l := cache.MustNewLoader(cache.LoaderConfig[float64, int]{Load: func(context.Context, float64) (int, error) { return 1, nil }})
	defer l.Close()
	for range 10 {
		v, err := l.Get(t.Context(), math.NaN())
		require.NoError(t, err)
		require.Equal(t, 1, v)
	}
	st := l.Stats()
	require.EqualValues(t, 10, st.Loads)
	require.Zero(t, st.Entries)
	require.Zero(t, st.InFlight)
}
