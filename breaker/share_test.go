package breaker_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

// A fleetStore is a Store in memory.
type fleetStore struct {
	mu    sync.Mutex
	list  []breaker.Opening
	err   error
	hang  bool
	panic bool
}

func (s *fleetStore) Announce(ctx context.Context, o breaker.Opening) error {
	if err := s.trouble(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, o)
	return nil
}

func (s *fleetStore) Openings(ctx context.Context, name string) ([]breaker.Opening, error) {
	if err := s.trouble(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]breaker.Opening(nil), s.list...), nil
}

func (s *fleetStore) trouble(ctx context.Context) error {
	s.mu.Lock()
	err, hang, oops := s.err, s.hang, s.panic
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if oops {
		panic("a bug in the store")
	}
	return err
}

func (s *fleetStore) set(fn func()) { s.mu.Lock(); fn(); s.mu.Unlock() }

// fleet runs n breakers over one store in a bubble.
func fleet(t *testing.T, n int, s breaker.Store, cfg breaker.Config) []*breaker.Breaker {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	cfg.Store = s
	var all []*breaker.Breaker
	for range n {
		b := breaker.MustNew(steady(cfg))
		wg.Go(func() { _ = b.Run(ctx) })
		all = append(all, b)
	}
	return all
}

func TestAFleetLearnsAnOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := fleet(t, 3, &fleetStore{}, breaker.Config{Name: "mail", ConsecutiveFailures: 1})
		_ = try(all[0], errDown)
		_ = try(all[0].For("http://a"), errDown)
		time.Sleep(time.Second)
		synctest.Wait()
		for _, b := range all {
			require.ErrorIs(t, try(b, nil), breaker.ErrOpen)
			require.ErrorIs(t, try(b.For("http://a"), nil), breaker.ErrOpen)
			require.NoError(t, try(b.For("http://b"), nil))
		}
		require.Equal(t, "a peer opened it: a call failed", all[1].Stats().Why)
		require.Equal(t, 4*time.Second, time.Until(all[1].Stats().Until), "until the peer probes")

		time.Sleep(4 * time.Second)
		times(all[1], 3, nil)
		time.Sleep(10 * time.Second)
		require.NoError(t, try(all[1], nil), "what was learned once isn't learned again")
		require.EqualValues(t, 2, all[1].Stats().Opened)
		require.Equal(t, "a peer opened it: a call failed", all[1].For("http://a").Stats().Why)
	})
}

func TestOldNewsDoesNotOpenACircuitThatHasRecovered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fleetStore{}
		all := fleet(t, 1, s, breaker.Config{Name: "mail", ConsecutiveFailures: 1, Probes: 1})
		s.set(func() {
			s.list = append(s.list, breaker.Opening{Name: "mail", By: "x", Until: time.Now().Add(time.Hour), Why: "down"})
		})
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, breaker.Open, all[0].State())
		all[0].Reset()
		time.Sleep(time.Minute)
		require.Equal(t, breaker.Closed, all[0].State())
	})
}

func TestAFleetWaitsForItsQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := fleet(t, 3, &fleetStore{}, breaker.Config{ConsecutiveFailures: 1, Quorum: 2})
		_ = try(all[0], errDown)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, breaker.Closed, all[2].State(), "one sick process is not enough")
		_ = try(all[1], errDown)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, breaker.Open, all[2].State())
	})
}

func TestADeadStoreMeansLocalDecisions(t *testing.T) {
	for name, trouble := range map[string]func(*fleetStore){
		"fails":  func(s *fleetStore) { s.err = errors.New("connection refused") },
		"hangs":  func(s *fleetStore) { s.hang = true },
		"panics": func(s *fleetStore) { s.panic = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &fleetStore{}
				trouble(s)
				all := fleet(t, 2, s, breaker.Config{Name: "mail", ConsecutiveFailures: 1, OpenFor: time.Minute})
				before := time.Now()
				_ = try(all[0], errDown)
				require.ErrorIs(t, try(all[0], nil), breaker.ErrOpen)
				require.Zero(t, time.Since(before), "no call waits for the store")
				time.Sleep(10 * time.Second)
				require.Equal(t, breaker.Closed, all[1].State())
				require.Contains(t, conditions(all[1])[0], "mail: the store fails, every process decides for itself: ")

				s.set(func() { s.err, s.hang, s.panic = nil, false, false })
				time.Sleep(2 * time.Second)
				synctest.Wait()
				require.Equal(t, breaker.Open, all[1].State(), "what couldn't be announced is announced")
				require.Len(t, conditions(all[1]), 1)
			})
		})
	}
}

func TestAStrangeStoreCannotFloodOrBlockForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fleetStore{}
		all := fleet(t, 1, s, breaker.Config{Name: "mail", MaxKeys: 100})
		s.set(func() {
			for i := range 100_000 {
				s.list = append(s.list, breaker.Opening{Name: "mail", Key: string(rune('a' + i%5000)), By: "x", Until: time.Now().Add(1000 * time.Hour)})
			}
			s.list = append(s.list, breaker.Opening{Name: "another", By: "x", Until: time.Now().Add(time.Hour)})
		})
		time.Sleep(time.Second)
		synctest.Wait()
		st := all[0].Stats()
		require.LessOrEqual(t, st.Keys, 100)
		require.LessOrEqual(t, st.Opened, uint64(1024))
		require.NoError(t, try(all[0], nil), "another breaker's openings are not ours")
		require.LessOrEqual(t, time.Until(st.Until), 5*time.Minute, "MaxRetryAfter bounds what a peer may ask, too")
	})
}

func TestADryRunAnnouncesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fleetStore{}
		all := fleet(t, 1, s, breaker.Config{ConsecutiveFailures: 1, DryRun: true})
		_ = try(all[0], errDown)
		time.Sleep(time.Minute)
		s.set(func() { require.Empty(t, s.list) })
		require.EqualValues(t, 1, all[0].Stats().Opened)
	})
}

func TestRunTwiceIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := fleet(t, 1, &fleetStore{}, breaker.Config{})
		synctest.Wait()
		require.EqualError(t, all[0].Run(t.Context()), "breaker: Run: it is running already")
	})
}

func TestRunWithoutAStoreWaitsForItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		require.NoError(t, breaker.MustNew(breaker.Config{}).Run(ctx))
		require.Error(t, ctx.Err())
	})
}
