package cache_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

var loaderModelRounds = flag.Int("loader.rounds", 60, "rounds of the randomised tests of the Loader")

// loaderTruth is a database with versions: each write of a key gives it the
// next one. A load takes a while and reads at some moment of it.
type loaderTruth struct {
	mu      sync.Mutex
	version map[int]int
	loading map[int]int
	most    int // loads of one key at the same time
}

func (d *loaderTruth) write(key int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.version[key]++
	return d.version[key]
}

func (d *loaderTruth) read(key int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.version[key]
}

func (d *loaderTruth) load(_ context.Context, key int) (int, error) {
	d.mu.Lock()
	d.loading[key]++
	d.most = max(d.most, d.loading[key])
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.loading[key]--
		d.mu.Unlock()
	}()
	time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
	v := d.read(key)
	time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
	switch rand.IntN(20) {
	case 0:
		return 0, fmt.Errorf("key %d: the source has hiccups", key)
	case 1:
		panic("the source has fits")
	}
	return v, nil
}

// TestLoaderAgreesWithAModel does everything at random, on few keys and with
// little room, and holds it against what callers may rely on:
//
//   - a value is one that the key really had, and not older than what was last
//     invalidated before the Get began: whoever writes and then calls Delete
//     never sees the old value again, whatever was in flight;
//   - nor older than TTL and StaleFor allow;
//   - the bound holds at every moment.
func TestLoaderAgreesWithAModel(t *testing.T) {
	rounds := *loaderModelRounds
	if testing.Short() {
		rounds = min(rounds, 10)
	}
	for round := range rounds {
		synctest.Test(t, func(t *testing.T) { loaderModelRound(t, round) })
	}
}

func loaderModelRound(t *testing.T, round int) {
	const keys, setKeys = 12, 3
	truth := &loaderTruth{version: map[int]int{}, loading: map[int]int{}}
	var mu sync.Mutex
	superseded := map[[2]int]time.Time{} // by key and version: when the next one came
	floor := map[int]int{}               // by key: no Get that begins from now on may see less

	cfg := cache.LoaderConfig[int, int]{
		Load:       truth.load,
		TTL:        5 * time.Millisecond,
		MaxEntries: 2 + round%12,
		Tags:       func(key, _ int) []string { return []string{fmt.Sprint(key % 3)} },
	}
	if round%2 == 0 {
		cfg.StaleFor = 5 * time.Millisecond
	}
	if round%3 == 0 {
		cfg.ErrorTTL = time.Millisecond
	}
	if round%4 == 0 {
		cfg.MaxLoads = 3
	}
	if round%5 == 0 {
		cfg.LoadMany = func(ctx context.Context, keys []int) (map[int]int, error) {
			found := map[int]int{}
			for _, k := range keys {
				v, err := truth.load(ctx, k)
				if err != nil {
					return found, err
				}
				found[k] = v
			}
			return found, nil
		}
		cfg.Gather = time.Duration(round%2) * time.Millisecond
	}
	if round%6 == 1 {
		cfg.Name, cfg.Store = "model", newLoaderStore()
	}
	l := cache.MustNewLoader(cfg)
	defer l.Close()
	oldest := cfg.TTL + cfg.StaleFor

	check := func(key, value, least int, began time.Time) {
		mu.Lock()
		defer mu.Unlock()
		if value < least {
			t.Errorf("round %d: key %d: version %d after %d was invalidated", round, key, value, least)
		}
		if at, ok := superseded[[2]int{key, value}]; ok && began.Sub(at) > oldest {
			t.Errorf("round %d: key %d: version %d is %v old", round, key, value, began.Sub(at))
		}
	}
	least := func(key int) int {
		mu.Lock()
		defer mu.Unlock()
		return floor[key]
	}
	write := func(key int) int {
		mu.Lock()
		defer mu.Unlock()
		v := truth.write(key)
		superseded[[2]int{key, v - 1}] = time.Now()
		return v
	}
	raise := func(key, to int) {
		mu.Lock()
		defer mu.Unlock()
		floor[key] = max(floor[key], to)
	}

	var setting sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 60 {
				time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
				key, ctx := rand.IntN(keys+setKeys), context.Background()
				cancel := context.CancelFunc(func() {})
				if rand.IntN(4) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(1000))*time.Microsecond)
				}
				switch op := rand.IntN(20); {
				case op < 9:
					began, from := time.Now(), least(key)
					if v, err := l.Get(ctx, key); err == nil {
						check(key, v, from, began)
					}
				case op < 12:
					some := []int{key, rand.IntN(keys), rand.IntN(keys)}
					began, from := time.Now(), map[int]int{}
					for _, k := range some {
						from[k] = least(k)
					}
					got, _ := l.GetMany(ctx, some)
					for k, v := range got {
						check(k, v, from[k], began)
					}
				case op < 13:
					began, from := time.Now(), least(key)
					if v, ok := l.Peek(key); ok {
						check(key, v, from, began)
					}
				case op < 16:
					key := rand.IntN(keys)
					v := write(key)
					_ = l.Delete(context.Background(), key)
					raise(key, v)
				case op < 17:
					tag, versions := key%3, map[int]int{}
					for k := tag; k < keys; k += 3 {
						versions[k] = write(k)
					}
					_ = l.DeleteTags(context.Background(), fmt.Sprint(tag))
					for k, v := range versions {
						raise(k, v)
					}
				case op < 18 && cfg.Store == nil: // DeleteFunc sees only what is in memory
					key := rand.IntN(keys)
					v := write(key)
					_, _ = l.DeleteFunc(context.Background(), func(k, _ int) bool { return k == key })
					raise(key, v)
				case op < 19:
					// Whoever sets what was written must keep other writers of the
					// key out meanwhile, so these keys have no other.
					key := keys + rand.IntN(setKeys)
					setting.Lock()
					v := write(key)
					_ = l.Set(context.Background(), key, v)
					raise(key, v)
					setting.Unlock()
				default:
					for k, v := range l.Range() {
						if v > truth.read(k) {
							t.Errorf("round %d: key %d: version %d never was", round, k, v)
						}
					}
				}
				cancel()
				if n := l.Stats().Entries; n > cfg.MaxEntries {
					t.Errorf("round %d: %d entries, the bound is %d", round, n, cfg.MaxEntries)
				}
			}
		})
	}
	wg.Wait()
	st := l.Stats()
	require.Positive(t, st.Hits+st.Stale)
	require.Positive(t, st.Loads)
}

// TestLoaderReadersNeverSeeAnotherKeysValue makes the table grow and shrink under
// readers that take no lock, on real goroutines.
func TestLoaderReadersNeverSeeAnotherKeysValue(t *testing.T) {
	l := cache.MustNewLoader(cache.LoaderConfig[int, int]{
		Load:       func(_ context.Context, k int) (int, error) { return -k, nil },
		MaxEntries: 2000,
	})
	defer l.Close()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 20_000 {
				k := r.IntN(4000)
				switch r.IntN(10) {
				case 0:
					_ = l.Delete(t.Context(), k)
				case 1:
					_ = l.Set(t.Context(), k, -k)
				default:
					if v, err := l.Get(t.Context(), k); v != -k || err != nil {
						t.Errorf("Get(%d) = %d, %v", k, v, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, l.Stats().Entries, 2000)
}
