package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

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
		synctest.Wait()
		for _, text := range l.Conditions() {
			require.Equal(t, "all 3 places for loads are taken, 6 wait", text)
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

func TestLoaderKeepsWhatIsAskedForThroughAScan(t *testing.T) {
	l := cache.MustNewLoader(cache.LoaderConfig[int, int]{
		Load:       func(_ context.Context, k int) (int, error) { return k, nil },
		MaxEntries: 1000,
	})
	defer l.Close()
	get := func(from, to int) {
		for k := from; k < to; k++ {
			_, err := l.Get(t.Context(), k)
			require.NoError(t, err)
		}
	}
	for range 5 {
		get(0, 500)
	}
	get(1000, 20_000) // each of them once
	kept := 0
	for k := range 500 {
		if _, ok := l.Peek(k); ok {
			kept++
		}
	}
	require.Greater(t, kept, 480)
}

func TestLoaderPrefersTheSmallOfThoseAskedForEquallyOften(t *testing.T) {
	l := cache.MustNewLoader(cache.LoaderConfig[int, int]{
		Load:    func(_ context.Context, k int) (int, error) { return 1 + 99*(k%2), nil }, // 1 or 100
		MaxCost: 20_000,
		Cost:    func(_, v int) int64 { return int64(v) },
	})
	defer l.Close()
	for range 4 {
		for k := range 1000 {
			_, err := l.Get(t.Context(), k)
			require.NoError(t, err)
		}
	}
	small, large := 0, 0
	for k := range l.Range() {
		if k%2 == 0 {
			small++
		} else {
			large++
		}
	}
	require.Greater(t, small, 450, "of 500, which cost 500 together")
	require.Greater(t, large, 150, "of 500, and the rest of the room is theirs")
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
	_, err = cache.NewLoader(cache.LoaderConfig[string, string]{
		Load:  func(context.Context, string) (string, error) { return "", nil },
		Store: newLoaderStore(), StoreTimeout: -1, LockTTL: -1, MaxBatch: -1, Gather: 1, EarlyBeta: math.NaN(), MaxEntries: 1, MaxCost: 1,
		Encode: func(string) ([]byte, error) { return nil, nil },
	})
	require.EqualError(t, err, strings.Join([]string{
		"cache: LoaderConfig.MaxBatch is -1, must not be negative",
		"cache: LoaderConfig.LoadMany is nil, must be set with Gather",
		"cache: LoaderConfig.StoreTimeout is -1ns, must not be negative",
		`cache: LoaderConfig.Name is "", must be set with Store, without ':' and '#'`,
		"cache: LoaderConfig.LockTTL is -1ns, must not be negative",
		"cache: LoaderConfig.Decode is nil, must be set with Encode",
		"cache: LoaderConfig.EarlyBeta is NaN, must be a finite number",
		"cache: LoaderConfig.Cost is nil, must be set with MaxCost",
		"cache: LoaderConfig.MaxEntries is 1, must not be set together with MaxCost",
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

func TestLoaderTellsOnLoadOfEachLoad(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	var mu sync.Mutex
	var events []cache.LoadEvent[string]
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, StaleFor: time.Hour, OnLoad: func(e cache.LoadEvent[string]) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		loaderGet(t, l, "a")
		time.Sleep(time.Minute)
		down := errors.New("down")
		src.failWith(down)
		loaderGet(t, l, "a")
		time.Sleep(time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, []cache.LoadEvent[string]{
			{Key: "a", Took: time.Second},
			{Key: "a", Took: time.Second, Err: down, Reload: true},
		}, events)
	})
}

func TestLoaderRefusesWhatIsTooDearWhateverItCosts(t *testing.T) {
	dear := int64(math.MaxInt64)
	evicted := 0
	l := cache.MustNewLoader(cache.LoaderConfig[int, int]{
		Load:    func(_ context.Context, key int) (int, error) { return key, nil },
		MaxCost: 100,
		Cost: func(key, _ int) int64 {
			if key%10 == 0 {
				return dear
			}
			return 1
		},
		OnEvict: func(int, int) { evicted++ },
	})
	for i := range 1000 {
		_, err := l.Get(t.Context(), i)
		require.NoError(t, err)
		st := l.Stats()
		require.LessOrEqual(t, st.Cost, int64(100))
		require.EqualValues(t, st.Entries, st.Cost, "nothing dear is kept")
	}
	require.NotZero(t, l.Stats().Entries)
	require.EqualValues(t, 1000, l.Stats().Entries+evicted)
	dear = 1
	require.NoError(t, l.Set(t.Context(), 0, 0))
	dear = math.MaxInt64
	require.NoError(t, l.Set(t.Context(), 0, 0))
	_, ok := l.Peek(0)
	require.False(t, ok)
	require.LessOrEqual(t, l.Stats().Cost, int64(100))
	require.Positive(t, l.Stats().Cost)
}
