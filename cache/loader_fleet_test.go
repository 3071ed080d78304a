package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

// TestLoaderFleetForgetsWhatWasDeleted lets three processes read, write and
// delete at random, with loads, the store and messages that take their time.
// While a message is under way another process may serve the old value. But once
// all is quiet, none has it: not in memory, and not from the store, whoever
// wrote it there last.
func TestLoaderFleetForgetsWhatWasDeleted(t *testing.T) {
	rounds := *loaderModelRounds
	if testing.Short() {
		rounds = min(rounds, 10)
	}
	for round := range rounds {
		synctest.Test(t, func(t *testing.T) { loaderFleetRound(t, round) })
	}
}

func loaderFleetRound(t *testing.T, round int) {
	const keys = 6
	truth := &loaderTruth{version: map[int]int{}, loading: map[int]int{}}
	store := newLoaderStore()
	store.lag = time.Duration(round%3) * time.Millisecond
	store.slow = time.Duration(round%4) * 300 * time.Microsecond
	var fleet []*cache.Loader[int, int]
	for range 3 {
		l := cache.MustNewLoader(cache.LoaderConfig[int, int]{
			Name:       "fleet",
			Load:       truth.load,
			TTL:        time.Hour,
			MaxEntries: 4 + round%4,
			Tags:       func(key, _ int) []string { return []string{fmt.Sprint(key % 2)} },
			Store:      store,
		})
		defer l.Close()
		fleet = append(fleet, l)
	}
	synctest.Wait()
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			l, ctx := fleet[g%3], context.Background()
			for range 30 {
				time.Sleep(time.Duration(rand.IntN(1500)) * time.Microsecond)
				key := rand.IntN(keys)
				switch rand.IntN(10) {
				case 0, 1:
					truth.write(key)
					_ = l.Delete(ctx, key)
				case 2:
					for k := key % 2; k < keys; k += 2 {
						truth.write(k)
					}
					_ = l.DeleteTags(ctx, fmt.Sprint(key%2))
				case 3:
					_, _ = l.GetMany(ctx, []int{key, rand.IntN(keys)})
				default:
					_, _ = l.Get(ctx, key)
				}
			}
		})
	}
	wg.Wait()
	time.Sleep(10 * time.Second) // every load, call and message has ended
	synctest.Wait()
	for key := range keys {
		for i, l := range fleet {
			v, err := l.Get(t.Context(), key)
			for err != nil { // the source has hiccups
				v, err = l.Get(t.Context(), key)
			}
			require.Equal(t, truth.read(key), v, "round %d: key %d in process %d", round, key, i)
		}
	}
}
