package degrade

import (
	"fmt"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// SchedulerPressure returns a signal for SwitchConfig.Pressure that tells when
// goroutines wait for a processor: the 99th percentile of their waits since it
// was asked last, over target, at least a microsecond; 10 ms is a start. It is
// for services that are bound by the processor, and rises within a second,
// where averages of the processor's use take ten. It panics if target is less:
// then its unit was forgotten.
func SchedulerPressure(target time.Duration) func() float64 {
	if target < time.Microsecond {
		panic(fmt.Sprintf("degrade: SchedulerPressure: target is %v, must be at least 1µs", target))
	}
	var mu sync.Mutex
	var before []uint64
	return func() float64 {
		s := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
		metrics.Read(s)
		if s[0].Value.Kind() != metrics.KindFloat64Histogram {
			return math.NaN()
		}
		h := s[0].Value.Float64Histogram()
		mu.Lock()
		defer mu.Unlock()
		last := before
		before = append([]uint64(nil), h.Counts...)
		if len(last) != len(h.Counts) {
			return math.NaN() // nothing to compare with yet
		}
		return quantileSince(last, h.Counts, h.Buckets, 0.99) / target.Seconds()
	}
}

// quantileSince is the quantile of what was added to a histogram between two
// readings, 0 if nothing was.
func quantileSince(last, now []uint64, bounds []float64, q float64) float64 {
	total := uint64(0)
	for i := range now {
		total += now[i] - last[i]
	}
	if total == 0 {
		return 0
	}
	seen := uint64(0)
	for i := range now {
		seen += now[i] - last[i]
		if float64(seen) >= q*float64(total) {
			if up := bounds[i+1]; !math.IsInf(up, 1) {
				return up
			}
			return bounds[i]
		}
	}
	return 0
}

// MemoryPressure returns a signal for SwitchConfig.Pressure: the memory that the
// Go runtime holds over share of its limit (GOMEMLIMIT); 0.9 is a start. Without
// a limit it has nothing to say. It panics if share is not above 0 and at most 1.
func MemoryPressure(share float64) func() float64 {
	if !(share > 0 && share <= 1) {
		panic(fmt.Sprintf("degrade: MemoryPressure: share is %v, must be above 0 and at most 1", share))
	}
	return func() float64 {
		limit := debug.SetMemoryLimit(-1)
		if limit == math.MaxInt64 {
			return math.NaN()
		}
		s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		metrics.Read(s)
		return float64(s[0].Value.Uint64()-s[1].Value.Uint64()) / (share * float64(limit))
	}
}
