package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Between reading the clock and deciding, a goroutine may be held up for as long
// as it pleases the scheduler, so that readings come in any order. This test
// sees the table from inside, because Limiter reads the clock by itself.
func TestReadingsOutOfOrderAdmitNoMoreThanTheBound(t *testing.T) {
	const second = int64(time.Second) * ticksPerNano
	orders := map[string]func(i, n int) int64{
		"one caller a second late": func(i, n int) int64 { return int64(i%2) * second },
		"backwards":                func(i, n int) int64 { return int64(n-i) * second / int64(n) },
		"random":                   func(i, n int) int64 { return rand.Int64N(second + 1) },
		"two that drift apart":     func(i, n int) int64 { return second/2 + int64(i)*second/int64(2*n)*int64(1-i%2*2) },
	}
	for name, at := range orders {
		for _, r := range []Rate{{Requests: 10, Per: time.Second, Burst: 10}, PerSecond(11), {Requests: 1_000_000, Per: time.Second, Burst: 7}} {
			t.Run(fmt.Sprintf("%s, %v", name, r), func(t *testing.T) {
				lim, err := newPolicy("Rate", "p", r, 1)
				require.NoError(t, err)
				m := newMemory(1, 0, 100)
				const calls = 200_000
				admitted := 0
				for i := range calls {
					a := ask{n: 1, own: 1, all: 1}
					a.limits[0], a.keys[0] = lim, "k"
					if m.takeAt(&a, second+at(i, calls)); a.allowed {
						admitted++
					}
				}
				require.LessOrEqual(t, admitted, lim.rate.Burst+r.Requests)
				require.NotZero(t, admitted)
			})
		}
	}
}
