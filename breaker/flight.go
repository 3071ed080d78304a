package breaker

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// A flight counts the calls in flight by when they began, so that those past
// the slow mark can be counted without a list of calls or a timer.
//
// A slot holds the number of an epoch (1<<shift nanoseconds, at most an eighth
// of the mark) above the count of the calls that began in it and haven't ended.
// Each first call of an epoch sweeps the slots that are past the mark as a
// whole: what they still hold is late, and is remembered as such in the
// slowWindow. A call whose slot has been swept knows by the epoch's number. So
// a call that never ends is late once, for one Window, and then forgotten.
//
// A mark is less than 16 epochs long: with those it reaches into and the current
// one that is at most 18 slots in use.
type flight [20]atomic.Uint64

// A million calls in flight per epoch, and epochs for 30 years of the shortest
// mark there is.
const (
	countBits = 20
	countMask = 1<<countBits - 1
)

// flightShift returns the length of an epoch, as a power of two, for a mark.
func flightShift(mark time.Duration) uint {
	if mark <= 0 {
		return 0
	}
	return uint(bits.Len64(uint64(mark/8))) - 1
}

// begin counts a call that begins in the given epoch. It returns false if it is
// the first of its epoch: then the slots must be swept first.
func (f *flight) begin(epoch uint64) bool {
	slot := &f[epoch%uint64(len(f))]
	for {
		v := slot.Load()
		if v>>countBits != epoch {
			return false
		}
		if slot.CompareAndSwap(v, v+1) {
			return true
		}
	}
}

// end uncounts a call. It returns false if the call's slot has been swept, so
// that the call was counted as late.
func (f *flight) end(epoch uint64) bool {
	slot := &f[epoch%uint64(len(f))]
	for {
		v := slot.Load()
		if v>>countBits != epoch {
			return false
		}
		if slot.CompareAndSwap(v, v-1) {
			return true
		}
	}
}

// sweep empties the slots whose calls all began before the given time, makes
// the slot of the current epoch ready, and returns how many calls it found.
// The caller holds the lock that keeps sweeps apart.
func (f *flight) sweep(before int64, epoch uint64, shift uint) (late uint32) {
	for i := range f {
		slot := &f[i]
		v := slot.Load()
		if v == 0 || int64(v>>countBits)<<shift > before { // epoch n-1 ends at (n-1+1)<<shift
			continue
		}
		late += uint32(slot.Swap(0) & countMask)
	}
	slot := &f[epoch%uint64(len(f))]
	if slot.Load()>>countBits < epoch {
		late += uint32(slot.Swap(epoch<<countBits) & countMask)
	}
	return late
}

// A slowWindow counts slow calls over a rolling window, in ten steps like
// gobreaker's. It is made when the first slow call is seen, so that a circuit
// that has none pays nothing for it.
type slowWindow struct {
	step    int64
	buckets [10]slowBucket
}

type slowBucket struct {
	step int64
	slow uint32 // ended, and took longer than the mark
	late uint32 // in flight past the mark
}

func (w *slowWindow) bucket(now int64) *slowBucket {
	step := now / w.step
	b := &w.buckets[step%int64(len(w.buckets))]
	if b.step != step {
		*b = slowBucket{step: step}
	}
	return b
}

// landed takes back one late call, which has ended.
func (w *slowWindow) landed(now int64) {
	oldest := now/w.step - int64(len(w.buckets)) + 1
	for step := oldest; step <= now/w.step; step++ {
		b := &w.buckets[max(step, 0)%int64(len(w.buckets))]
		if b.step == step && b.late > 0 {
			b.late--
			return
		}
	}
}

func (w *slowWindow) sums(now int64) (slow, late uint32) {
	for _, b := range w.buckets {
		if now/w.step-b.step < int64(len(w.buckets)) {
			slow += b.slow
			late += b.late
		}
	}
	return slow, late
}

// slowCalls is a period's account of slow calls.
type slowCalls struct {
	flight flight
	mu     sync.Mutex // guards window, and keeps sweeps apart
	window *slowWindow
}

// epoch returns the number of the epoch of a time. The first is 1: a slot that
// says 0 has been swept.
func (p *period) epoch(now int64) uint64 { return uint64(now>>p.shift) + 1 }

// landed takes back a call that was late, and has ended.
func (p *period) landed(now int64) {
	p.slow.mu.Lock()
	p.slow.windowLocked(p.fam).landed(now)
	p.slow.mu.Unlock()
}

func (s *slowCalls) windowLocked(f *family) *slowWindow {
	if s.window == nil {
		s.window = &slowWindow{step: int64(f.cfg.Window) / int64(len(s.window.buckets))}
	}
	return s.window
}
