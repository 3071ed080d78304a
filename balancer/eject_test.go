package balancer_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestFiveFailuresInARowEjectAndOneTrialRestores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(4), Policy: balancer.RoundRobin(), SlowStart: -1})
		rt := b.Transport(l)
		l.set("b1", 503)
		require.Equal(t, 40, send(rt, 40, 400*time.Millisecond), "retries hide it")
		require.Equal(t, 5, l.count("b1"))
		require.Equal(t, balancer.Ejected, state(b, 1))
		require.Equal(t, "5 failures in a row", b.Backends()[1].Why)

		time.Sleep(6100 * time.Millisecond) // 5 s and a fifth, at most
		require.Equal(t, balancer.Probation, state(b, 1))
		require.Equal(t, 10, send(rt, 10, 100*time.Millisecond))
		require.Equal(t, 1, l.count("b1"), "one trial, and it failed")
		require.Equal(t, balancer.Ejected, state(b, 1))
		out := time.Until(b.Backends()[1].Until)
		require.InDelta(t, 10, out.Seconds(), 2.2, "twice as long")

		l.set("b1", 200)
		time.Sleep(12100 * time.Millisecond)
		require.Equal(t, 1, send(rt, 1, time.Millisecond))
		require.Equal(t, 1, l.count("b1"), "the first request is the trial")
		require.Equal(t, balancer.Ready, state(b, 1))
		require.EqualValues(t, 2, b.Backends()[1].Ejections)
	})
}

func TestTrialWaitsForARequestThatCanBeRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(3), Policy: balancer.RoundRobin()})
		rt := b.Transport(l)
		l.set("b0", 503)
		send(rt, 30, 300*time.Millisecond)
		require.Equal(t, balancer.Ejected, state(b, 0))
		time.Sleep(6100 * time.Millisecond)
		l.count("b0")
		for range 20 {
			require.Equal(t, 200, do(rt, http.MethodPost), "a POST is not risked")
		}
		require.Zero(t, l.count("b0"))
		require.Equal(t, 200, do(rt, http.MethodGet))
		require.Equal(t, 1, l.count("b0"))
	})
}

func TestRatioEjectsWhatNeverFailsFiveTimesInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(3), Policy: balancer.RoundRobin()})
		var n atomic.Int64
		l.play("b2", func(*http.Request) (int, http.Header) {
			if n.Add(1)%4 == 0 {
				return 200, nil
			}
			return 500, nil
		})
		send(b.Transport(l), 90, 3*time.Second)
		require.Equal(t, balancer.Ejected, state(b, 2))
		require.Equal(t, "16 of 21 answers failed", b.Backends()[2].Why)
	})
}

func TestGatewayErrorsCanBeCountedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for code, want := range map[int]balancer.State{502: balancer.Ejected, 500: balancer.Ready} {
			l := newLab()
			b := must(t, balancer.Config{Backends: l.hosts(3), Policy: balancer.RoundRobin(), Eject: balancer.Eject{Gateway: 2, Consecutive: 50, Ratio: -1}})
			l.set("b0", code)
			send(b.Transport(l), 18, time.Second)
			require.Equal(t, want, state(b, 0), "status %d", code)
		}
	})
}

func TestSlowOutlierIsEjectedIfAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(10), Policy: balancer.RoundRobin(), Eject: balancer.Eject{SlowerThan: 5}})
		for i := range 9 {
			l.takes(fmt.Sprint("b", i), 10*time.Millisecond)
		}
		l.takes("b9", 400*time.Millisecond)
		send(b.Transport(l), 300, 3*time.Second)
		require.Equal(t, balancer.Ejected, state(b, 9))
		require.Contains(t, b.Backends()[9].Why, "ms, the pool in ")
		require.Equal(t, 9, b.Stats().Available)
	})
}

func TestNeverMoreThanAShareIsEjected(t *testing.T) {
	for n, most := range map[int]int{1: 0, 2: 1, 3: 1, 4: 2, 10: 5} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab()
			b := must(t, balancer.Config{Backends: l.hosts(n), Policy: balancer.RoundRobin(), Retry: balancer.Retry{Max: -1}})
			rt := b.Transport(l)
			send(rt, 20*n, time.Second)
			for i := range n {
				if i > 0 || n == 1 { // one goes on well, so that the others stand out
					l.set(fmt.Sprint("b", i), 0)
				}
			}
			send(rt, 40*n, 2*time.Second)
			require.LessOrEqual(t, n-b.Stats().Available, most, "of %d", n)
			if n > 1 {
				require.NotZero(t, n-b.Stats().Available, "of %d", n)
			}
		})
	}
}

func TestWhenAllFailAlikeNobodyIsEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(6), Policy: balancer.RoundRobin(), Retry: balancer.Retry{Max: -1}})
		rt := b.Transport(l)
		for i := range 6 {
			l.set(fmt.Sprint("b", i), 503)
		}
		send(rt, 600, 6*time.Second)
		require.Equal(t, 6, b.Stats().Available)
	})
}

func TestEjectionCanBeTurnedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(3), Policy: balancer.RoundRobin(), Eject: balancer.Eject{Consecutive: -1}})
		l.set("b0", 0)
		send(b.Transport(l), 300, 30*time.Second)
		require.Equal(t, 3, b.Stats().Available)
	})
}

func TestFewAvailableMeansAllAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, share := range []float64{0, -1} {
			l := newLab()
			var down atomic.Int64
			b := must(t, balancer.Config{
				Backends: l.hosts(10), Policy: balancer.RoundRobin(), PanicShare: share, Retry: balancer.Retry{Max: -1},
				Healthy: func(d balancer.Backend) bool { return int64(d.ID[1]-'0') >= down.Load() },
			})
			rt := b.Transport(l)
			down.Store(5)
			send(rt, 100, 3*time.Second)
			require.Equal(t, 5, b.Stats().Available)
			require.False(t, b.Stats().Panic, "half is enough")
			l.count("b0")
			send(rt, 100, 3*time.Second)
			require.Zero(t, l.count("b0"))

			down.Store(6)
			send(rt, 100, 3*time.Second)
			l.count("b0")
			require.Equal(t, 100, send(rt, 100, 3*time.Second))
			if share < 0 {
				require.False(t, b.Stats().Panic)
				require.Zero(t, l.count("b0"))
			} else {
				require.True(t, b.Stats().Panic)
				require.InDelta(t, 10, l.count("b0"), 1)
			}
			down.Store(0)
			send(rt, 100, 3*time.Second)
			require.Equal(t, 10, b.Stats().Available)
			require.False(t, b.Stats().Panic)
		}
	})
}
