package balancer

import (
	"math"
	"sync/atomic"
	"time"
)

// A pool is what the endpoints of one Balancer have in common.
type pool struct {
	meanBits atomic.Uint64 // of the endpoints' latencies, in nanoseconds
	renewed  atomic.Int64
	members  atomic.Pointer[[]*Endpoint]
}

// mean returns the mean latency of the pool, or 0 if none is known.
func (p *pool) mean() float64 { return math.Float64frombits(p.meanBits.Load()) }

// penalty is the latency that a failure counts as.
func (p *pool) penalty() float64 {
	return min(max(10*p.mean(), float64(minPenalty)), float64(maxPenalty))
}

// renew computes the mean again, at most every 100 ms. Latencies above the
// penalty of a failure are cut, so that failures do not make failing normal.
func (p *pool) renew(now time.Duration) {
	last := p.renewed.Load()
	if time.Duration(last)+meanEvery > now && last != 0 || !p.renewed.CompareAndSwap(last, max(int64(now), 1)) {
		return
	}
	var sum, weight float64
	for _, e := range *p.members.Load() {
		if x := math.Float64frombits(e.latency.Load()); x > 0 {
			w := e.weight()
			sum += w * min(x, float64(minPenalty))
			weight += w
		}
	}
	if weight > 0 {
		p.meanBits.Store(math.Float64bits(sum / weight))
	}
}

// A window counts answers and failures of about the last ten seconds, in
// slots of two. A race at the turn of a slot can lose a few counts.
type window struct {
	slots [windowSlots]struct {
		turn            atomic.Int64
		answers, failed atomic.Uint32
	}
}

const (
	windowSlots = 6
	windowSlot  = 2 * time.Second
)

func (w *window) add(now time.Duration, failed bool) {
	turn := int64(now/windowSlot) + windowSlots
	s := &w.slots[turn%windowSlots]
	if old := s.turn.Load(); old != turn && s.turn.CompareAndSwap(old, turn) {
		s.answers.Store(0)
		s.failed.Store(0)
	}
	s.answers.Add(1)
	if failed {
		s.failed.Add(1)
	}
}

// count returns what was added since the given number of slots ago.
func (w *window) count(now time.Duration) (answers, failed uint64) {
	turn := int64(now/windowSlot) + windowSlots
	for i := range w.slots {
		s := &w.slots[i]
		if s.turn.Load() > turn-windowSlots {
			answers += uint64(s.answers.Load())
			failed += uint64(s.failed.Load())
		}
	}
	return answers, failed
}

func (w *window) reset() {
	for i := range w.slots {
		w.slots[i].turn.Store(0)
	}
}
