package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

// Everything at once, in real time, with a hook that calls back: for -race, and
// for the sums.
func TestNothingIsLostWhenEverythingHappensAtOnce(t *testing.T) {
	var b *breaker.Breaker
	var inHook, hooks atomic.Int64
	var last sync.Map // key: the state that the hook heard of last
	b = breaker.MustNew(breaker.Config{
		MinCalls: 5, Window: 20 * time.Millisecond, SlowCall: 2 * time.Millisecond, OpenFor: time.Millisecond,
		MaxOpen: 2 * time.Millisecond, Ramp: time.Millisecond, MaxKeys: 4,
		OnChange: func(c breaker.Change) {
			if inHook.Add(1) != 1 {
				t.Error("two hooks at once")
			}
			defer inHook.Add(-1)
			hooks.Add(1)
			if from, ok := last.Swap(c.Key, c.To); ok && c.Key == "" && from != c.From {
				t.Errorf("out of order: %v after %v", c, from)
			}
			b.State()
			b.Stats()
			_ = try(b.For(c.Key), nil)
		},
	})
	var began, refused atomic.Int64
	rt := b.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
		began.Add(1)
		switch rand.IntN(4) {
		case 0:
			return nil, errDown
		case 1:
			return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"0"}}, Body: http.NoBody}, nil
		}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("x"))}, nil
	}))
	var wg sync.WaitGroup
	deadline := time.Now().Add(300 * time.Millisecond)
	for w := range 8 {
		wg.Go(func() {
			for i := 0; time.Now().Before(deadline) || i < 100; i++ {
				switch n := rand.IntN(100); {
				case n < 40:
					_, err := breaker.Do(context.Background(), b, func(context.Context) (int, error) {
						began.Add(1)
						if rand.IntN(100) == 0 {
							runtime.Gosched()
						}
						if rand.IntN(3) == 0 {
							return 0, errDown
						}
						return 1, nil
					})
					if errors.Is(err, breaker.ErrOpen) {
						refused.Add(1)
					}
				case n < 90:
					resp, err := rt.RoundTrip(get(fmt.Sprintf("http://host%d/", rand.IntN(8))))
					switch {
					case errors.Is(err, breaker.ErrOpen):
						refused.Add(1)
					case err == nil:
						_, _ = io.ReadAll(resp.Body)
						resp.Body.Close()
					}
				case n < 95:
					func() {
						defer func() { _ = recover() }()
						_, err := breaker.Do(context.Background(), b, func(context.Context) (int, error) {
							began.Add(1)
							panic("boom")
						})
						if err != nil {
							refused.Add(1)
						}
					}()
				case n == 95 && w == 0:
					b.ForceOpen(time.Microsecond, "")
				case n == 96 && w == 0:
					b.ForceClosed(time.Microsecond, "")
				case n == 97 && w == 0:
					b.Reset()
				case n == 98:
					for range b.Conditions() {
					}
					for range b.Changes() {
					}
				default:
					b.Collect(func(string, string, string, float64, ...string) {})
				}
			}
		})
	}
	wg.Wait()
	b.Reset()
	s := b.Stats()
	ours := s.Succeeded + s.Slow + s.Failed + s.Ignored
	require.GreaterOrEqual(t, int64(ours), began.Load(), "the hook's calls come on top")
	require.LessOrEqual(t, int64(ours+s.Refused), began.Load()+refused.Load()+hooks.Load())
	require.GreaterOrEqual(t, int64(ours+s.Refused), began.Load()+refused.Load())
	require.NotZero(t, hooks.Load())
	require.LessOrEqual(t, s.Keys, 4)
	require.Equal(t, breaker.Closed, b.State(), "the circuits are counted right")
}

// gobreaker is told only of the first success after a failure. However calls
// fall together, one that comes after a failure must be told.
func TestASuccessEndsTheFailuresInARowHoweverTheyFellTogether(t *testing.T) {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 3, FailureRatio: -1})
	const rounds = 5000
	var at, over atomic.Int64 // the round that is on; calls that are over
	var wg sync.WaitGroup
	for _, outcome := range []error{errDown, nil} {
		wg.Go(func() {
			for round := int64(1); round <= rounds; round++ {
				for at.Load() < round {
					runtime.Gosched()
				}
				_ = try(b, outcome)
				over.Add(1)
			}
		})
	}
	for round := int64(1); round <= rounds; round++ {
		at.Store(round) // one failure and one success, together
		for over.Load() < 2*round {
			runtime.Gosched()
		}
		_ = try(b, nil)
		times(b, 2, errDown)
		_ = try(b, nil)
	}
	wg.Wait()
	require.Zero(t, b.Stats().Opened, "there were never three in a row")
	times(b, 3, errDown)
	require.Equal(t, breaker.Open, b.State())
}

// Two successes fall together after a failure. As soon as one of them is over,
// the failures in a row have ended, although the other may still be at it.
func TestASuccessThatIsOverHasEndedTheFailuresInARow(t *testing.T) {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 3, FailureRatio: -1})
	const rounds = 10_000
	var at, over atomic.Int64 // the round that is on; calls that are over
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for round := int64(1); round <= rounds; round++ {
				for at.Load() < round {
					runtime.Gosched()
				}
				_ = try(b, nil)
				over.Add(1)
			}
		})
	}
	for round := int64(1); round <= rounds; round++ {
		_ = try(b, errDown)
		at.Store(round)
		for over.Load() < 2*round-1 {
			runtime.Gosched()
		}
		times(b, 2, errDown)
		for over.Load() < 2*round {
			runtime.Gosched()
		}
		_ = try(b, nil)
	}
	wg.Wait()
	require.Zero(t, b.Stats().Opened, "there were never three in a row")
}

// Successes are counted beside gobreaker: none of them twice, none lost.
func TestTheWindowHoldsEveryCallOfMany(t *testing.T) {
	b := breaker.MustNew(breaker.Config{Window: time.Hour})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 3000 {
				if i%100 == 0 {
					_ = try(b, errDown)
				} else {
					_ = try(b, nil)
				}
			}
		})
	}
	wg.Wait()
	s := b.Stats()
	require.Equal(t, 8*3000, s.WindowCalls)
	require.Equal(t, 8*30, s.WindowFailed)
	require.EqualValues(t, 8*2970, s.Succeeded)
}

// What Allow hands out is used again. A done that is called late, or twice, must
// not end another's call.
func TestADoneThatIsCalledAgainEndsNobodyElsesCall(t *testing.T) {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var old []func(error)
			for range 500 {
				done, err := b.Allow(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				for _, done := range old {
					done(errDown)
				}
				done(nil)
				if old = append(old, done); len(old) > 8 {
					old = old[1:]
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 8*500, b.Stats().Succeeded)
	require.Zero(t, b.Stats().Failed)
}
