package cache_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

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
		synctest.Wait()
		store.set(func() { store.slow = 0 }) // Delete comes to the store first
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

func TestLoaderDeleteTagsWinsOverAGetThatFindsTheOldValueInTheStore(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Hour, StoreTimeout: time.Minute, Tags: func(string, string) []string { return []string{"tag"} }}
	loaderFleet(t, 1, true, src, cfg, func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string]) {
		require.Equal(t, "a#1", loaderGet(t, fleet[0], "a"))
		synctest.Wait()
		time.Sleep(time.Minute)
		store.set(func() { store.slow = time.Second })
		deleted := make(chan error)
		go func() { deleted <- fleet[0].DeleteTags(t.Context(), "tag") }()
		synctest.Wait()
		require.Equal(t, "a#1", loaderGet(t, fleet[0], "a"), "DeleteTags has not returned yet")
		require.NoError(t, <-deleted)
		require.Equal(t, "a#2", loaderGet(t, fleet[0], "a"))
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
