package ratelimit_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

// A fakeStore keeps debts in a map, by the clock of the bubble.
type fakeStore struct {
	mu     sync.Mutex
	full   map[string]time.Time
	calls  atomic.Int64
	broken atomic.Pointer[func() error] // called instead, if not nil
	prompt bool
}

func (s *fakeStore) HeedsContext() bool { return s.prompt }

func (s *fakeStore) breakDown(f func() error) { s.broken.Store(&f) }
func (s *fakeStore) repair()                  { s.broken.Store(nil) }

func (s *fakeStore) do(buckets []ratelimit.Bucket, n int, force bool) (bool, []time.Duration, error) {
	s.calls.Add(1)
	if f := s.broken.Load(); f != nil {
		if err := (*f)(); err != nil {
			return false, nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full == nil {
		s.full = make(map[string]time.Time)
	}
	now, taken := time.Now(), true
	debts, after := make([]time.Duration, len(buckets)), make([]time.Duration, len(buckets))
	for i, b := range buckets {
		debts[i] = max(0, s.full[b.Policy+" "+b.Key].Sub(now))
		each := float64(b.Rate.Per) / float64(b.Rate.Requests)
		after[i] = max(0, debts[i]+time.Duration(math.Ceil(float64(n)*each)))
		taken = taken && (force || float64(after[i]) <= float64(b.Rate.Burst)*each)
	}
	if !taken {
		return false, debts, nil
	}
	for i, b := range buckets {
		s.full[b.Policy+" "+b.Key] = now.Add(after[i])
	}
	return true, after, nil
}

func (s *fakeStore) Take(_ context.Context, buckets []ratelimit.Bucket, least, most int) (int, []time.Duration, error) {
	if least < most {
		if ok, debts, err := s.do(buckets, most, false); ok || err != nil {
			return most, debts, err
		}
	}
	ok, debts, err := s.do(buckets, least, false)
	if !ok {
		least = 0
	}
	return least, debts, err
}

func (s *fakeStore) Charge(_ context.Context, buckets []ratelimit.Bucket, n int) ([]time.Duration, error) {
	_, debts, err := s.do(buckets, n, true)
	return debts, err
}

func TestAStoreDecidesForAllLimiters(t *testing.T) {
	for _, prompt := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &fakeStore{prompt: prompt}
			cfg := ratelimit.Config{Rate: ratelimit.PerHour(4), Store: s, Groups: []ratelimit.Group{{Name: "all", Key: ratelimit.Header("None"), Rate: ratelimit.PerHour(6)}}}
			a, b := ratelimit.MustNew(cfg), ratelimit.MustNew(cfg)
			for _, l := range []*ratelimit.Limiter{a, b, a, b} {
				require.Equal(t, 200, get(l.Handler(ok)).Code)
			}
			w := get(b.Handler(ok))
			require.Equal(t, 429, w.Code)
			require.Equal(t, "900", w.Header().Get("Retry-After"))
			require.Equal(t, `"default";r=0;t=900,"all";r=2;t=1200`, w.Header()["Ratelimit"][0])
			require.EqualValues(t, 5, s.calls.Load(), "one call a decision")
			a.Charge(ctx, "192.0.2.1", -2)
			require.Equal(t, 2, b.Peek(ctx, "192.0.2.1").Remaining)
			b.Forget(ctx, "192.0.2.1")
			require.Equal(t, 4, a.Peek(ctx, "192.0.2.1").Remaining)
		})
	}
}

func TestALateStoreCostsOneDeadlineAndIsNoticedWhenItIsBack(t *testing.T) {
	for name, broken := range map[string]func() error{
		"hung":      func() error { time.Sleep(time.Hour); return nil },
		"failing":   func() error { return errors.New("refused") },
		"panicking": func() error { panic("store") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &fakeStore{}
				l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10), Store: s})
				allow(t, l, "spent", 10)
				s.breakDown(broken)
				start := time.Now()
				d := allow(t, l, "spent", 1)
				require.True(t, d.Degraded)
				require.False(t, d.Allowed, "the local buckets have followed")
				require.LessOrEqual(t, time.Since(start), 25*time.Millisecond)
				if name == "hung" {
					require.Equal(t, 25*time.Millisecond, time.Since(start))
				}
				start = time.Now()
				admitted := 0
				for range 1000 {
					if allow(t, l, "new", 1).Allowed {
						admitted++
					}
				}
				require.Zero(t, time.Since(start), "nobody else waits")
				require.Equal(t, 5, admitted, "half of the limit")
				require.Less(t, s.calls.Load(), int64(5))
				require.True(t, allow(t, l, "costly", 8).Allowed, "at the price of the whole local burst")
				require.False(t, allow(t, l, "costly", 1).Allowed)
				require.Equal(t, ratelimit.Never, allow(t, l, "costly", 11).RetryAfter)

				s.repair()
				time.Sleep(2 * time.Second)
				allow(t, l, "probe", 1)
				synctest.Wait()
				require.False(t, allow(t, l, "new", 1).Degraded)
				stats := l.Stats()
				require.NotZero(t, stats.StoreErrors)
				require.GreaterOrEqual(t, stats.Degraded, uint64(1001))
				time.Sleep(2 * time.Hour) // let what hangs end
			})
		})
	}
}

// A heedfulStore returns when its context ends, and hangs until then if told to.
type heedfulStore struct {
	fakeStore
	hang bool
	ctx  context.Context
}

func (s *heedfulStore) HeedsContext() bool { return true }

func (s *heedfulStore) Take(ctx context.Context, buckets []ratelimit.Bucket, least, most int) (int, []time.Duration, error) {
	s.ctx = ctx
	if s.hang {
		<-ctx.Done()
		return 0, nil, ctx.Err()
	}
	return s.fakeStore.Take(ctx, buckets, least, most)
}

func TestAStoreThatHeedsContextsIsStoppedInTime(t *testing.T) {
	type name struct{}
	for after := time.Duration(0); after < 30*time.Millisecond; after += time.Millisecond / 4 {
		synctest.Test(t, func(t *testing.T) {
			s := &heedfulStore{}
			l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10), Store: s})
			require.False(t, allow(t, l, "k", 1).Degraded)
			time.Sleep(after)

			ctx, leave := context.WithCancel(context.WithValue(ctx, name{}, "a trace"))
			s.hang = true
			start := time.Now()
			time.AfterFunc(time.Millisecond, leave) // which does not interrupt the client
			d, err := l.Allow(ctx, "k", 1)
			require.NoError(t, err)
			require.True(t, d.Degraded)
			took := time.Since(start)
			require.LessOrEqual(t, took, 25*time.Millisecond)
			require.GreaterOrEqual(t, took, 25*time.Millisecond*7/8)
			at, ok := s.ctx.Deadline()
			require.True(t, ok)
			require.Equal(t, time.Now(), at)
			require.ErrorIs(t, s.ctx.Err(), context.DeadlineExceeded)
			require.Equal(t, "a trace", s.ctx.Value(name{}))
			require.Zero(t, l.Stats().StoreErrors, "a caller who left proves nothing")

			hurried, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
			defer cancel()
			start = time.Now()
			d, _ = l.Allow(hurried, "k", 1)
			require.True(t, d.Degraded)
			require.Equal(t, 5*time.Millisecond, time.Since(start), "the caller's own deadline is sooner")
			require.EqualValues(t, 1, l.Stats().StoreErrors)
			require.True(t, allow(t, l, "k", 1).Degraded)
			require.Equal(t, 5*time.Millisecond, time.Since(start), "nobody waits for a store that is out")
		})
	}
}

func TestAnOutageMayLetPassOrRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{}
		s.breakDown(func() error { return errors.New("refused") })
		open := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1), Store: s, Outage: ratelimit.LetPass})
		shut := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1), Store: s, Outage: ratelimit.RefuseAll})
		for range 5 {
			w := get(open.Handler(ok))
			require.Equal(t, 200, w.Code)
			require.Empty(t, w.Header().Get("RateLimit"), "nothing is known")
			w = get(shut.Handler(ok))
			require.Equal(t, 503, w.Code)
			require.Equal(t, "1", w.Header().Get("Retry-After"))
			require.Equal(t, 503, get(shut.Handler(ok), with("Accept", "application/json")).Code)
		}
		require.EqualValues(t, 5, open.Stats().FailedOpen)
		require.EqualValues(t, 10, shut.Stats().FailedClosed)
	})
}

func TestACallerWhoLeavesIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{}
		s.breakDown(func() error { time.Sleep(10 * time.Millisecond); return nil })
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10), Store: s})
		gone, leave := context.WithCancel(ctx)
		time.AfterFunc(time.Millisecond, leave)
		l.Allow(gone, "k", 1)
		require.False(t, allow(t, l, "k", 1).Degraded)
		require.Zero(t, l.Stats().StoreErrors)
	})
}

func TestLeasesDecideWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{}
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(100), Store: s, Lease: 10})
		for range 50 {
			require.True(t, allow(t, l, "k", 1).Allowed)
		}
		require.EqualValues(t, 5, s.calls.Load())
		for range 50 {
			require.True(t, allow(t, l, "k", 1).Allowed)
		}
		calls := s.calls.Load()
		for range 100 {
			d := allow(t, l, "k", 1)
			require.False(t, d.Allowed)
			require.Equal(t, 36*time.Second, d.RetryAfter)
		}
		require.LessOrEqual(t, s.calls.Load(), calls+2, "a refusal is remembered")
		time.Sleep(36 * time.Second)
		require.True(t, allow(t, l, "k", 1).Allowed, "until it ends")
		require.False(t, allow(t, l, "k", 1).Allowed)
		l.Charge(ctx, "k", -1)
		require.True(t, allow(t, l, "k", 1).Allowed, "or a token is given back")
	})
}

func TestALeaseIsFetchedByOneForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{}
		s.breakDown(func() error { time.Sleep(time.Millisecond); return nil })
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1000), Store: s, Lease: 100})
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { require.True(t, allow(t, l, "k", 1).Allowed) })
		}
		wg.Wait()
		require.EqualValues(t, 1, s.calls.Load())

		// And when that fails, none of them waits for longer.
		s.breakDown(func() error { time.Sleep(time.Hour); return nil })
		start := time.Now()
		for range 100 {
			wg.Go(func() { require.True(t, allow(t, l, "other", 1).Degraded) })
		}
		wg.Wait()
		require.Equal(t, 25*time.Millisecond, time.Since(start))
		time.Sleep(2 * time.Hour)
	})
}

func TestBadStoreSettingsAreNamed(t *testing.T) {
	for want, cfg := range map[string]ratelimit.Config{
		"Config.Outage is 7":           {Outage: 7},
		"Config.Headers is -1":         {Headers: -1},
		"Config.StoreTimeout is -1ns":  {StoreTimeout: -1},
		"Config.LocalShare is NaN":     {LocalShare: math.NaN()},
		"Config.LocalShare is 1.5":     {LocalShare: 1.5},
		"Config.LocalShare is -0.1":    {LocalShare: -0.1},
		"Config.Lease is -1":           {Lease: -1},
		"Config.Lease is 5, must be 0": {Lease: 5},
	} {
		cfg.Rate = ratelimit.PerHour(1)
		_, err := ratelimit.New(cfg)
		require.ErrorContains(t, err, want)
	}
}

func TestAStoreWithoutARedisIsRefused(t *testing.T) {
	require.PanicsWithValue(t, "ratelimit: NewRedisStore: eval is nil, must run a script", func() { ratelimit.NewRedisStore("", nil) })
}
