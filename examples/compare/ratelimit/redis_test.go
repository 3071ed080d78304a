package ratelimit_test

import (
	"context"
	"math/rand/v2"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

func startRedis(t testing.TB) (*redis.Client, *exec.Cmd) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed: this needs a real one")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir())
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGCONT)
		cmd.Process.Kill()
		cmd.Wait()
	})
	rdb := redis.NewClient(&redis.Options{Addr: addr, PoolSize: 64, ContextTimeoutEnabled: true})
	t.Cleanup(func() { rdb.Close() })
	require.Eventually(t, func() bool { return rdb.Ping(ctx).Err() == nil }, 10*time.Second, 10*time.Millisecond)
	return rdb, cmd
}

// prompt says that the client heeds contexts, as redislimit.New does.
type prompt struct{ ratelimit.Store }

func (prompt) HeedsContext() bool { return true }

func evalSha(rdb *redis.Client) ratelimit.EvalFunc {
	scripts := map[string]*redis.Script{}
	return func(ctx context.Context, script string, keys []string, args ...any) (any, error) {
		s, ok := scripts[script] // filled by the first call, before there are others
		if !ok {
			s = redis.NewScript(script)
			scripts[script] = s
		}
		return s.Run(ctx, rdb, keys, args...).Result()
	}
}

func shared(rdb *redis.Client, lease int, goroutine bool) *ratelimit.Limiter {
	s := ratelimit.NewRedisStore("bench:", evalSha(rdb))
	if !goroutine {
		s = prompt{s}
	}
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(1_000_000), Store: s, StoreTimeout: 5 * time.Second, Lease: lease})
	l.Allow(ctx, "warm", 1)
	return l
}

// theScript returns the script that decides, as a Store sends it.
func theScript(t testing.TB, rdb *redis.Client) (script *redis.Script, args []any) {
	spy := ratelimit.NewRedisStore("bench:", func(_ context.Context, text string, _ []string, a ...any) (any, error) {
		script, args = redis.NewScript(text), a
		return nil, nil
	})
	spy.Take(ctx, []ratelimit.Bucket{{Key: "k", Policy: "p", Rate: ratelimit.Rate{Requests: 1_000_000, Per: time.Second, Burst: 1_000_000}}}, 1, 1)
	require.NoError(t, script.Load(ctx, rdb).Err())
	return script, args
}

// TestOneDecisionOverRedis takes turns, in a random order, so that what else the
// machine does, and what the one before left in its caches, falls on all alike:
// a bare EVALSHA of an empty script, one of the script that decides, the Limiter,
// and redis_rate.
func TestOneDecisionOverRedis(t *testing.T) {
	needFigures(t)
	rdb, _ := startRedis(t)
	empty := redis.NewScript("return {1, 2}")
	require.NoError(t, empty.Load(ctx, rdb).Err())
	same, args := theScript(t, rdb)
	plain, guarded := shared(rdb, 0, false), shared(rdb, 0, true)
	theirs := redis_rate.NewLimiter(rdb)
	limit := redis_rate.Limit{Rate: 1_000_000, Burst: 1_000_000, Period: time.Second}
	calls := []struct {
		name string
		do   func()
	}{
		{"EVALSHA of the script", func() { same.EvalSha(ctx, rdb, []string{"bench:{k}:p"}, args...).Result() }},
		{"EVALSHA of nothing", func() { empty.EvalSha(ctx, rdb, []string{"k"}, args...).Result() }},
		{"spillway", func() { plain.Allow(ctx, "k", 1) }},
		{"spillway, a client that heeds no context", func() { guarded.Allow(ctx, "k", 1) }},
		{"redis_rate", func() { theirs.Allow(ctx, "k", limit) }},
	}
	const rounds = 5000
	took := make([][]time.Duration, len(calls))
	shuffled := rand.New(rand.NewPCG(1, 2))
	for range rounds {
		for _, i := range shuffled.Perm(len(calls)) {
			start := time.Now()
			calls[i].do()
			took[i] = append(took[i], time.Since(start))
		}
	}
	for i, c := range calls {
		slices.Sort(took[i])
		over := took[i][rounds/2].Seconds() / took[0][rounds/2].Seconds()
		t.Logf("%-42s p50 %6.1f µs, p99 %7.1f µs, %.2f times EVALSHA of the script", c.name, took[i][rounds/2].Seconds()*1e6, took[i][rounds*99/100].Seconds()*1e6, over)
		if c.name == "spillway" {
			require.LessOrEqual(t, over, 1.2)
		}
	}
	require.Zero(t, plain.Stats().Degraded+guarded.Stats().Degraded)
}

// in32 calls do n times in all, from 32 goroutines, for the keys in turn, and
// returns how long one call took on average.
func in32(keys []string, n int, do func(key string)) time.Duration {
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range 32 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				do(keys[i%int64(len(keys))])
			}
		})
	}
	wg.Wait()
	return time.Since(start) / time.Duration(n)
}

// TestManyDecisionsOverRedis decides for 10,000 keys from 32 goroutines, in
// turns. Leases are fetched for 32 decisions each, and all keys run out of
// theirs at about the same time, so that only whole cycles tell: a turn of
// leases is 320,000 decisions and pays for 10,000 fetches.
func TestManyDecisionsOverRedis(t *testing.T) {
	needFigures(t)
	rdb, _ := startRedis(t)
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = strconv.Itoa(i)
	}
	limit := redis_rate.Limit{Rate: 1_000_000, Burst: 1_000_000, Period: time.Second}
	theirs := redis_rate.NewLimiter(rdb)
	same, args := theScript(t, rdb)
	plain, leased := shared(rdb, 0, false), shared(rdb, 32, false)
	calls := []struct {
		name string
		n    int
		do   func(key string)
	}{
		{"redis_rate", 10_000, func(k string) { theirs.Allow(ctx, k, limit) }},
		{"EVALSHA of the script", 10_000, func(k string) { same.EvalSha(ctx, rdb, []string{"bench:{" + k + "}:p"}, args...).Result() }},
		{"spillway", 10_000, func(k string) { plain.Allow(ctx, k, 1) }},
		{"spillway, leases of 32", 320_000, func(k string) { leased.Allow(ctx, k, 1) }},
	}
	const rounds = 10
	took := make([][]float64, len(calls))
	for range rounds {
		for i, c := range calls {
			took[i] = append(took[i], float64(in32(keys, c.n, c.do))/1e3)
		}
	}
	ratio := func(over, under int) float64 {
		ratios := make([]float64, rounds)
		for r := range ratios {
			ratios[r] = took[over][r] / took[under][r]
		}
		slices.Sort(ratios)
		return ratios[rounds/2]
	}
	decision, leases := ratio(2, 1), ratio(0, 3)
	t.Logf("a decision takes %.2f times EVALSHA; leases are %.1f times as fast as redis_rate", decision, leases)
	for i, c := range calls {
		slices.Sort(took[i])
		t.Logf("%-24s median %6.2f µs a decision, best %6.2f µs", c.name, took[i][rounds/2], took[i][0])
	}
	require.Zero(t, plain.Stats().Degraded+leased.Stats().Degraded)
	require.LessOrEqual(t, decision, 1.2)
	require.GreaterOrEqual(t, leases, 10.0)
}

// TestAStoppedServer prints what a decision costs while the server hangs.
func TestAStoppedServer(t *testing.T) {
	needFigures(t)
	rdb, cmd := startRedis(t)
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(1_000_000), Store: prompt{ratelimit.NewRedisStore("s:", evalSha(rdb))}})
	l.Allow(ctx, "k", 1)
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	var took []time.Duration
	for i := range 5000 {
		start := time.Now()
		l.Allow(ctx, strconv.Itoa(i%100), 1)
		took = append(took, time.Since(start))
		time.Sleep(100 * time.Microsecond) // for real, as redis-server and its timeout are
	}
	slices.Sort(took)
	t.Logf("deadline 25ms: p50 %v, p99 %v, longest %v", took[2500], took[4950], took[4999])
	require.Less(t, took[4950], 25*time.Millisecond)
}
