package degrade

import (
	"math"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMemoryPressureGoesByTheLimit(t *testing.T) {
	p := MemoryPressure(0.5)
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	require.True(t, math.IsNaN(p()), "no limit, nothing to say")
	debug.SetMemoryLimit(1 << 40)
	low := p()
	require.Greater(t, low, 0.0)
	debug.SetMemoryLimit(1 << 39)
	require.InDelta(t, 2*low, p(), low, "half the limit, twice the pressure")
}

func TestASignalRefusesWhatIsNotInItsUnit(t *testing.T) {
	require.PanicsWithValue(t, "degrade: SchedulerPressure: target is 10ns, must be at least 1µs", func() { SchedulerPressure(10) })
	require.PanicsWithValue(t, "degrade: SchedulerPressure: target is 0s, must be at least 1µs", func() { SchedulerPressure(0) })
	require.PanicsWithValue(t, "degrade: MemoryPressure: share is 90, must be above 0 and at most 1", func() { MemoryPressure(90) })
	SchedulerPressure(time.Microsecond)
}

func TestSchedulerPressureIsTheTailSinceLastAsked(t *testing.T) {
	bounds := []float64{0, 0.001, 0.01, 0.1, math.Inf(1)}
	require.Zero(t, quantileSince([]uint64{5, 5, 5, 5}, []uint64{5, 5, 5, 5}, bounds, 0.99))
	require.Equal(t, 0.001, quantileSince([]uint64{5, 5, 5, 5}, []uint64{105, 5, 5, 5}, bounds, 0.99))
	require.Equal(t, 0.1, quantileSince([]uint64{5, 5, 5, 5}, []uint64{95, 5, 15, 5}, bounds, 0.99))
	require.Equal(t, 0.1, quantileSince([]uint64{0, 0, 0, 0}, []uint64{0, 0, 0, 7}, bounds, 0.99))
	p := SchedulerPressure(time.Hour)
	require.True(t, math.IsNaN(p()), "the first time there is nothing to compare with")
	require.Less(t, p(), 1.0)
}
