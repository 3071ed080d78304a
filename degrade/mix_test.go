package degrade_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/degrade"
	"github.com/stretchr/testify/require"
)

// No backend here has a queue: any number of requests run at once, so ideally
// nobody would be refused.

// offer sends perSecond requests a second, at random times, that take as long as
// drawn, and returns what share is refused in each of the parts of equal length.
func offer(t *testing.T, perSecond float64, parts int, part time.Duration, draw func(*rand.Rand) time.Duration) []float64 {
	shares := make([]float64, parts)
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		s := degrade.MustNew(degrade.Config{})
		var running sync.WaitGroup
		defer running.Wait()
		for i := range shares {
			var offered, refused atomic.Int64
			for start := time.Now(); time.Since(start) < part; {
				takes := draw(rng)
				offered.Add(1)
				running.Go(func() {
					release, err := s.Acquire(context.Background(), degrade.Normal)
					if err != nil {
						refused.Add(1)
						return
					}
					time.Sleep(takes)
					release()
				})
				time.Sleep(time.Duration(rng.ExpFloat64() / perSecond * float64(time.Second)))
			}
			shares[i] = float64(refused.Load()) / float64(offered.Load())
		}
	})
	return shares
}

func TestAFewRequestsThatLastDoNotPassForAQueue(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		perSecond   float64
		share       float64
		long, short time.Duration
	}{
		"reports":   {1000, 0.01, 2000 * ms, ms},
		"polls":     {200, 0.01, 10_000 * ms, ms},
		"streams":   {200, 0.005, 30_000 * ms, 5 * ms},
		"downloads": {200, 0.01, 30_000 * ms, 5 * ms},
		"uploads":   {20, 0.05, 20_000 * ms, 200 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			shares := offer(t, c.perSecond, 3, time.Minute, func(r *rand.Rand) time.Duration {
				if r.Float64() < c.share {
					return c.long
				}
				return c.short
			})
			require.LessOrEqual(t, shares[0], 0.2, "while the limit is found")
			require.LessOrEqual(t, shares[1], 0.01)
			require.LessOrEqual(t, shares[2], 0.01)
		})
	}
}

// Sixty-four clients, each with one request after the other, of a backend that
// was quick and is a hundred times slower from one moment to the next.
func TestABackendThatIsSuddenlyFarSlowerIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := degrade.MustNew(degrade.Config{})
		for range 300 {
			release, err := s.Acquire(t.Context(), degrade.Normal)
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
			release()
			time.Sleep(6 * time.Millisecond)
		}
		const clients, takes, thinks = 64, 300 * time.Millisecond, 50 * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		half := time.Now().Add(time.Minute)
		var answers [2]atomic.Int64 // in the first minute, and in the second
		var running sync.WaitGroup
		for range clients {
			running.Go(func() {
				for ctx.Err() == nil {
					if release, err := s.Acquire(ctx, degrade.Normal); err == nil {
						time.Sleep(takes)
						release()
						if time.Now().Before(half) {
							answers[0].Add(1)
						} else {
							answers[1].Add(1)
						}
					}
					time.Sleep(thinks)
				}
			})
		}
		running.Wait()
		possible := clients / (takes + thinks).Seconds()
		require.GreaterOrEqual(t, float64(answers[0].Load())/60, 0.4*possible, "in the first minute")
		require.GreaterOrEqual(t, float64(answers[1].Load())/60, 0.9*possible, "in the second")
	})
}

// Where there is a queue it is seen, whatever else lasts long: eight workers
// that 99 in 100 requests need for ten milliseconds, while one waits two seconds
// for something else.
func TestAnOverloadIsSeenBesideRequestsThatLast(t *testing.T) {
	for _, load := range []float64{1, 2, 5} {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			s := degrade.MustNew(degrade.Config{})
			workers := make(chan bool, 8)
			var good atomic.Int64
			var running sync.WaitGroup
			for start := time.Now(); time.Since(start) < time.Minute; {
				long, takes := rng.Float64() < 0.01, time.Duration(rng.ExpFloat64()*10e6)
				running.Go(func() {
					came := time.Now()
					release, err := s.Acquire(context.Background(), degrade.Normal)
					if err != nil {
						return
					}
					defer release()
					if long {
						time.Sleep(2 * time.Second)
						return
					}
					workers <- true
					time.Sleep(takes)
					<-workers
					if time.Since(start) > 20*time.Second && time.Since(came) <= time.Second {
						good.Add(1)
					}
				})
				time.Sleep(time.Duration(rng.ExpFloat64() / (load * 800) * 1e9))
			}
			running.Wait()
			require.GreaterOrEqual(t, float64(good.Load())/40, 0.85*800, "answers within a second, per second, at %vx", load)
		})
	}
}
