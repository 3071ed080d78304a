package cache_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

// What a service does in an afternoon, and every number of it.
func TestLoaderStatsCountEachThingOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := cache.MustNewLoader(cache.LoaderConfig[int, string]{
			Load: func(_ context.Context, key int) (string, error) {
				time.Sleep(100 * time.Millisecond)
				switch {
				case key == 404:
					return "", cache.ErrNotFound
				case key == 500:
					return "", errors.New("down")
				case key == 501:
					panic("boom")
				}
				return fmt.Sprint(key), nil
			},
			TTL: time.Minute, StaleFor: time.Hour, Jitter: -1, EarlyBeta: -1, MaxEntries: 2,
		})
		defer l.Close()
		get := func(key int) { _, _ = l.Get(t.Context(), key) }

		for range 3 {
			go get(1) // one miss, two that join it
		}
		synctest.Wait()
		require.Equal(t, cache.LoaderStats{Misses: 1, Coalesced: 2, InFlight: 1}, l.Stats())
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		want := cache.LoaderStats{Misses: 1, Coalesced: 2, Loads: 1, LoadTime: 100 * time.Millisecond, Entries: 1, Cost: 1}
		require.Equal(t, want, l.Stats())

		get(1)
		get(1)
		want.Hits = 2
		require.Equal(t, want, l.Stats())

		time.Sleep(time.Minute)
		get(1) // stale, and reloaded in the background
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		want.Stale, want.Reloads, want.Loads, want.LoadTime = 1, 1, 2, 200*time.Millisecond
		require.Equal(t, want, l.Stats())

		for _, key := range []int{500, 501} {
			get(key)
		}
		want.Misses, want.Loads, want.Failures, want.Panics, want.LoadTime = 3, 4, 2, 1, 400*time.Millisecond
		require.Equal(t, want, l.Stats())

		get(404)
		want.Misses, want.Loads, want.NotFound, want.LoadTime, want.Entries, want.Cost = 4, 5, 1, 500*time.Millisecond, 2, 2
		require.Equal(t, want, l.Stats())

		get(2) // for which one of the two must leave
		want.Misses, want.Loads, want.LoadTime, want.Evictions = 5, 6, 600*time.Millisecond, 1
		require.Equal(t, want, l.Stats())
	})
}

// bubbled counts the goroutines of the caller's bubble, which those of other
// tests that are about to end have no part in.
func bubbled() int {
	buf := make([]byte, 1<<20)
	head, _, _ := bytes.Cut(buf[:runtime.Stack(buf, false)], []byte("]:"))
	_, bubble, _ := bytes.Cut(head, []byte("synctest bubble"))
	return bytes.Count(buf[:runtime.Stack(buf, true)], append([]byte("synctest bubble"), append(bubble, ']')...))
}

func TestLoaderHasNoGoroutinePerKeyAndNoneAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := bubbled()
		l := cache.MustNewLoader(cache.LoaderConfig[string, string]{
			Name:  "products",
			Load:  func(_ context.Context, key string) (string, error) { return key, nil },
			Store: newLoaderStore(), // one goroutine listens to it
			TTL:   time.Minute, StaleFor: time.Minute,
		})
		for i := range 1000 {
			for range 3 {
				loaderGet(t, l, fmt.Sprint(i))
			}
		}
		synctest.Wait()
		require.LessOrEqual(t, bubbled(), before+1)
		time.Sleep(90 * time.Second) // all are stale
		for i := range 1000 {
			_, _ = l.Get(t.Context(), fmt.Sprint(i))
		}
		require.NoError(t, l.Close())
		synctest.Wait()
		require.LessOrEqual(t, bubbled(), before)
	})
}

// Values in the Store are written by Encode, and by nothing else.
func TestLoaderWritesValuesToTheStoreAsEncodeSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newLoaderStore()
		loads := 0
		cfg := cache.LoaderConfig[string, []byte]{
			Name:  "pictures",
			Load:  func(context.Context, string) ([]byte, error) { loads++; return []byte{0xff, 0, 1}, nil },
			Store: store,
			Encode: func(v []byte) ([]byte, error) {
				return []byte("as base64: " + base64.StdEncoding.EncodeToString(v)), nil
			},
			Decode: func(data []byte) ([]byte, error) {
				return base64.StdEncoding.DecodeString(string(data[len("as base64: "):]))
			},
		}
		for range 2 { // the second finds it in the Store
			l := cache.MustNewLoader(cfg)
			v, err := l.Get(t.Context(), "a")
			require.NoError(t, err)
			require.Equal(t, []byte{0xff, 0, 1}, v)
			synctest.Wait()
			require.NoError(t, l.Close())
		}
		require.Equal(t, 1, loads)
		store.set(func() { require.Contains(t, string(store.values["pictures:a"]), "as base64: /wAB") })
	})
}
