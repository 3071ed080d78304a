package cache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

func TestLoaderFleetLoadsAKeyOnce(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	loaderFleet(t, 5, false, src, cache.LoaderConfig[string, string]{TTL: time.Minute}, func(t *testing.T, _ *loaderStore, fleet []*cache.Loader[string, string]) {
		var wg sync.WaitGroup
		for _, l := range fleet {
			for range 10 {
				wg.Go(func() { require.Equal(t, "a#1", loaderGet(t, l, "a")) })
			}
		}
		wg.Wait()
		require.EqualValues(t, 1, src.asked.Load())
		time.Sleep(time.Minute + time.Second)
		for _, l := range fleet {
			require.Equal(t, "a#2", loaderGet(t, l, "a"), "and once again when it has expired for all")
		}
		loads, hits := uint64(0), uint64(0)
		for _, l := range fleet {
			loads += l.Stats().Loads
			hits += l.Stats().StoreHits
		}
		require.EqualValues(t, 2, loads)
		require.EqualValues(t, 8, hits)
	})
}

func TestLoaderSharesThroughAStoreThatCannotLock(t *testing.T) {
	src := &loaderSource{}
	loaderFleet(t, 2, true, src, cache.LoaderConfig[string, string]{NotFoundTTL: time.Second}, func(t *testing.T, _ *loaderStore, fleet []*cache.Loader[string, string]) {
		require.Equal(t, "a#1", loaderGet(t, fleet[0], "a"))
		synctest.Wait()
		require.Equal(t, "a#1", loaderGet(t, fleet[1], "a"))
		src.failWith(cache.ErrNotFound)
		for _, l := range fleet {
			_, err := l.Get(t.Context(), "none")
			require.ErrorIs(t, err, cache.ErrNotFound)
			synctest.Wait()
		}
		require.EqualValues(t, 2, src.asked.Load(), "negative answers are shared too")
	})
}

func TestLoaderFleetReloadsAStaleKeyOnce(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, StaleFor: time.Hour}
	loaderFleet(t, 3, false, src, cfg, func(t *testing.T, _ *loaderStore, fleet []*cache.Loader[string, string]) {
		for _, l := range fleet {
			loaderGet(t, l, "a")
		}
		time.Sleep(time.Minute)
		src.slow = time.Second
		for _, l := range fleet {
			require.Equal(t, "a#1", loaderGet(t, l, "a"))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for _, l := range fleet {
			require.Equal(t, "a#2", loaderGet(t, l, "a"))
		}
		require.EqualValues(t, 2, src.asked.Load())
	})
}

func TestLoaderEarlyReloadDoesNotTakeTheOldValueFromTheStore(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, EarlyBeta: 1}
	loaderFleet(t, 1, false, src, cfg, func(t *testing.T, _ *loaderStore, fleet []*cache.Loader[string, string]) {
		loaderGet(t, fleet[0], "a")
		time.Sleep(time.Minute - 10*time.Millisecond)
		for range 50 { // each reloads with probability 0.99
			loaderGet(t, fleet[0], "a")
		}
		synctest.Wait()
		require.EqualValues(t, 2, src.asked.Load(), "before the old one has expired")
		time.Sleep(2 * time.Second)
		require.Equal(t, "a#2", loaderGet(t, fleet[0], "a"))
	})
}

func TestLoaderDoesNotWaitForAProcessThatDiedWithTheLock(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{LockTTL: 3 * time.Second}
	loaderFleet(t, 1, false, src, cfg, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		_, err := store.Lock(t.Context(), "default:a", time.Hour)
		require.NoError(t, err)
		from := time.Now()
		require.Equal(t, "a#1", loaderGet(t, fleet[0], "a"))
		require.InDelta(t, 3, time.Since(from).Seconds(), 0.3)
	})
}

func TestLoaderGoesOnWithoutAStoreThatFails(t *testing.T) {
	src := &loaderSource{}
	loaderFleet(t, 1, false, src, cache.LoaderConfig[string, string]{Name: "products"}, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		l := fleet[0]
		store.set(func() { store.fail = errors.New("connection refused") })
		for i := range 1000 {
			loaderGet(t, l, fmt.Sprint(i))
			time.Sleep(10 * time.Millisecond)
		}
		require.Less(t, store.gets.Load(), int64(10), "it is left alone for a while, and tried now and then")
		var conditions []string
		for subject, text := range l.Conditions() {
			conditions = append(conditions, subject+": "+text)
		}
		require.Len(t, conditions, 1)
		require.Regexp(t, `^products: the store is left alone until \d\d:\d\d:\d\dZ: connection refused$`, conditions[0])

		store.set(func() { store.fail = nil })
		time.Sleep(time.Minute)
		loaderGet(t, l, "back")
		synctest.Wait()
		for range l.Conditions() {
			t.Fatal("all is well again")
		}
		store.mu.Lock()
		require.Contains(t, store.values, "products:back")
		store.mu.Unlock()
	})
}

// However long a Store was away, it is used again within two seconds: by the
// next Get after that, and in the next by all.
func TestLoaderUsesAStoreThatIsBackWithinTwoSeconds(t *testing.T) {
	for name, ill := range map[string]func(*loaderStore){
		"refuses": func(s *loaderStore) { s.fail = errors.New("connection refused") },
		"hangs":   func(s *loaderStore) { s.hang = true },
	} {
		t.Run(name, func(t *testing.T) {
			src := &loaderSource{}
			cfg := cache.LoaderConfig[string, string]{StoreTimeout: 100 * time.Millisecond}
			loaderFleet(t, 1, false, src, cfg, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
				for round, outage := range []time.Duration{10 * time.Millisecond, time.Second, 10 * time.Minute} {
					store.set(func() { ill(store) })
					key := 0
					get := func() {
						loaderGet(t, fleet[0], fmt.Sprint(round, " ", key))
						key++
					}
					for from := time.Now(); time.Since(from) < outage; time.Sleep(50 * time.Millisecond) {
						get()
					}
					store.set(func() { store.fail, store.hang = nil, false })
					back, before := time.Now(), fleet[0].Stats().StoreMisses
					for fleet[0].Stats().StoreMisses == before {
						time.Sleep(10 * time.Millisecond)
						get()
						require.Less(t, time.Since(back), 2*time.Second+20*time.Millisecond, "after %v", outage)
					}
					before = fleet[0].Stats().StoreMisses
					for range 10 {
						get()
					}
					require.GreaterOrEqual(t, fleet[0].Stats().StoreMisses-before, uint64(10), "and all of them ask it")
				}
			})
		})
	}
}

func TestLoaderLosesLittleTimeToAStoreThatHangs(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{StoreTimeout: 100 * time.Millisecond}
	loaderFleet(t, 1, false, src, cfg, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		store.set(func() { store.hang = true })
		from := time.Now()
		for i := range 1000 {
			loaderGet(t, fleet[0], fmt.Sprint(i))
		}
		require.LessOrEqual(t, time.Since(from), 100*time.Millisecond, "one Get has waited, the others were not made to")
	})
}

func TestLoaderTriesAStoreThatHungWithOneCallAtATime(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{StoreTimeout: 100 * time.Millisecond}
	loaderFleet(t, 1, false, src, cfg, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		store.set(func() { store.hang = true })
		loaderGet(t, fleet[0], "first")
		for round := range 20 {
			time.Sleep(10 * time.Second) // as long as it is left alone at most
			before := store.gets.Load()
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() { loaderGet(t, fleet[0], fmt.Sprint(round, i)) })
			}
			wg.Wait()
			require.EqualValues(t, 1, store.gets.Load()-before)
		}
	})
}

func TestLoaderLeavesAStoreBehindThatPaysNoHeedToItsDeadline(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{StoreTimeout: 100 * time.Millisecond}
	loaderFleet(t, 1, false, src, cfg, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		deaf := make(chan struct{})
		store.set(func() { store.deaf = deaf })
		from := time.Now()
		require.Equal(t, "a#1", loaderGet(t, fleet[0], "a"))
		require.Equal(t, 100*time.Millisecond, time.Since(from))
		close(deaf)
	})
}

func TestLoaderSurvivesAStoreThatAnswersNonsense(t *testing.T) {
	src := &loaderSource{}
	loaderFleet(t, 1, false, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		for i, nonsense := range [][]byte{{}, {1}, []byte("hello"), make([]byte, 100)} {
			key := fmt.Sprint(i)
			store.set(func() { store.values["default:"+key] = nonsense })
			require.Contains(t, loaderGet(t, fleet[0], key), key+"#")
		}
	})
}

func TestLoaderLooksAgainOnceItHasTheLock(t *testing.T) {
	src := &loaderSource{}
	loaderFleet(t, 2, false, src, cache.LoaderConfig[string, string]{StoreTimeout: time.Minute}, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		store.set(func() { store.slow = time.Second })
		late := make(chan string)
		go func() { late <- loaderGet(t, fleet[0], "a") }() // finds nothing, and is slow to lock
		synctest.Wait()
		store.set(func() { store.slow = 0 })
		require.Equal(t, "a#1", loaderGet(t, fleet[1], "a"))
		require.Equal(t, "a#1", <-late)
	})
}

func TestLoaderGetManyAsksTheStoreFirst(t *testing.T) {
	src := &loaderBatches{}
	synctest.Test(t, func(t *testing.T) {
		store := newLoaderStore()
		cfg := cache.LoaderConfig[string, string]{Name: "default", LoadMany: src.loadMany, Store: store}
		a, b := cache.MustNewLoader(cfg), cache.MustNewLoader(cfg)
		defer a.Close()
		defer b.Close()
		require.Equal(t, "1!", loaderGet(t, a, "1"))
		require.Equal(t, "2!", loaderGet(t, a, "2"))
		synctest.Wait()
		got, err := b.GetMany(t.Context(), []string{"1", "2", "3", "4"})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"1": "1!", "2": "2!", "3": "3!", "4": "4!"}, got)
		require.Equal(t, [][]string{{"1"}, {"2"}, {"3", "4"}}, src.asked())
	})
}

func TestLoaderFleetLoadsEachKeyOfABatchOnce(t *testing.T) {
	src := &loaderBatches{slow: time.Second}
	synctest.Test(t, func(t *testing.T) {
		cfg := cache.LoaderConfig[string, string]{Name: "default", LoadMany: src.loadMany, Store: newLoaderStore(), MaxLoads: 2}
		var wg sync.WaitGroup
		for range 4 {
			l := cache.MustNewLoader(cfg)
			defer l.Close()
			wg.Go(func() {
				got, err := l.GetMany(t.Context(), []string{"1", "2", "3"})
				require.NoError(t, err)
				require.Len(t, got, 3)
			})
		}
		wg.Wait()
		times := map[string]int{}
		for _, batch := range src.asked() {
			for _, key := range batch {
				times[key]++
			}
		}
		require.Equal(t, map[string]int{"1": 1, "2": 1, "3": 1}, times)
	})
}

func TestLoaderLoadsABatchItselfWhenItsLocksAreNotGivenBack(t *testing.T) {
	src := &loaderBatches{missing: "none"}
	synctest.Test(t, func(t *testing.T) {
		store := newLoaderStore()
		l := cache.MustNewLoader(cache.LoaderConfig[string, string]{Name: "default", LoadMany: src.loadMany, Store: store})
		defer l.Close()
		keys := []string{"1", "2", "none"}
		for _, key := range keys {
			_, err := store.Lock(t.Context(), "default:"+key, time.Hour)
			require.NoError(t, err)
		}
		got, err := l.GetMany(t.Context(), keys)
		require.NoError(t, err)
		require.Equal(t, map[string]string{"1": "1!", "2": "2!"}, got)
	})
}

func TestLoaderStoresKeysOfAnyTypeThatCanBeWrittenDown(t *testing.T) {
	type id struct {
		Tenant string
		N      int
	}
	type secret struct{ n int }
	synctest.Test(t, func(t *testing.T) {
		store := newLoaderStore()
		good := cache.MustNewLoader(cache.LoaderConfig[id, int]{Name: "good", Store: store,
			Load: func(_ context.Context, k id) (int, error) { return k.N, nil }})
		defer good.Close()
		bad := cache.MustNewLoader(cache.LoaderConfig[secret, int]{Name: "bad", Store: store,
			Load: func(_ context.Context, k secret) (int, error) { return k.n, nil }})
		defer bad.Close()
		for n := range 3 {
			v, err := good.Get(t.Context(), id{"t", n})
			require.NoError(t, err)
			require.Equal(t, n, v)
			v, err = bad.Get(t.Context(), secret{n + 1})
			require.NoError(t, err)
			require.Equal(t, n+1, v, "JSON can't tell these keys apart, so they stay in memory")
		}
		synctest.Wait()
		store.mu.Lock()
		require.Len(t, store.values, 3)
		require.Contains(t, store.values, `good:{"Tenant":"t","N":2}`)
		store.mu.Unlock()
	})
}

// A bomb is a key that can't be written down.
type bomb int

func (bomb) MarshalText() ([]byte, error) { panic("bomb") }

func TestLoaderSurvivesAKeyThatPanics(t *testing.T) {
	l := cache.MustNewLoader(cache.LoaderConfig[bomb, int]{
		Name:  "bombs",
		Load:  func(context.Context, bomb) (int, error) { return 42, nil },
		Store: newMapStore(),
	})
	v, err := l.Get(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, 42, v)
	require.NoError(t, l.Delete(t.Context(), 1))
	require.NoError(t, l.Close())
}
