package cache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

// loaderBatches is a source that notes the batches it was asked for.
type loaderBatches struct {
	mu      sync.Mutex
	batches [][]string
	slow    time.Duration
	fail    error
	missing string
}

func (s *loaderBatches) loadMany(ctx context.Context, keys []string) (map[string]string, error) {
	s.mu.Lock()
	s.batches = append(s.batches, slices.Sorted(slices.Values(keys)))
	fail, slow := s.fail, s.slow
	s.mu.Unlock()
	time.Sleep(slow)
	found := map[string]string{}
	for _, k := range keys {
		if k != s.missing && !(fail != nil && k == "bad") {
			found[k] = k + "!"
		}
	}
	return found, fail
}

func (s *loaderBatches) asked() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.batches)
}

func loaderManyBubble(t *testing.T, src *loaderBatches, cfg cache.LoaderConfig[string, string], f func(t *testing.T, l *cache.Loader[string, string])) {
	t.Helper()
	if cfg.LoadMany == nil {
		cfg.LoadMany = src.loadMany
	}
	if cfg.Load == nil {
		cfg.Load = func(context.Context, string) (string, error) { return "", errors.New("not one by one") }
	}
	loaderBubble(t, nil, cfg, f)
}

func TestLoaderGetManyMixesHitsLoadsInFlightAndMisses(t *testing.T) {
	src := &loaderBatches{missing: "none"}
	single := make(chan struct{})
	cfg := cache.LoaderConfig[string, string]{Load: func(_ context.Context, key string) (string, error) {
		<-single
		return key + "?", nil
	}}
	synctest.Test(t, func(t *testing.T) {
		single = make(chan struct{})
		cfg.LoadMany = src.loadMany
		l := cache.MustNewLoader(cfg)
		defer l.Close()
		require.NoError(t, l.Set(t.Context(), "hit", "here"))
		go func() { _, _ = l.Get(t.Context(), "flying") }()
		synctest.Wait()
		go func() {
			time.Sleep(time.Second)
			close(single)
		}()
		got, err := l.GetMany(t.Context(), []string{"hit", "flying", "miss", "none", "miss"})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"hit": "here", "flying": "flying?", "miss": "miss!"}, got)
		require.Equal(t, [][]string{{"miss", "none"}}, src.asked(), "each missing key once, the flying one not at all")

		got, err = l.GetMany(t.Context(), []string{"miss", "none"})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"miss": "miss!"}, got)
		require.Len(t, src.asked(), 1, "what was not found is known too")
	})
}

func TestLoaderGetManyKeepsBatchesWithinMaxBatch(t *testing.T) {
	src := &loaderBatches{}
	loaderManyBubble(t, src, cache.LoaderConfig[string, string]{MaxBatch: 10}, func(t *testing.T, l *cache.Loader[string, string]) {
		var keys []string
		for i := range 25 {
			keys = append(keys, fmt.Sprint(i))
		}
		got, err := l.GetMany(t.Context(), keys)
		require.NoError(t, err)
		require.Len(t, got, 25)
		var sizes []int
		for _, b := range src.asked() {
			sizes = append(sizes, len(b))
		}
		require.ElementsMatch(t, []int{10, 10, 5}, sizes)
	})
}

func TestLoaderGetManyReturnsWhatItHasWithTheError(t *testing.T) {
	down := errors.New("shard 3 is down")
	src := &loaderBatches{fail: down}
	loaderManyBubble(t, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, l *cache.Loader[string, string]) {
		got, err := l.GetMany(t.Context(), []string{"good", "bad"})
		require.ErrorIs(t, err, down)
		require.EqualError(t, err, "cache: 1 of 2 keys could not be loaded, the first with: shard 3 is down")
		require.Equal(t, map[string]string{"good": "good!"}, got)
	})
}

func TestLoaderGetManyWithoutLoadManyLoadsOneByOneAtTheSameTime(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, l *cache.Loader[string, string]) {
		from := time.Now()
		got, err := l.GetMany(t.Context(), []string{"a", "b", "c"})
		require.NoError(t, err)
		require.Len(t, got, 3)
		require.Equal(t, time.Second, time.Since(from))
	})
}

func TestLoaderGetManyEndsWithItsContext(t *testing.T) {
	src := &loaderBatches{slow: time.Minute}
	loaderManyBubble(t, src, cache.LoaderConfig[string, string]{LoadTimeout: time.Hour}, func(t *testing.T, l *cache.Loader[string, string]) {
		require.NoError(t, l.Set(t.Context(), "hit", "here"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := l.GetMany(ctx, []string{"hit", "miss"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, map[string]string{"hit": "here"}, got)
		time.Sleep(time.Minute)
		synctest.Wait()
		v, ok := l.Peek("miss")
		require.True(t, ok, "the load went on")
		require.Equal(t, "miss!", v)
	})
}

func TestLoaderGathersSingleGetsIntoABatch(t *testing.T) {
	src := &loaderBatches{missing: "none"}
	cfg := cache.LoaderConfig[string, string]{Gather: 2 * time.Millisecond, MaxBatch: 3}
	loaderManyBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		from := time.Now()
		var wg sync.WaitGroup
		for _, key := range []string{"a", "b"} {
			wg.Go(func() { require.Equal(t, key+"!", loaderGet(t, l, key)) })
		}
		wg.Go(func() {
			time.Sleep(time.Millisecond)
			_, err := l.Get(t.Context(), "none")
			require.ErrorIs(t, err, cache.ErrNotFound)
			require.Equal(t, time.Millisecond, time.Since(from), "a full batch goes at once")
		})
		wg.Wait()
		require.Equal(t, [][]string{{"a", "b", "none"}}, src.asked())

		from = time.Now()
		require.Equal(t, "c!", loaderGet(t, l, "c"))
		require.Equal(t, 2*time.Millisecond, time.Since(from), "a lonely one waits for Gather")
	})
}

func TestLoaderWithLoadManyAloneAnswersASingleGet(t *testing.T) {
	src := &loaderBatches{}
	synctest.Test(t, func(t *testing.T) {
		l := cache.MustNewLoader(cache.LoaderConfig[string, string]{LoadMany: src.loadMany})
		defer l.Close()
		from := time.Now()
		require.Equal(t, "a!", loaderGet(t, l, "a"))
		require.Zero(t, time.Since(from))
	})
}

func TestLoaderLoadManyThatPanicsFailsItsBatchAlone(t *testing.T) {
	cfg := cache.LoaderConfig[string, string]{
		MaxBatch: 1,
		LoadMany: func(_ context.Context, keys []string) (map[string]string, error) {
			if keys[0] == "bad" {
				panic("boom")
			}
			return map[string]string{keys[0]: "fine"}, nil
		},
	}
	loaderManyBubble(t, nil, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		got, err := l.GetMany(t.Context(), []string{"good", "bad"})
		require.Equal(t, map[string]string{"good": "fine"}, got)
		var panicked *cache.LoadPanicError
		require.ErrorAs(t, err, &panicked)
	})
}

func TestLoaderReloadsStaleValuesOfABatchInOneBatch(t *testing.T) {
	src := &loaderBatches{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, StaleFor: time.Hour, MaxLoads: 5}
	loaderManyBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		keys := []string{"a", "b", "c"}
		_, err := l.GetMany(t.Context(), keys)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		got, err := l.GetMany(t.Context(), keys)
		require.NoError(t, err)
		require.Len(t, got, 3)
		synctest.Wait()
		require.Equal(t, [][]string{keys, keys}, src.asked())
		require.EqualValues(t, 3, l.Stats().Reloads)
		_, err = l.GetMany(t.Context(), []string{"d", "e", "f", "g", "h", "i"})
		require.NoError(t, err, "the places of the reloads were given back")
	})
}
