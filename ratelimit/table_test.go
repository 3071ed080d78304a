package ratelimit_test

import (
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

func TestAMillionKeysCostAtMost24BytesEach(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("takes a second, and minutes under the race detector, which has memory of its own")
	}
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerDay(10), MaxKeys: 1 << 20})
	const n = 1_000_000
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range n {
		l.Allow(ctx, strconv.Itoa(i), 1)
		if i > 100_000 && i%100_000 == 0 {
			t.Logf("%7d keys: %.1f bytes each", i, float64(heap()-before)/float64(i))
		}
	}
	perKey := float64(heap()-before) / n
	start := time.Now()
	runtime.GC()
	t.Logf("%7d keys: %.1f bytes each, a forced GC takes %v", n, perKey, time.Since(start).Round(100*time.Microsecond))
	require.Equal(t, n, l.Stats().Keys)
	require.Zero(t, l.Stats().Overflowed)
	require.LessOrEqual(t, perKey, 24.0)
	runtime.KeepAlive(l)
}
