package breaker_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"
)

// These tests show gaps of gobreaker, on which this package stands, and that
// they are closed. Each begins with gobreaker as it is: should a new version
// close the gap, the test says so.

// halfOpen returns gobreaker and ours, both ready for a probe.
func halfOpen(cfg breaker.Config) (*gobreaker.TwoStepCircuitBreaker[int], *breaker.Breaker) {
	theirs := gobreaker.NewTwoStepCircuitBreaker[int](gobreaker.Settings{
		Timeout:     5 * time.Second,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 1 },
	})
	done, _ := theirs.Allow()
	done(errDown)
	cfg.ConsecutiveFailures = 1
	ours := breaker.MustNew(steady(cfg))
	_ = try(ours, errDown)
	time.Sleep(5*time.Second + 1)
	return theirs, ours
}

func TestGobreakerWedgesWhenAProbeIsForgottenOursDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs, ours := halfOpen(breaker.Config{})
		_, err := theirs.Allow() // and done is never called
		require.NoError(t, err)
		_, err = ours.Allow(t.Context())
		require.NoError(t, err)

		time.Sleep(24 * time.Hour)
		_, err = theirs.Allow()
		require.ErrorIs(t, err, gobreaker.ErrTooManyRequests, "a day later")

		require.ErrorIs(t, try(ours, nil), breaker.ErrOpen, "the probe is written off as failed")
		require.Equal(t, "a probe had no answer within 10s", ours.Stats().Why)
		time.Sleep(10 * time.Second)
		times(ours, 3, nil)
		require.Equal(t, breaker.Closed, ours.State())
	})
}

func TestGobreakerWedgesWhenAProbeCallsGoexitOursDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ours := halfOpen(breaker.Config{})
		theirs := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{
			Timeout:     time.Second,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 1 },
		})
		_, _ = theirs.Execute(func() (int, error) { return 0, errDown })
		time.Sleep(2 * time.Second)

		var wg sync.WaitGroup
		wg.Go(func() { _, _ = theirs.Execute(func() (int, error) { runtime.Goexit(); return 0, nil }) })
		wg.Go(func() {
			_, _ = breaker.Do(context.Background(), ours, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
		})
		wg.Wait()
		require.Equal(t, breaker.Open, ours.State(), "Goexit fails the probe at once")

		time.Sleep(24 * time.Hour)
		_, err := theirs.Execute(func() (int, error) { return 1, nil })
		require.ErrorIs(t, err, gobreaker.ErrTooManyRequests)
		require.NoError(t, try(ours, nil))
	})
}

func TestGobreakerWedgesWhileAProbeHangsOursDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs, ours := halfOpen(breaker.Config{ProbeLease: 3 * time.Second})
		hang := make(chan struct{})
		go func() {
			done, _ := theirs.Allow()
			<-hang
			done(nil)
		}()
		go breaker.Do(t.Context(), ours, func(context.Context) (int, error) { <-hang; return 1, nil })
		synctest.Wait()

		time.Sleep(3*time.Second - 1)
		require.ErrorIs(t, try(ours, nil), breaker.ErrOpen)
		require.Equal(t, breaker.HalfOpen, ours.State(), "one nanosecond before the lease ends")
		time.Sleep(time.Nanosecond)
		require.ErrorIs(t, try(ours, nil), breaker.ErrOpen)
		require.Equal(t, breaker.Open, ours.State())
		time.Sleep(10 * time.Second)
		times(ours, 3, nil)
		require.Equal(t, breaker.Closed, ours.State())

		_, err := theirs.Allow()
		require.ErrorIs(t, err, gobreaker.ErrTooManyRequests)

		close(hang)
		synctest.Wait()
		require.Equal(t, breaker.Closed, ours.State(), "an answer after the lease changes nothing")
	})
}

func TestGobreakerDeadlocksWhenTheCallbackAsksForCountsOursDoesNot(t *testing.T) {
	var theirs *gobreaker.CircuitBreaker[int]
	asked := make(chan struct{})
	theirs = gobreaker.NewCircuitBreaker[int](gobreaker.Settings{
		ReadyToTrip: func(gobreaker.Counts) bool { return true },
		OnStateChange: func(string, gobreaker.State, gobreaker.State) {
			go func() { theirs.Counts(); close(asked) }()
			select {
			case <-asked:
				t.Error("gobreaker no longer holds its lock")
			case <-time.After(20 * time.Millisecond): // it waits for the lock that we hold
			}
		},
	})
	_, _ = theirs.Execute(func() (int, error) { return 0, errDown })
	<-asked

	var ours *breaker.Breaker
	var states []breaker.State
	ours = breaker.MustNew(breaker.Config{ConsecutiveFailures: 1, OnChange: func(c breaker.Change) {
		states = append(states, ours.State())
		_ = ours.Stats()
		if c.To == breaker.Open {
			_ = try(ours, nil)
			ours.Reset()
		}
	}})
	_ = try(ours, errDown)
	require.Equal(t, []breaker.State{breaker.Open, breaker.Closed}, states)
}

func TestGobreakerDilutesTheRatioWithCallsInFlightOursDoesNot(t *testing.T) {
	// Every call fails, after five seconds; a hundred begin each second.
	hang := func() (int, error) { time.Sleep(5 * time.Second); return 0, errDown }
	tripsAfter := func(t *testing.T, guard func() (call func() error)) (began int) {
		synctest.Test(t, func(t *testing.T) {
			call := guard()
			var over atomic.Bool
			for ; !over.Load() && began < 5000; began++ {
				go func() {
					if err := call(); !errors.Is(err, errDown) {
						over.Store(true)
					}
				}()
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(time.Minute)
		})
		return began
	}
	theirs := tripsAfter(t, func() func() error {
		cb := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{
			Interval: 10 * time.Second, BucketPeriod: time.Second,
			ReadyToTrip: func(c gobreaker.Counts) bool { // as its README has it
				return c.Requests >= 20 && float64(c.TotalFailures)/float64(c.Requests) >= 0.5
			},
		})
		return func() error { _, err := cb.Execute(hang); return err }
	})
	ours := tripsAfter(t, func() func() error {
		b := breaker.MustNew(breaker.Config{})
		return func() error {
			_, err := breaker.Do(context.Background(), b, func(context.Context) (int, error) { return hang() })
			return err
		}
	})
	require.Greater(t, theirs, 900)
	require.Less(t, ours, 530, "20 failures after 5 seconds")
}

func TestGobreakerForgetsCallsLongerThanItsWindowOursDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: time.Second})
		ours := breaker.MustNew(breaker.Config{SlowCall: -1, MinCalls: 5})
		hang := func() (int, error) { time.Sleep(15 * time.Second); return 0, errDown }
		for range 100 {
			go func() { _, _ = theirs.Execute(hang) }()
			go func() {
				_, _ = breaker.Do(context.Background(), ours, func(context.Context) (int, error) { return hang() })
			}()
			time.Sleep(time.Second)
		}
		require.Equal(t, gobreaker.StateClosed, theirs.State(), "85 failures, none seen")
		require.Zero(t, theirs.Counts().TotalFailures)
		time.Sleep(time.Minute)

		require.NotZero(t, ours.Stats().Opened)
	})
}

func TestGobreakerHasNoSlowCallsOursHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{})
		ours := breaker.MustNew(breaker.Config{SlowCall: 5 * time.Second})
		slow := func() (int, error) { time.Sleep(6 * time.Second); return 1, nil }
		for range 100 {
			go func() { _, _ = theirs.Execute(slow) }()
			go func() {
				_, _ = breaker.Do(context.Background(), ours, func(context.Context) (int, error) { return slow() })
			}()
		}
		time.Sleep(time.Minute)
		require.Equal(t, gobreaker.StateClosed, theirs.State())
		require.Equal(t, breaker.Open, ours.State())
	})
}

func TestGobreakerOpensWhenCallersHangUpOursDoesNot(t *testing.T) {
	theirs := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{})
	ours := breaker.MustNew(breaker.Config{ConsecutiveFailures: 6})
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		hangUp := func() (int, error) { cancel(); return 0, ctx.Err() }
		_, _ = theirs.Execute(hangUp)
		_, _ = breaker.Do(ctx, ours, func(context.Context) (int, error) { return hangUp() })
	}
	require.Equal(t, gobreaker.StateOpen, theirs.State())
	require.Equal(t, breaker.Closed, ours.State())
	require.EqualValues(t, 100, ours.Stats().Ignored)
}

func TestGobreakerCannotProbeOneAtATimeAndNeedFiveOursCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs := gobreaker.NewTwoStepCircuitBreaker[int](gobreaker.Settings{
			Timeout: time.Second, MaxRequests: 5,
			ReadyToTrip: func(gobreaker.Counts) bool { return true },
		})
		done, _ := theirs.Allow()
		done(errDown)
		ours := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Second, Probes: 5, ProbesAtOnce: 1}))
		_ = try(ours, errDown)
		time.Sleep(time.Second + 1)

		both := 0
		for range 5 {
			if _, err := theirs.Allow(); err == nil {
				both++
			}
		}
		require.Equal(t, 5, both, "five at once")
		for range 5 {
			require.NotEqual(t, breaker.Closed, ours.State())
			done, err := ours.Allow(t.Context())
			require.NoError(t, err)
			require.ErrorIs(t, try(ours, nil), breaker.ErrOpen, "one at a time")
			done(nil)
		}
		require.Equal(t, breaker.Closed, ours.State())
	})
}

func TestGobreakerTakesA500ForASuccessOursDoesNot(t *testing.T) {
	down := answer(500, http.NoBody)
	theirs := gobreaker.NewCircuitBreaker[*http.Response](gobreaker.Settings{})
	ours := breaker.MustNew(breaker.Config{ConsecutiveFailures: 6})
	rt := ours.Transport(down)
	for range 100 {
		_, _ = theirs.Execute(func() (*http.Response, error) { return down(get("http://a/")) }) // as its README has it
		_, _ = rt.RoundTrip(get("http://a/"))
	}
	require.Equal(t, gobreaker.StateClosed, theirs.State())
	require.Equal(t, breaker.Open, ours.State())
}

func TestGobreakerJudgesUnderItsLockOursDoesNot(t *testing.T) {
	var theirs *gobreaker.CircuitBreaker[int]
	asked := make(chan struct{})
	theirs = gobreaker.NewCircuitBreaker[int](gobreaker.Settings{IsSuccessful: func(error) bool {
		go func() { theirs.Counts(); close(asked) }()
		select {
		case <-asked:
			t.Error("gobreaker no longer holds its lock")
		case <-time.After(20 * time.Millisecond): // it waits for the lock that we hold
		}
		return true
	}})
	_, _ = theirs.Execute(func() (int, error) { return 1, nil })
	<-asked

	synctest.Test(t, func(t *testing.T) {
		ours := breaker.MustNew(breaker.Config{Judge: func(breaker.Outcome) breaker.Verdict {
			time.Sleep(50 * time.Millisecond)
			return breaker.Success
		}})
		start := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { _ = try(ours, nil) })
		}
		wg.Wait()
		require.Equal(t, 50*time.Millisecond, time.Since(start), "all at once")
	})
}

// sharedData is a store for gobreaker's distributed breaker, fast and free.
type sharedData struct {
	lock chan struct{}
	mu   sync.Mutex
	data []byte
}

func (s *sharedData) Lock(string) error {
	select {
	case s.lock <- struct{}{}:
		return nil
	default:
		return errors.New("locked")
	}
}
func (s *sharedData) Unlock(string) error { <-s.lock; return nil }
func (s *sharedData) GetData(string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data, nil
}
func (s *sharedData) SetData(_ string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = data
	return nil
}

func TestGobreakersDistributedBreakerLocksTheFleetDuringACallOursDoesNot(t *testing.T) {
	// twenty calls at once, of 100 ms each
	twenty := func(t *testing.T, call func() error) (served int, took time.Duration) {
		start := time.Now()
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if call() == nil {
					mu.Lock()
					served++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		return served, time.Since(start)
	}
	work := func() (int, error) { time.Sleep(100 * time.Millisecond); return 1, nil }
	synctest.Test(t, func(t *testing.T) {
		theirs, err := gobreaker.NewDistributedCircuitBreaker[int](&sharedData{lock: make(chan struct{}, 1)}, gobreaker.Settings{})
		require.NoError(t, err)
		served, took := twenty(t, func() error { _, err := theirs.Execute(work); return err })
		require.Less(t, served, 20)
		require.Greater(t, took, time.Second)

		ours := fleet(t, 1, &fleetStore{}, breaker.Config{})[0]
		served, took = twenty(t, func() error {
			_, err := breaker.Do(t.Context(), ours, func(context.Context) (int, error) { return work() })
			return err
		})
		require.Equal(t, 20, served)
		require.Equal(t, 100*time.Millisecond, took)
	})
}
