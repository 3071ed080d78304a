package ratelimit_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

// outage returns a limiter of four per hour whose store has just gone out.
func outage(t *testing.T, cfg ratelimit.Config) (*ratelimit.Limiter, *fakeStore) {
	s := &fakeStore{}
	cfg.Rate, cfg.Store = ratelimit.PerHour(4), s
	l := ratelimit.MustNew(cfg)
	s.breakDown(func() error { return errors.New("refused") })
	require.True(t, allow(t, l, "who finds out", 1).Degraded)
	return l, s
}

func TestPeekInAnOutageReportsWhatAllowWouldAnswer(t *testing.T) {
	for _, how := range []ratelimit.Outage{ratelimit.DecideLocally, ratelimit.LetPass, ratelimit.RefuseAll} {
		synctest.Test(t, func(t *testing.T) {
			l, _ := outage(t, ratelimit.Config{Outage: how})
			for range 4 {
				before := l.Stats()
				saw := l.Peek(ctx, "k")
				require.Equal(t, before, l.Stats(), "it counts nothing")
				got := allow(t, l, "k", 1)
				require.Equal(t, got.Allowed, saw.Allowed)
				require.Equal(t, got.RetryAfter, saw.RetryAfter)
				require.True(t, saw.Degraded)
			}
			time.Sleep(time.Second) // for the probe
		})
	}
}

func TestWhatIsTakenBackInAnOutageIsAsMuchAsWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := outage(t, ratelimit.Config{})
		for range 20 { // logins that succeed
			require.True(t, allow(t, l, "k", 1).Allowed)
			l.Charge(ctx, "k", -1)
		}
		require.True(t, allow(t, l, "k", 2).Allowed)
		require.False(t, allow(t, l, "k", 1).Allowed, "half of four")
		time.Sleep(time.Second)
	})
}

func TestSettlingInAnOutageGivesBackNoMoreThanWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{}
		l := ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.PerHour(4), Store: s,
			Key:    ratelimit.Header("Key"),
			Groups: []ratelimit.Group{{Name: "all", Key: ratelimit.Header("None"), Rate: ratelimit.PerHour(12)}},
			Cost:   func(*http.Request) int { return 4 },
			Settle: func(r *http.Request, _ ratelimit.Outcome) int { return len(r.Header.Get("Cost")) },
		})
		s.breakDown(func() error { return errors.New("refused") })
		h := l.Handler(ok)
		require.Equal(t, 200, get(h, with("Key", "a"), with("Cost", "four")).Code) // takes two of the group's six
		require.Equal(t, 200, get(h, with("Key", "b"), with("Cost", "four")).Code)
		for range 10 {
			require.Equal(t, 200, get(h, with("Key", "c"), with("Cost", "")).Code)
		}
		require.Equal(t, 200, get(h, with("Key", "d"), with("Cost", "four")).Code)
		require.Equal(t, 429, get(h, with("Key", "e"), with("Cost", "four")).Code, "three times two are six")
		time.Sleep(time.Second)
	})
}

// A busyStore takes ten milliseconds to answer, or fails when its context ends.
type busyStore struct{ fakeStore }

func (s *busyStore) Take(ctx context.Context, buckets []ratelimit.Bucket, least, most int) (int, []time.Duration, error) {
	select {
	case <-time.After(10 * time.Millisecond):
		return s.fakeStore.Take(ctx, buckets, least, most)
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
}

func TestAHurriedCallerIsNoOutage(t *testing.T) {
	for _, prompt := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(100), Store: &busyStore{fakeStore{prompt: prompt}}})
			for _, has := range []time.Duration{time.Millisecond, -time.Hour} {
				hurried, cancel := context.WithTimeout(ctx, has)
				defer cancel()
				d, err := l.Allow(hurried, "k", 1)
				require.NoError(t, err)
				require.True(t, d.Degraded)
				require.False(t, allow(t, l, "k", 1).Degraded, "others are decided by the store")
			}
			for _, what := range l.Changes() {
				require.Fail(t, what)
			}
		})
	}
}

func TestAnOutageIsFoundByHurriedCallersToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{}
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(100), Store: s})
		s.breakDown(func() error { time.Sleep(time.Minute); return nil })
		hurried := func() time.Duration {
			start := time.Now()
			hurried, cancel := context.WithTimeout(ctx, time.Millisecond)
			defer cancel()
			d, err := l.Allow(hurried, "k", 1)
			require.NoError(t, err)
			require.True(t, d.Degraded)
			return time.Since(start)
		}
		require.Equal(t, time.Millisecond, hurried())
		time.Sleep(time.Second)
		synctest.Wait()
		require.Zero(t, hurried(), "a probe has found out, and nobody waits")
		time.Sleep(10 * time.Minute)
	})
}

func TestLeavingIsNoWayAroundTheLimit(t *testing.T) {
	for name, lease := range map[string]int{"decision": 0, "lease": 5} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &fakeStore{}
				s.breakDown(func() error { time.Sleep(10 * time.Millisecond); return nil })
				l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1), Store: s, Outage: ratelimit.LetPass, Lease: lease})
				for range 10 {
					go allow(t, l, "k", 1) // in a lease, it is waited for
					synctest.Wait()
					gone, leave := context.WithCancel(ctx)
					time.AfterFunc(time.Millisecond, leave)
					d, err := l.Allow(gone, "k", 1)
					require.NoError(t, err)
					require.False(t, d.Allowed)
				}
				time.Sleep(time.Second)
			})
		})
	}
}

// An exitingStore ends the goroutine that asks it.
type exitingStore struct{ fakeStore }

func (*exitingStore) Take(context.Context, []ratelimit.Bucket, int, int) (int, []time.Duration, error) {
	runtime.Goexit()
	panic("not reached")
}

func TestAGoroutineThatExitsInTheStoreLeavesNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10), Store: &exitingStore{fakeStore{prompt: true}}, Lease: 5})
		patient, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		var exited atomic.Int32
		for range 3 {
			go func() {
				defer exited.Add(1)
				_, _ = l.Allow(patient, "k", 1)
			}()
			synctest.Wait()
		}
		require.EqualValues(t, 3, exited.Load())
	})
}
