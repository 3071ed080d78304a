package ratelimit_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

func TestSetRateKeepsEveryDebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(100), MaxKeys: 50_000})
		for i := range 20_000 {
			allow(t, l, strconv.Itoa(i), 1+i%100)
		}
		require.NoError(t, l.SetRate(ratelimit.PerMinute(500)))
		for i := range 20_000 {
			d := l.Peek(ctx, strconv.Itoa(i))
			require.Equal(t, 5*(99-i%100), d.Remaining, "the same part of the bucket")
		}
		// An hour's debt is not carried into a rate that fills in a second.
		l = ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10), Also: []ratelimit.Rate{ratelimit.PerDay(100)}})
		allow(t, l, "k", 10)
		require.NoError(t, l.SetRate(ratelimit.PerSecond(10), ratelimit.PerDay(200)))
		d := allow(t, l, "k", 1)
		require.False(t, d.Allowed, "nothing is forgiven")
		require.Equal(t, 100*time.Millisecond, d.RetryAfter)

		for _, err := range []error{l.SetRate(ratelimit.PerSecond(-1)), l.SetRate(ratelimit.PerSecond(1), ratelimit.PerDay(1), ratelimit.PerDay(2))} {
			require.ErrorContains(t, err, "ratelimit: SetRate")
		}
		var said []string
		for _, what := range l.Changes() {
			said = append(said, what)
		}
		require.Equal(t, []string{"default: rate changed from 10 per 1h0m0s to 10 per 1s", "default-day: rate changed from 100 per 24h0m0s to 200 per 24h0m0s"}, said)
	})
}

func TestSetRateWhileServingNeverAdmitsMoreThanTheFasterRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, fast := ratelimit.PerSecond(10), ratelimit.PerSecond(20)
		l := ratelimit.MustNew(ratelimit.Config{Rate: slow})
		start, admitted := time.Now(), 0
		for i := range 10_000 {
			if d, _ := l.Allow(ctx, "k", 1); d.Allowed {
				admitted++
			}
			if i%10 == 0 {
				require.NoError(t, l.SetRate([]ratelimit.Rate{slow, fast}[i/10%2]))
			}
			time.Sleep(time.Millisecond)
		}
		require.LessOrEqual(t, float64(admitted), 20+20*time.Since(start).Seconds())
		require.GreaterOrEqual(t, float64(admitted), 10*time.Since(start).Seconds())
	})
}

// Callers decide while the table grows and forgets, rates change, keys are
// charged and forgotten, and snapshots are taken, from one of which a second
// limiter goes on.
func TestNoKeyExceedsItsBoundWhateverElseGoesOn(t *testing.T) {
	slow := ratelimit.Rate{Requests: 10, Per: time.Second, Burst: 3}
	fast := ratelimit.Rate{Requests: 20, Per: time.Second, Burst: 6} // as long to fill
	const n = 5000
	for _, maxKeys := range []int{100, 2000, 100_000} {
		cfg := ratelimit.Config{Rate: fast, MaxKeys: maxKeys}
		l := ratelimit.MustNew(cfg)
		var admitted, forgotten [n]atomic.Int64 // how often, of each key
		start := time.Now()
		for range 2 {
			turn := time.Now()
			during := func() bool { return time.Since(turn) < 150*time.Millisecond }
			some := func() int {
				if rand.IntN(2) == 0 {
					return rand.IntN(50) // some are hot
				}
				return rand.IntN(n)
			}
			var wg sync.WaitGroup
			for range 6 {
				wg.Go(func() {
					for during() {
						i, tokens := some(), 1+rand.IntN(2)
						if d, _ := l.Allow(ctx, strconv.Itoa(i), tokens); d.Allowed {
							admitted[i].Add(int64(tokens))
						}
					}
				})
			}
			for during() {
				i := some()
				switch key := strconv.Itoa(i); rand.IntN(20) {
				case 0:
					require.NoError(t, l.SetRate([]ratelimit.Rate{slow, fast}[rand.IntN(2)]))
				case 1:
					require.NoError(t, l.Snapshot(io.Discard))
				case 2:
					forgotten[i].Add(1)
					l.Forget(ctx, key)
				case 3:
					require.LessOrEqual(t, l.Stats().Keys, maxKeys)
				case 4, 5, 6, 7:
					l.Charge(ctx, key, 1)
				default:
					require.LessOrEqual(t, l.Peek(ctx, key).Remaining, fast.Burst)
				}
			}
			wg.Wait()

			var b bytes.Buffer
			require.NoError(t, l.Snapshot(&b))
			l = ratelimit.MustNew(cfg)
			require.NoError(t, l.Restore(&b))
		}
		passed, total := time.Since(start).Seconds(), int64(0)
		for i := range admitted {
			bursts := 1 + forgotten[i].Load()
			if maxKeys < n {
				bursts++ // what overflow buckets owe is no part of a snapshot
			}
			bound := float64(fast.Burst)*float64(bursts) + float64(fast.Requests)*passed
			require.LessOrEqual(t, float64(admitted[i].Load()), bound, "key %d of at most %d", i, maxKeys)
			total += admitted[i].Load()
		}
		require.NotZero(t, total)
	}
}

func TestPeekSpendsNothing(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(3)})
	for range 10 {
		require.Equal(t, 3, l.Peek(ctx, "new").Remaining)
	}
	require.Zero(t, l.Stats().Keys, "and takes no memory")
	allow(t, l, "k", 3)
	d := l.Peek(ctx, "k")
	require.False(t, d.Allowed)
	require.InDelta(t, 20*time.Minute, d.RetryAfter, float64(time.Minute))
	require.InDelta(t, time.Hour, d.FullAfter(), float64(time.Minute))
	require.Zero(t, l.Stats().Refused)
}

func TestForgetFillsTheBucketsOfOneKey(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(3), Also: []ratelimit.Rate{ratelimit.PerDay(3)}})
	allow(t, l, "a", 3)
	allow(t, l, "b", 3)
	l.Forget(ctx, "a")
	l.Forget(ctx, "nobody")
	require.True(t, allow(t, l, "a", 3).Allowed)
	require.False(t, allow(t, l, "b", 1).Allowed)
}

func TestChargeOverdrawsAndGivesBackNoFurtherThanFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10)})
		l.Charge(ctx, "k", 25)
		d := allow(t, l, "k", 1)
		require.False(t, d.Allowed)
		require.Equal(t, 96*time.Minute, d.RetryAfter, "16 tokens, 6 minutes each")
		l.Charge(ctx, "k", -20)
		require.Equal(t, 5, l.Peek(ctx, "k").Remaining)
		l.Charge(ctx, "k", -1000)
		require.Equal(t, 10, l.Peek(ctx, "k").Remaining)
		l.Charge(ctx, "other", -1000)
		require.Equal(t, 10, l.Peek(ctx, "other").Remaining)
		l.Charge(ctx, "k", 1<<62)
		require.False(t, allow(t, l, "k", 1).Allowed)
		time.Sleep(2 * 365 * 24 * time.Hour)
		require.True(t, allow(t, l, "k", 10).Allowed, "two years at most")
	})
}

func TestConcurrentChargesAndRefundsAddUp(t *testing.T) {
	for name, also := range map[string][]ratelimit.Rate{"one rate": nil, "two rates": {ratelimit.PerDay(1_000_000)}} {
		t.Run(name, func(t *testing.T) {
			l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.Rate{Requests: 1, Per: time.Hour, Burst: 1000}, Also: also})
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for i := range 1000 {
						if d, _ := l.Allow(ctx, "k", 1); d.Allowed && i%10 != 0 {
							l.Charge(ctx, "k", -1)
						}
						l.Allow(ctx, strconv.Itoa(i), 1) // the table grows meanwhile
						l.Peek(ctx, "k")
					}
				})
			}
			wg.Wait()
			require.Equal(t, 200, l.Peek(ctx, "k").Remaining, "800 were kept")
		})
	}
}

func TestDebtsSurviveADeploy(t *testing.T) {
	cfg := ratelimit.Config{
		Rate: ratelimit.PerHour(10), Also: []ratelimit.Rate{ratelimit.PerDay(20)},
		Groups: []ratelimit.Group{{Name: "all", Key: ratelimit.Header("None"), Rate: ratelimit.PerHour(1000)}},
	}
	synctest.Test(t, func(t *testing.T) {
		old := ratelimit.MustNew(cfg)
		for i := range 5000 {
			allow(t, old, strconv.Itoa(i), 1+i%10)
		}
		get(old.Handler(ok))
		var b bytes.Buffer
		require.NoError(t, old.Snapshot(&b))
		time.Sleep(6 * time.Minute) // the deploy takes that long, a token an hour... one of ten per hour

		l := ratelimit.MustNew(cfg)
		require.NoError(t, l.Restore(bytes.NewReader(b.Bytes())))
		for i := range 5000 {
			require.Equal(t, min(10, 10-i%10), l.Peek(ctx, strconv.Itoa(i)).Remaining)
		}
		require.Contains(t, get(l.Handler(ok)).Header()["Ratelimit"][0], `"all";r=999;`, "groups too")

		for what, data := range map[string][]byte{
			"nothing":   nil,
			"cut short": b.Bytes()[:b.Len()/16*8],
			"one bit":   append(slices.Clone(b.Bytes()[:b.Len()-9]), append([]byte{b.Bytes()[b.Len()-9] ^ 1}, b.Bytes()[b.Len()-8:]...)...),
		} {
			err := l.Restore(bytes.NewReader(data))
			require.ErrorContains(t, err, "ratelimit: Restore: ", what)
			require.Equal(t, 1, l.Peek(ctx, "9").Remaining, "nothing has changed")
		}
		other := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10)})
		require.ErrorContains(t, other.Restore(bytes.NewReader(b.Bytes())), "groups")
		require.ErrorContains(t, l.Restore(failing{}), "broken")
		require.ErrorContains(t, old.Snapshot(failing{}), "broken")

		time.Sleep(48 * time.Hour)
		l = ratelimit.MustNew(cfg)
		require.NoError(t, l.Restore(bytes.NewReader(b.Bytes())))
		require.Zero(t, l.Stats().Keys, "what is paid is not restored")
	})
}

type failing struct{}

func (failing) Read([]byte) (int, error)  { return 0, errors.New("broken") }
func (failing) Write([]byte) (int, error) { return 0, errors.New("broken") }

var _ io.ReadWriter = failing{}

func TestStatsNameTheMostRefusedKeysInFixedMemory(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerDay(1)})
	long := strings.Repeat("x", 1000)
	for i := range 20_000 {
		l.Allow(ctx, "attacker", 1)
		if i%2 == 0 {
			l.Allow(ctx, long, 1)
		}
		for range 2 {
			l.Allow(ctx, "once-"+strconv.Itoa(i), 1)
		}
	}
	top := l.Stats().MostRefused
	require.Len(t, top, 64)
	require.Equal(t, "attacker", top[0].Key)
	require.LessOrEqual(t, top[0].AtLeast, uint64(19_999))
	require.GreaterOrEqual(t, top[0].Refused, uint64(19_999))
	require.Greater(t, top[0].AtLeast, uint64(19_000))
	require.Equal(t, long[:64], top[1].Key)
}

func TestCollectEmitsStableSeriesWithoutAKeyInALabel(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{Name: "api", Rate: ratelimit.PerHour(2)})
	collect := func() (names []string, values map[string]float64) {
		values = make(map[string]float64)
		l.Collect(func(name, help, kind string, value float64, labels ...string) {
			require.NotEmpty(t, help)
			require.Contains(t, []string{"counter", "gauge", "histogram"}, kind)
			require.Equal(t, []string{"policy", "api"}, labels[:2])
			names = append(names, name+fmt.Sprint(labels[2:]))
			values[name+fmt.Sprint(labels[2:])] = value
		})
		return
	}
	before, zero := collect()
	for name, v := range zero {
		require.Zero(t, v, name)
	}
	for range 5 {
		allow(t, l, "secret-key", 1)
	}
	after, got := collect()
	require.Equal(t, before, after)
	require.EqualValues(t, 2, got["spillway_ratelimit_requests_total[outcome allowed]"])
	require.EqualValues(t, 3, got["spillway_ratelimit_requests_total[outcome denied]"])
	require.EqualValues(t, 1, got["spillway_ratelimit_keys[]"])
	require.NotContains(t, fmt.Sprint(after), "secret")
	last := ""
	seen := make(map[string]bool)
	for _, n := range after {
		n, _, _ = strings.Cut(n, "[")
		if n != last {
			require.False(t, seen[n], "%s is not in one piece", n)
			seen[n], last = true, n
		}
	}
}
