package ratelimit_test

import (
	"context"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/go-spillway/spillway/ratelimit"
)

var ctx = context.Background()

func allow(t testing.TB, l *ratelimit.Limiter, key string, n int) ratelimit.Decision {
	t.Helper()
	d, err := l.Allow(ctx, key, n)
	require.NoError(t, err)
	return d
}

func TestABucketFillsAgainToTheNanosecond(t *testing.T) {
	for _, r := range []ratelimit.Rate{
		{Requests: 60, Per: time.Hour, Burst: 2},
		ratelimit.PerSecond(1), ratelimit.PerSecond(3), ratelimit.PerSecond(7), ratelimit.PerSecond(11),
		ratelimit.PerSecond(1000), ratelimit.PerSecond(1_000_000), ratelimit.PerMinute(700),
		ratelimit.PerMinute(13), ratelimit.PerDay(5000), ratelimit.PerDay(7001),
		{Requests: 1, Per: 100 * time.Second, Burst: 5}, {Requests: 5, Per: 100 * time.Millisecond, Burst: 1},
	} {
		t.Run(r.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := ratelimit.MustNew(ratelimit.Config{Rate: r})
				burst := r.Burst
				if burst == 0 {
					burst = r.Requests
				}
				require.True(t, allow(t, l, "k", burst).Allowed, "a new bucket is full")
				d := allow(t, l, "k", 1)
				require.False(t, d.Allowed, "the burst is spent")
				require.Equal(t, 0, d.Remaining)

				each := (r.Per + time.Duration(r.Requests) - 1) / time.Duration(r.Requests)
				require.InDelta(t, each, d.RetryAfter, 1, "one token, to the clock's nanosecond")
				time.Sleep(d.RetryAfter - 1)
				require.False(t, allow(t, l, "k", 1).Allowed, "one nanosecond early")
				time.Sleep(time.Nanosecond)
				require.True(t, allow(t, l, "k", 1).Allowed, "in time")
				require.False(t, allow(t, l, "k", 1).Allowed)

				// A burst and one more, each spent at once, take exactly the
				// periods that they should.
				refill := time.Duration(math.Ceil(float64(burst) * float64(r.Per) / float64(r.Requests)))
				time.Sleep(refill)
				require.True(t, allow(t, l, "k", burst).Allowed, "full again")
				for range min(burst, 20) {
					require.False(t, allow(t, l, "k", 1).Allowed)
				}
				time.Sleep(refill)
				for range min(burst, 20) {
					require.True(t, allow(t, l, "k", 1).Allowed, "refusals spent nothing")
				}
			})
		})
	}
}

// The oracle is x/time/rate called from one goroutine, where it is exact but
// for rounding: a decision that it makes by less than a millionth of a token,
// or a nanosecond, may go either way.
func TestRandomCallsAreDecidedAsByXTimeRate(t *testing.T) {
	rounds := 60
	if raceEnabled {
		rounds = 15
	}
	for i := range rounds {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		perSecond := math.Pow(10, -2+8*r.Float64()) // 0.01 to 1,000,000
		cfg := ratelimit.Rate{Requests: int(math.Ceil(perSecond)), Burst: 1 + r.IntN(1000)}
		if i%2 == 0 {
			cfg.Burst = 1 + r.IntN(5)
		}
		cfg.Per = time.Duration(float64(cfg.Requests) / perSecond * float64(time.Second))
		synctest.Test(t, func(t *testing.T) {
			l := ratelimit.MustNew(ratelimit.Config{Rate: cfg})
			exact := rate.Limit(float64(cfg.Requests) / cfg.Per.Seconds())
			oracle := rate.NewLimiter(exact, cfg.Burst)
			every := float64(time.Second) / float64(exact)
			tie := 1e-6 + 1.1e-9*float64(exact) // x/time/rate rounds a wait to whole nanoseconds
			close := 0
			for call := range 3000 {
				n := 1
				if r.IntN(4) == 0 {
					n = 1 + r.IntN(cfg.Burst+1)
				}
				tokens := oracle.Tokens()
				got := allow(t, l, "k", n)
				if tokens != float64(cfg.Burst) && math.Abs(tokens-float64(n)) < tie {
					// Too close to call; keep the two in step.
					close++
					if got.Allowed {
						oracle.ReserveN(time.Now(), n)
					}
				} else {
					want := oracle.AllowN(time.Now(), n)
					require.Equal(t, want, got.Allowed, "seed %d, %v, call %d of %d, oracle has %v", seed, cfg, call, n, tokens)
				}
				if now := oracle.Tokens(); math.Abs(now-math.Round(now)) > tie {
					require.Equal(t, int(math.Max(0, math.Floor(now))), l.Peek(ctx, "k").Remaining, "seed %d, %v, call %d", seed, cfg, call)
				}
				time.Sleep(time.Duration(r.Float64() * 3 * every))
			}
			require.Less(t, close, 1000, "the comparison must compare")
		})
	}
}

// Whatever goroutines do at once, no key gets more than its bound, and nearly
// that when enough is asked for.
func TestConcurrentCallersGetTheBoundAndNoMore(t *testing.T) {
	for _, r := range []ratelimit.Rate{
		{Requests: 1000, Per: time.Second, Burst: 100},
		{Requests: 100_000, Per: time.Second, Burst: 1000},
		{Requests: 1_000_000, Per: time.Second, Burst: 1000},
	} {
		for name, also := range map[string][]ratelimit.Rate{"one rate": nil, "two rates": {ratelimit.PerHour(1 << 30)}} {
			t.Run(r.String()+", "+name, func(t *testing.T) {
				l := ratelimit.MustNew(ratelimit.Config{Rate: r, Also: also})
				var admitted atomic.Int64
				var offered atomic.Int64
				start := time.Now()
				var wg sync.WaitGroup
				for range 64 {
					wg.Go(func() {
						for time.Since(start) < 200*time.Millisecond {
							for range 50 {
								if d, _ := l.Allow(ctx, "hot", 1); d.Allowed {
									admitted.Add(1)
								}
							}
							offered.Add(50)
						}
					})
				}
				wg.Wait()
				took := time.Since(start)
				bound := float64(r.Burst) + float64(r.Requests)*took.Seconds()
				require.LessOrEqual(t, float64(admitted.Load()), bound)
				t.Logf("admitted/bound = %.4f, offered/bound = %.1f", float64(admitted.Load())/bound, float64(offered.Load())/bound)
			})
		}
	}
}

// In a bubble, time stands still while anybody runs, so that nothing is lost to
// a machine that is too busy to ask in time: what is admitted is the bound,
// to the token.
func TestConcurrentCallersGetExactlyTheBound(t *testing.T) {
	for _, r := range []ratelimit.Rate{
		{Requests: 1, Per: 100 * time.Second, Burst: 2},
		{Requests: 7, Per: time.Second, Burst: 3},
		{Requests: 1000, Per: time.Second, Burst: 100},
		{Requests: 100_000, Per: time.Second, Burst: 1000},
		{Requests: 1_000_000, Per: time.Second, Burst: 1000},
	} {
		for name, also := range map[string][]ratelimit.Rate{"one rate": nil, "two rates": {ratelimit.PerSecond(1 << 27)}} {
			t.Run(r.String()+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := ratelimit.MustNew(ratelimit.Config{Rate: r, Also: also})
					every := float64(r.Per) / float64(r.Requests)
					start, admitted := time.Now(), 0
					for range 50 {
						// All at once, until each has been refused.
						var now atomic.Int64
						var wg sync.WaitGroup
						for range 64 {
							wg.Go(func() {
								for allow(t, l, "hot", 1).Allowed {
									now.Add(1)
								}
							})
						}
						wg.Wait()
						admitted += int(now.Load())
						bound := float64(r.Burst) + float64(time.Since(start))/every
						require.Equal(t, int(bound+1e-9), admitted)
						// Not as long as it takes to fill the bucket, which may
						// hold a part of a token now.
						time.Sleep(time.Duration(rand.Float64() * every * float64(r.Burst-1)))
					}
				})
			})
		}
	}
}

// Slots are made, moved, forgotten and given to other keys all the while.
func TestNoKeyExceedsItsBoundWhileTheTableChurns(t *testing.T) {
	for _, maxKeys := range []int{100, 10_000, 100_000} {
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.Rate{Requests: 20, Per: time.Second, Burst: 3}, MaxKeys: maxKeys})
		const n = 20_000
		names := make([]string, n)
		for i := range names {
			names[i] = strconv.Itoa(i)
		}
		admitted := make([]atomic.Int64, n)
		start := time.Now()
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(g), 0))
				for time.Since(start) < 300*time.Millisecond {
					for range 100 {
						i := r.IntN(n)
						if r.IntN(2) == 0 {
							i %= 50 // some are hot
						}
						if d, _ := l.Allow(ctx, names[i], 1); d.Allowed {
							admitted[i].Add(1)
						}
					}
				}
			})
		}
		wg.Wait()
		bound := 3 + 20*time.Since(start).Seconds()
		total := int64(0)
		for i := range admitted {
			require.LessOrEqual(t, float64(admitted[i].Load()), bound, "key %d of at most %d", i, maxKeys)
			total += admitted[i].Load()
		}
		require.NotZero(t, total)
		require.LessOrEqual(t, l.Stats().Keys, maxKeys)
	}
}

func TestAFloodOfKeysNeitherGrowsTheTableNorResetsADebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, maxKeys := range []int{1, 100, 5000} {
			l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(5), MaxKeys: maxKeys})
			for range 5 {
				require.True(t, allow(t, l, "victim", 1).Allowed)
			}
			admitted := 0
			for i := range 10 * maxKeys {
				if allow(t, l, "flood-"+strconv.Itoa(i), 1).Allowed {
					admitted++
				}
				if i%100 == 0 {
					require.False(t, allow(t, l, "victim", 1).Allowed, "after %d keys", i)
				}
			}
			s := l.Stats()
			require.LessOrEqual(t, s.Keys, maxKeys)
			require.NotZero(t, s.Overflowed)
			require.Less(t, admitted, maxKeys+5*8, "the keys beyond share a bucket per shard")
			for what := range l.Conditions() {
				require.Equal(t, "default", what)
			}

			time.Sleep(2 * time.Hour)
			for what, why := range l.Conditions() {
				require.Fail(t, "no condition expected", "%s: %s", what, why)
			}
			require.True(t, allow(t, l, "fresh", 5).Allowed, "debts are paid")
			require.True(t, allow(t, l, "victim", 5).Allowed)
		}
	})
}

func TestAKeyThatDrewFromTheOverflowBucketGetsNoFreshOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.Rate{Requests: 1, Per: time.Minute, Burst: 10}, MaxKeys: 1})
		require.True(t, allow(t, l, "first", 1).Allowed)
		require.True(t, allow(t, l, "second", 10).Allowed, "from the overflow bucket")
		require.False(t, allow(t, l, "second", 1).Allowed)
		time.Sleep(time.Minute + 1) // first is full again and makes room
		require.True(t, allow(t, l, "second", 1).Allowed, "one token came back")
		require.Equal(t, 1, l.Stats().Keys)
		require.False(t, allow(t, l, "second", 1).Allowed, "its own bucket has the debt of the shared one")
	})
}

func TestAllRatesOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.PerSecond(2),
			Also: []ratelimit.Rate{ratelimit.PerDay(5)},
		})
		for range 100 {
			allow(t, l, "k", 1)
		}
		require.Equal(t, 3, func() int { l.SetRate(ratelimit.PerDay(1000)); return l.Peek(ctx, "k").Remaining }(),
			"98 refusals by the second spent nothing of the day")
		for range 3 {
			require.True(t, allow(t, l, "k", 1).Allowed)
		}
		d := allow(t, l, "k", 1)
		require.False(t, d.Allowed)
		require.Equal(t, "default-day", d.Policy())
	})
}

func TestImpossibleAsksAreRefused(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(5)})
	for _, n := range []int{0, -1, math.MinInt} {
		d, err := l.Allow(ctx, "k", n)
		require.Error(t, err)
		require.False(t, d.Allowed)
	}
	for _, n := range []int{6, math.MaxInt} {
		d := allow(t, l, "k", n)
		require.False(t, d.Allowed)
		require.Equal(t, ratelimit.Never, d.RetryAfter)
	}
	require.Equal(t, 5, l.Peek(ctx, "k").Remaining, "none of it was charged")

	long := strings.Repeat("k", 1<<20)
	require.True(t, allow(t, l, long, 5).Allowed)
	require.False(t, allow(t, l, long, 1).Allowed)
	require.True(t, allow(t, l, long+"!", 5).Allowed)
	require.True(t, allow(t, l, "", 5).Allowed)
	require.False(t, allow(t, l, "", 1).Allowed, "the empty key is a bucket too")
}

func TestEveryBadFieldIsNamed(t *testing.T) {
	for _, c := range []struct {
		cfg  ratelimit.Config
		want string
	}{
		{ratelimit.Config{}, "Config.Rate.Requests is 0"},
		{ratelimit.Config{}, "Config.Rate.Per is 0s"},
		{ratelimit.Config{Rate: ratelimit.PerSecond(-1)}, "Config.Rate.Requests is -1"},
		{ratelimit.Config{Rate: ratelimit.Rate{Requests: 1, Per: -1}}, "Config.Rate.Per is -1ns"},
		{ratelimit.Config{Rate: ratelimit.Rate{Requests: 1, Per: 1, Burst: -1}}, "Config.Rate.Burst is -1"},
		{ratelimit.Config{Rate: ratelimit.PerSecond(2_000_000_000)}, "at most a billion per second"},
		{ratelimit.Config{Rate: ratelimit.PerSecond(math.MaxInt)}, "at most a billion per second"},
		{ratelimit.Config{Rate: ratelimit.Rate{Requests: 1, Per: math.MaxInt64}}, "Config.Rate.Per"},
		{ratelimit.Config{Rate: ratelimit.Rate{Requests: 1, Per: time.Hour, Burst: math.MaxInt}}, "more than a year"},
		{ratelimit.Config{Rate: ratelimit.PerSecond(1), Also: make([]ratelimit.Rate, 4)}, "Config.Also has 4 rates"},
		{ratelimit.Config{Rate: ratelimit.PerSecond(1), Also: make([]ratelimit.Rate, 1)}, "Config.Also[0].Requests is 0"},
		{ratelimit.Config{Rate: ratelimit.PerSecond(1), Name: "a\"b"}, `Config.Name is "a\"b"`},
		{ratelimit.Config{Rate: ratelimit.PerSecond(1), MaxKeys: -1}, "Config.MaxKeys is -1"},
		{ratelimit.Config{Rate: ratelimit.PerSecond(1), MaxWait: -1}, "Config.MaxWait is -1ns"},
		{ratelimit.Config{Rate: ratelimit.PerSecond(1), Groups: make([]ratelimit.Group, 1)}, "Config.Groups[0].Key is nil"},
		{ratelimit.Config{Rate: ratelimit.PerSecond(1), Groups: []ratelimit.Group{{Name: "default"}}}, `Config.Groups[0].Name is "default", must not be that of another policy`},
		{ratelimit.Config{Rate: ratelimit.PerSecond(1), Name: "api", Also: []ratelimit.Rate{ratelimit.PerDay(9)}, Groups: []ratelimit.Group{{Name: "api-day"}}}, `Config.Groups[0].Name is "api-day", must not`},
		{ratelimit.Config{Rate: ratelimit.PerSecond(1), Groups: []ratelimit.Group{{Name: "all"}, {Name: "all"}}}, `Config.Groups[1].Name is "all", must not`},
	} {
		_, err := ratelimit.New(c.cfg)
		require.ErrorContains(t, err, c.want)
		require.PanicsWithError(t, err.Error(), func() { ratelimit.MustNew(c.cfg) })
	}
}

func TestALimiterThatRunsForYearsHoldsItsRate(t *testing.T) {
	for _, also := range [][]ratelimit.Rate{nil, {ratelimit.PerDay(20)}} {
		synctest.Test(t, func(t *testing.T) {
			l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(2), Also: also})
			for range 60 {
				time.Sleep(60 * 24 * time.Hour) // ten years in all: the count of ticks wraps after four and a half
				for hour := range 3 {
					admitted := 0
					for range 10 {
						if allow(t, l, "k", 1).Allowed {
							admitted++
						}
					}
					require.Equal(t, 2, admitted, "hour %d", hour)
					time.Sleep(time.Hour)
				}
			}
		})
	}
}
