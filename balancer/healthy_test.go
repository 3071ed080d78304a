package balancer_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestHealthyIsAskedAgainOnceASecondWhateverElseChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := many(20)
		var down atomic.Bool
		var asked atomic.Int64
		down.Store(true)
		b := must(t, balancer.Config{
			Backends: list,
			Probe:    balancer.Probe{Every: 500 * time.Millisecond, Check: func(context.Context, balancer.Backend) error { return nil }},
			Healthy: func(d balancer.Backend) bool {
				if d.URL != list[0].URL {
					return true
				}
				asked.Add(1)
				return !down.Load()
			},
		})
		probing(t, b)
		shares(b, 1000)
		require.Equal(t, balancer.Unhealthy, state(b, 0))
		asked.Store(0)
		for range 200 {
			time.Sleep(50 * time.Millisecond)
			shares(b, 1)
		}
		require.InDelta(t, 10, asked.Load(), 1)
		down.Store(false)
		time.Sleep(1100 * time.Millisecond)
		shares(b, 1)
		require.Equal(t, balancer.Warming, state(b, 0))
	})
}
