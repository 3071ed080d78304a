package ratelimit

import (
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"
)

// counters are always on. Those that every request adds to are kept in
// stripes, so that cores do not fight over one cache line.
type counters struct {
	stripes        [16]stripe
	errors, panics atomic.Uint64
}

type stripe struct {
	allowed, refused, dry, failedOpen, failedClosed atomic.Uint64
	_                                               [24]byte
}

// mine returns a stripe that goroutines running at the same time seldom share:
// the address of a local variable tells their stacks apart.
func (c *counters) mine() *stripe {
	var here byte
	h := uint64(uintptr(unsafe.Pointer(&here))>>10) * 0x9e3779b97f4a7c15
	return &c.stripes[h>>60]
}

// bounds of the wait histogram's buckets, in seconds.
var bounds = [...]float64{0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30}

// A histogram counts how long requests waited.
type histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64
	nanos   atomic.Int64
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(bounds) && d.Seconds() > bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.nanos.Add(int64(d))
}

func (h *histogram) collect(emit func(name, help, kind string, value float64, labels ...string), policy string) {
	const name, help = "spillway_ratelimit_wait_seconds", "How long requests waited for their turn."
	var count uint64
	for i := range h.buckets {
		le := "+Inf"
		if i < len(bounds) {
			le = strconv.FormatFloat(bounds[i], 'g', -1, 64)
		}
		count += h.buckets[i].Load()
		emit(name+"_bucket", help, "histogram", float64(count), "policy", policy, "le", le)
	}
	emit(name+"_sum", help, "histogram", time.Duration(h.nanos.Load()).Seconds(), "policy", policy)
	emit(name+"_count", help, "histogram", float64(count), "policy", policy)
}
