package balancer_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// sequential sends requests one after the other to backends that answer within
// a latency each, which varies by about a tenth, and returns their shares.
func sequential(pause time.Duration, latencies ...time.Duration) []float64 {
	now, r := time.Unix(0, 0), rand.New(rand.NewPCG(1, 2))
	cfg := balancer.Config{SlowStart: -1, Now: func() time.Time { return now }, Rand: r.Uint64}
	for i := range latencies {
		cfg.Backends = append(cfg.Backends, balancer.Backend{ID: fmt.Sprint(i), URL: fmt.Sprintf("http://10.0.0.%d", i+1)})
	}
	b := balancer.MustNew(cfg)
	const requests = 3000
	for range requests {
		l, err := b.Acquire(nil)
		if err != nil {
			panic(err)
		}
		var i int
		fmt.Sscan(l.Endpoint().Backend().ID, &i)
		now = now.Add(time.Duration(float64(latencies[i]) * math.Exp(0.1*r.NormFloat64())))
		l.Done(balancer.Success)
		now = now.Add(pause)
	}
	shares := make([]float64, len(latencies))
	for i, s := range b.Backends() {
		shares[i] = float64(s.Success) / requests
	}
	return shares
}

func TestSequentialRequestsAreSharedByEqualBackends(t *testing.T) {
	const ms = time.Millisecond
	for _, pause := range []time.Duration{0, 10 * ms, time.Second} {
		for _, share := range sequential(pause, 2*ms, 2*ms) {
			require.InDelta(t, 0.5, share, 0.05, "%v between requests", pause)
		}
		for _, share := range sequential(pause, 2*ms, 2*ms, 2*ms, 2*ms, 2*ms) {
			require.InDelta(t, 0.2, share, 0.05, "%v between requests", pause)
		}
	}
	require.Less(t, sequential(0, 2*ms, 2*ms, 4*ms)[2], 0.01, "and go around one that takes twice as long")
}
