package rediscache_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/cache/rediscache"
)

const keys = 40

// TestMain is also the second process: with this variable set it asks for every
// key, with many callers at once, and prints each that it loads.
func TestMain(m *testing.M) {
	if addr := os.Getenv("REDISCACHE_TEST_PROCESS"); addr != "" {
		process(addr)
		return
	}
	os.Exit(m.Run())
}

func process(addr string) {
	s := &server{port: strings.TrimPrefix(addr, "127.0.0.1:")}
	rdb := s.client()
	defer rdb.Close()
	var print sync.Mutex
	say := func(words ...any) {
		print.Lock()
		defer print.Unlock()
		fmt.Println(words...)
	}
	l := cache.MustNewLoader(cache.LoaderConfig[string, string]{
		Name: "products",
		Load: func(_ context.Context, key string) (string, error) {
			say("load", key)
			<-time.After(20 * time.Millisecond)
			return key + " by " + strconv.Itoa(os.Getpid()), nil
		},
		Store: rediscache.New("test:", rdb),
		// The machine may be busy; nothing here should depend on that.
		StoreTimeout: 30 * time.Second,
		LockTTL:      30 * time.Second,
		LoadTimeout:  2 * time.Minute,
	})
	defer l.Close()
	say("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // start together
	var wg sync.WaitGroup
	for i := range keys {
		for range 5 {
			wg.Go(func() {
				key := fmt.Sprint("key", i)
				v, err := l.Get(context.Background(), key)
				if err != nil || !strings.HasPrefix(v, key+" by ") {
					say("failed", key, v, err)
				}
			})
		}
	}
	wg.Wait()
	say("done")
}

func TestTwoProcessesLoadEachKeyOnce(t *testing.T) {
	s := startServer(t)
	var mu sync.Mutex
	loads := map[string]int{}
	var readers sync.WaitGroup
	var starts []func()
	ready, done := make(chan struct{}, 2), atomic.Int64{}
	by := [2]int{}
	for p := range 2 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "REDISCACHE_TEST_PROCESS="+s.addr())
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		starts = append(starts, func() { _, _ = fmt.Fprintln(in) })
		readers.Go(func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				switch what, key, _ := strings.Cut(lines.Text(), " "); what {
				case "ready":
					ready <- struct{}{}
				case "load":
					mu.Lock()
					loads[key]++
					by[p]++
					mu.Unlock()
				case "done":
					done.Add(1)
				default:
					t.Error(lines.Text())
				}
			}
			_ = cmd.Wait()
		})
	}
	<-ready
	<-ready
	for _, start := range starts {
		start()
	}
	readers.Wait()
	require.EqualValues(t, 2, done.Load(), "both have come to their end")
	require.Len(t, loads, keys)
	for key, n := range loads {
		require.Equal(t, 1, n, key)
	}
	t.Logf("of %d keys one process has loaded %d, the other %d", keys, by[0], by[1])
}

func TestNoGetFailsWhileRedisIsFlushedHungAndKilled(t *testing.T) {
	s := startServer(t)
	rdb := s.client()
	defer rdb.Close()
	var fleet []*cache.Loader[int, int]
	for range 2 {
		l := cache.MustNewLoader(cache.LoaderConfig[int, int]{
			Name:         "numbers",
			Load:         func(_ context.Context, k int) (int, error) { return -k, nil },
			Store:        rediscache.New("test:", rdb),
			TTL:          50 * time.Millisecond,
			StoreTimeout: 200 * time.Millisecond,
			MaxEntries:   100, // of 300 keys, so that the store is asked often
		})
		defer l.Close()
		fleet = append(fleet, l)
	}
	var gets atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := g; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				k := i % 300
				if v, err := fleet[g%2].Get(context.Background(), k); v != -k || err != nil {
					t.Errorf("Get(%d) = %d, %v", k, v, err)
					return
				}
				if gets.Add(1)%20 == 0 {
					<-time.After(time.Millisecond) // or else they starve everybody else, Redis too
				}
			}
		})
	}
	// until the fleet has done some work in this state of things, and stat says so
	phase := func(what string, holds func(cache.LoaderStats) bool) {
		target := gets.Load() + 5000
		require.Eventually(t, func() bool {
			return gets.Load() >= target && holds(fleet[0].Stats()) && holds(fleet[1].Stats())
		}, time.Minute, 5*time.Millisecond, what)
	}
	more := func(of func(cache.LoaderStats) uint64) func(cache.LoaderStats) bool {
		before := max(of(fleet[0].Stats()), of(fleet[1].Stats()))
		return func(st cache.LoaderStats) bool { return of(st) > before }
	}
	hits := func(st cache.LoaderStats) uint64 { return st.StoreHits }
	failures := func(st cache.LoaderStats) uint64 { return st.StoreErrors }

	phase("redis is well", more(hits))
	require.NoError(t, rdb.FlushAll(context.Background()).Err())
	phase("redis was flushed", more(hits))
	s.hang()
	phase("redis hangs", more(failures))
	s.wake()
	phase("redis is awake", more(hits))
	s.kill()
	phase("redis is dead", more(failures))
	s.start()
	phase("redis is back", more(hits))
	close(stop)
	wg.Wait()
	t.Logf("%d Gets, none failed; of the first process: %+v", gets.Load(), fleet[0].Stats())
}

func TestADeleteLeavesTheMemoryOfTheOtherProcesses(t *testing.T) {
	s := startServer(t)
	rdb := s.client()
	defer rdb.Close()
	var loads atomic.Int64
	cfg := cache.LoaderConfig[string, int64]{
		Name:  "counts",
		Load:  func(context.Context, string) (int64, error) { return loads.Add(1), nil },
		Store: rediscache.New("test:", rdb),
		Tags:  func(key string, _ int64) []string { return []string{key[:1]} },
		TTL:   time.Hour, StoreTimeout: 30 * time.Second,
	}
	a, b := cache.MustNewLoader(cfg), cache.MustNewLoader(cfg)
	defer a.Close()
	defer b.Close()
	ctx := t.Context()
	require.Eventually(t, func() bool { // both listen
		return rdb.PubSubNumSub(ctx, "test:#messages").Val()["test:#messages"] == 2
	}, 30*time.Second, 5*time.Millisecond)

	gone := func(l *cache.Loader[string, int64], key string) func() bool {
		return func() bool { _, ok := l.Peek(key); return !ok }
	}
	_, err := b.Get(ctx, "x1")
	require.NoError(t, err)
	require.NoError(t, a.Delete(ctx, "x1"))
	require.Eventually(t, gone(b, "x1"), 30*time.Second, time.Millisecond)
	_, err = b.Get(ctx, "x2")
	require.NoError(t, err)
	require.NoError(t, a.DeleteTags(ctx, "x"))
	require.Eventually(t, gone(b, "x2"), 30*time.Second, time.Millisecond)
}
