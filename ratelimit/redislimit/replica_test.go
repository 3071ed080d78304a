package redislimit_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
	"github.com/go-spillway/spillway/ratelimit/redislimit"
)

// A server that takes no writes is out until it does, not again and again for
// as long as a probe that only reads is content with it.
func TestAServerThatHasBecomeAReplicaIsOutUntilItIsNone(t *testing.T) {
	s := startServer(t)
	admin := s.client()
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1_000_000), Store: redislimit.New("t:", s.client()), StoreTimeout: patient})
	degraded := func() bool {
		d, err := l.Allow(ctx, "k", 1)
		require.NoError(t, err)
		return d.Degraded
	}
	require.False(t, degraded())
	require.NoError(t, admin.ReplicaOf(ctx, "127.0.0.1", "1").Err())
	require.True(t, degraded())
	require.Never(t, func() bool { return !degraded() }, time.Second, 2*time.Millisecond)
	changes := 0
	for range l.Changes() {
		changes++
	}
	require.Equal(t, 1, changes)

	require.NoError(t, admin.ReplicaOf(ctx, "NO", "ONE").Err())
	require.Eventually(t, func() bool { return !degraded() }, 10*time.Second, 2*time.Millisecond)
	require.NoError(t, admin.ScriptFlush(ctx).Err())
	require.False(t, degraded(), "a script that is gone is sent again")
}

func TestABucketIsOverdrawnByTwoYearsAtMostAndForgetFillsIt(t *testing.T) {
	s := startServer(t)
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1), Store: redislimit.New("t:", s.client()), StoreTimeout: patient})
	for range 5 {
		l.Charge(ctx, "k", math.MaxInt)
	}
	ttl, err := s.client().PTTL(ctx, "t:{k}:default").Result()
	require.NoError(t, err)
	require.InDelta(t, 2*365*24*time.Hour, ttl, float64(time.Minute))
	l.Forget(ctx, "k")
	require.Equal(t, 1, l.Peek(ctx, "k").Remaining)
}
