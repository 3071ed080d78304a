package balancer_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestHedgeTakesTheFirstAnswerAndCancelsTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(2), Policy: first{}, Hedge: balancer.Hedge{After: 50 * time.Millisecond, Share: 1}})
		var ended atomic.Int64
		l.play("b0", func(r *http.Request) (int, http.Header) {
			<-r.Context().Done()
			ended.Add(1)
			return -1, nil
		})
		l.takes("b1", 10*time.Millisecond)
		begin := time.Now()
		require.Equal(t, 200, do(b.Transport(l), http.MethodGet))
		require.Equal(t, 60*time.Millisecond, time.Since(begin))
		synctest.Wait()
		require.EqualValues(t, 1, ended.Load(), "the loser is cancelled")
		s := b.Stats()
		require.EqualValues(t, 1, s.Hedges)
		require.EqualValues(t, 1, s.Ignored, "and says nothing of its backend")
		require.Zero(t, s.InFlight)

		l.takes("b0", time.Second)
		require.Equal(t, 200, do(b.Transport(l), http.MethodPost))
		require.EqualValues(t, 1, b.Stats().Hedges, "a POST is not hedged")
	})
}

func TestHedgesHaveABudgetOfTheirOwnAndFollowTheQuantile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(2), Policy: balancer.RoundRobin(), Hedge: balancer.Hedge{Quantile: 0.9}})
		l.takes("b0", 20*time.Millisecond)
		l.takes("b1", 20*time.Millisecond)
		rt := b.Transport(l)
		send(rt, 1000, 30*time.Second)
		before := b.Stats().Hedges
		send(rt, 1000, 30*time.Second)
		require.Equal(t, before, b.Stats().Hedges, "nothing takes longer than usual")

		l.takes("b1", 10*time.Second)
		begin := time.Now()
		require.Equal(t, 2, send(rt, 2, 2*time.Millisecond))
		require.Less(t, time.Since(begin), 100*time.Millisecond)
		require.Contains(t, []uint64{before + 1, before + 2}, b.Stats().Hedges)

		l.takes("b0", 300*time.Millisecond)
		l.takes("b1", 300*time.Millisecond)
		before = b.Stats().Hedges
		send(rt, 400, 400*time.Second)
		require.LessOrEqual(t, b.Stats().Hedges-before, uint64(400*0.05+1*400+30))
	})
}

func TestHedgesAreAllowedTheirShareOfTheRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{
			Backends: l.hosts(4), Hedge: balancer.Hedge{After: time.Millisecond, Share: 0.1},
			Retry: balancer.Retry{Budget: balancer.NewBudget(1, 0)},
		})
		for i := range 4 {
			l.takes(fmt.Sprint("b", i), 5*time.Millisecond) // each would be hedged
		}
		const n, seconds = 6000, 100
		send(b.Transport(l), n, seconds*time.Second)
		s := b.Stats()
		require.InDelta(t, n/10+seconds, s.Hedges, 60)
		require.EqualValues(t, n, s.Hedges+s.OverBudget)
	})
}

func TestHedgedRequestsLeaveNoBodyOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open atomic.Int64
		rt := roundTripper(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Duration(20+len(r.URL.Host)) * time.Millisecond)
			open.Add(1)
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: closer{strings.NewReader("x"), &open}}, nil
		})
		b := must(t, balancer.Config{Backends: many(5), Hedge: balancer.Hedge{After: 10 * time.Millisecond, Share: 1}})
		for range 50 {
			require.Equal(t, 200, do(b.Transport(rt), http.MethodGet))
		}
		synctest.Wait()
		time.Sleep(time.Second)
		require.Zero(t, open.Load())
		require.Zero(t, b.Stats().InFlight)
		require.Positive(t, b.Stats().Hedges)
	})
}

func TestAHedgeThatWinsDoesNotWaitForTheBodyOfTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := endless{make(chan struct{})}
		rt := roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "10.0.0.0" {
				time.Sleep(20 * time.Millisecond)
				return &http.Response{StatusCode: 503, ContentLength: 4, Body: slow}, nil
			}
			time.Sleep(20 * time.Millisecond)
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		})
		b := must(t, balancer.Config{Backends: balancer.URLs("http://10.0.0.0", "http://10.0.0.1"), Policy: first{}, Hedge: balancer.Hedge{After: 10 * time.Millisecond}})
		begin := time.Now()
		require.Equal(t, 200, do(b.Transport(rt), http.MethodGet))
		require.Equal(t, 30*time.Millisecond, time.Since(begin))
		time.Sleep(time.Second)
		<-slow.closed
		require.Zero(t, b.Stats().InFlight)
	})
}
