package cache_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

// loaderStore is a Store in memory that can lock, tell, fail, hang and forget.
type loaderStore struct {
	mu     sync.Mutex
	values map[string][]byte
	locks  map[string]int
	locked int
	subs   map[int]chan []byte
	nsubs  int

	fail error         // every call fails
	hang bool          // every call waits for its context
	lag  time.Duration // messages are so long under way
	deaf chan struct{} // every call waits for it, whatever its context says
	slow time.Duration // every Set, Delete and Lock takes so long
	gets atomic.Int64
}

func newLoaderStore() *loaderStore {
	return &loaderStore{values: map[string][]byte{}, locks: map[string]int{}, subs: map[int]chan []byte{}}
}

func (s *loaderStore) ill(ctx context.Context) error {
	s.mu.Lock()
	fail, hang, deaf := s.fail, s.hang, s.deaf
	s.mu.Unlock()
	if deaf != nil {
		<-deaf
	}
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return fail
}

func (s *loaderStore) sleep() {
	s.mu.Lock()
	slow := s.slow
	s.mu.Unlock()
	time.Sleep(slow)
}

func (s *loaderStore) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *loaderStore) Get(ctx context.Context, key string) ([]byte, error) {
	s.gets.Add(1)
	if err := s.ill(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[key], nil
}

func (s *loaderStore) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := s.ill(ctx); err != nil {
		return err
	}
	s.sleep()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key] = bytes.Clone(value)
	time.AfterFunc(ttl, func() { // like the real ones, it keeps nothing past its ttl
		s.mu.Lock()
		defer s.mu.Unlock()
		if bytes.Equal(s.values[key], value) {
			delete(s.values, key)
		}
	})
	return nil
}

func (s *loaderStore) Delete(ctx context.Context, key string) error {
	if err := s.ill(ctx); err != nil {
		return err
	}
	s.sleep()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
	return nil
}

func (s *loaderStore) Lock(ctx context.Context, key string, ttl time.Duration) (func(context.Context) error, error) {
	if err := s.ill(ctx); err != nil {
		return nil, err
	}
	s.sleep()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[key] != 0 {
		return nil, nil
	}
	s.locked++
	token := s.locked
	s.locks[key] = token
	free := func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.locks[key] == token {
			delete(s.locks, key)
		}
		return nil
	}
	time.AfterFunc(ttl, func() { _ = free(nil) })
	return free, nil
}

func (s *loaderStore) Publish(ctx context.Context, message []byte) error {
	if err := s.ill(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	time.AfterFunc(s.lag, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, sub := range s.subs {
			sub <- message
		}
	})
	return nil
}

func (s *loaderStore) Subscribe(ctx context.Context, receive func([]byte)) error {
	messages := make(chan []byte, 100)
	s.mu.Lock()
	s.nsubs++
	id := s.nsubs
	s.subs[id] = messages
	s.mu.Unlock()
	receive(nil)
	for {
		select {
		case m := <-messages:
			if m == nil {
				return errors.New("connection lost")
			}
			receive(m)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// cut ends all subscriptions.
func (s *loaderStore) cut() {
	s.set(func() {
		for id, sub := range s.subs {
			delete(s.subs, id)
			sub <- nil
		}
	})
}

// loaderPlain hides what a loaderStore can do besides.
type loaderPlain struct{ cache.Store }

// loaderFleet runs f with n Loaders on one Store in a bubble.
func loaderFleet(t *testing.T, n int, plain bool, src *loaderSource, cfg cache.LoaderConfig[string, string], f func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		store := newLoaderStore()
		cfg := cfg
		cfg.Store = store
		cfg.Name = cmp.Or(cfg.Name, "default")
		if plain {
			cfg.Store = loaderPlain{store}
		}
		cfg.Load = src.load
		if cfg.EarlyBeta == 0 {
			cfg.EarlyBeta = -1
		}
		cfg.Jitter = -1
		var fleet []*cache.Loader[string, string]
		for range n {
			l := cache.MustNewLoader(cfg)
			defer l.Close()
			fleet = append(fleet, l)
		}
		synctest.Wait() // until they listen
		f(t, store, fleet)
	})
}

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

func TestLoaderDeleteReachesTheOtherProcesses(t *testing.T) {
	src := &loaderSource{}
	loaderFleet(t, 3, false, src, cache.LoaderConfig[string, string]{TTL: time.Hour}, func(t *testing.T, _ *loaderStore, fleet []*cache.Loader[string, string]) {
		for _, l := range fleet {
			require.Equal(t, "a#1", loaderGet(t, l, "a"))
			synctest.Wait()
		}
		require.NoError(t, fleet[0].Delete(t.Context(), "a"))
		synctest.Wait()
		for _, l := range fleet {
			require.Equal(t, "a#2", loaderGet(t, l, "a"))
			synctest.Wait()
		}
		time.Sleep(time.Millisecond)
		require.NoError(t, fleet[1].Set(t.Context(), "a", "mine"))
		synctest.Wait()
		for _, l := range fleet {
			require.Equal(t, "mine", loaderGet(t, l, "a"))
		}
		require.EqualValues(t, 2, src.asked.Load())
	})
}

func TestLoaderDeleteWinsOverAValueOnItsWayToTheStore(t *testing.T) {
	src := &loaderSource{}
	loaderFleet(t, 1, false, src, cache.LoaderConfig[string, string]{StoreTimeout: time.Minute}, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		store.set(func() { store.slow = time.Second })
		require.Equal(t, "a#1", loaderGet(t, fleet[0], "a")) // and is written, for a second
		require.NoError(t, fleet[0].Delete(t.Context(), "a"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		store.mu.Lock()
		require.Empty(t, store.values)
		store.mu.Unlock()
		require.Equal(t, "a#2", loaderGet(t, fleet[0], "a"))
	})
}

func TestLoaderDeleteWinsOverAGetThatFindsTheOldValueInTheStore(t *testing.T) {
	src := &loaderSource{}
	loaderFleet(t, 1, true, src, cache.LoaderConfig[string, string]{StoreTimeout: time.Minute}, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		require.Equal(t, "a#1", loaderGet(t, fleet[0], "a"))
		synctest.Wait()
		store.set(func() { store.slow = time.Second })
		deleted := make(chan error)
		go func() { deleted <- fleet[0].Delete(t.Context(), "a") }()
		synctest.Wait()
		require.Equal(t, "a#1", loaderGet(t, fleet[0], "a"), "Delete has not returned yet, and the store still has it")
		require.NoError(t, <-deleted)
		require.Equal(t, "a#2", loaderGet(t, fleet[0], "a"))
	})
}

func TestLoaderDeleteWinsOverALoadInAnotherProcess(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	loaderFleet(t, 2, false, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		store.set(func() { store.lag = time.Second })
		go func() { _, _ = fleet[1].Get(t.Context(), "a") }()
		time.Sleep(time.Second / 2)
		require.NoError(t, fleet[0].Delete(t.Context(), "a"))
		time.Sleep(2 * time.Second) // the load has ended, its value is in the store, and only then the message comes
		for _, l := range fleet {
			require.Equal(t, "a#2", loaderGet(t, l, "a"))
		}
	})
}

func TestLoaderDeleteDoesNotWaitForAHungStoreKeyByKey(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{StoreTimeout: 100 * time.Millisecond}
	loaderFleet(t, 1, true, src, cfg, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		store.set(func() { store.hang = true })
		from := time.Now()
		require.ErrorIs(t, fleet[0].Delete(t.Context(), make([]string, 1000)...), context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, time.Since(from))
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

func TestLoaderDeleteSaysThatTheStoreStillHasTheValue(t *testing.T) {
	src := &loaderSource{}
	loaderFleet(t, 1, false, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		down := errors.New("down")
		store.set(func() { store.fail = down })
		require.ErrorIs(t, fleet[0].Delete(t.Context(), "a"), down)
		require.ErrorIs(t, fleet[0].Set(t.Context(), "a", "mine"), down)
		require.Equal(t, "mine", loaderGet(t, fleet[0], "a"), "set here all the same")
	})
}

func TestLoaderTagsReachTheStoreAndTheOtherProcesses(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{
		TTL:  time.Hour,
		Tags: func(key, _ string) []string { return []string{"brand:" + key[:1]} },
	}
	for _, plain := range []bool{false, true} {
		src.asked.Store(0)
		loaderFleet(t, 2, plain, src, cfg, func(t *testing.T, _ *loaderStore, fleet []*cache.Loader[string, string]) {
			require.Equal(t, "a1#1", loaderGet(t, fleet[0], "a1"))
			require.Equal(t, "b1#2", loaderGet(t, fleet[0], "b1"))
			synctest.Wait()
			if !plain {
				require.Equal(t, "a1#1", loaderGet(t, fleet[1], "a1"))
			}
			time.Sleep(time.Minute)
			require.NoError(t, fleet[0].DeleteTags(t.Context(), "brand:a"))
			synctest.Wait()
			require.Equal(t, "a1#3", loaderGet(t, fleet[1], "a1"), "the copy in the store is dead, and so is the one in memory")
			require.Equal(t, "b1#2", loaderGet(t, fleet[1], "b1"), "another tag is not")
		})
	}
}

func TestLoaderLooksAgainAtWhatItHasWhenMessagesWereLost(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Hour}
	loaderFleet(t, 2, false, src, cfg, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		for _, key := range []string{"a", "b"} {
			loaderGet(t, fleet[0], key)
			synctest.Wait()
			loaderGet(t, fleet[1], key)
		}
		store.cut()
		require.NoError(t, fleet[0].Delete(t.Context(), "a")) // nobody hears it
		time.Sleep(time.Second)
		require.Equal(t, "a#1", loaderGet(t, fleet[1], "a"), "still served")
		require.Equal(t, "b#2", loaderGet(t, fleet[1], "b"))
		synctest.Wait()
		require.Equal(t, "a#3", loaderGet(t, fleet[1], "a"), "but looked up in the background")
		require.Equal(t, "b#2", loaderGet(t, fleet[1], "b"))
		require.EqualValues(t, 3, src.asked.Load(), "b was still in the store and needed no load")
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
