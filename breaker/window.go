package breaker

import (
	"math"
	"sync"
	"sync/atomic"
)

// steps is how many parts a rolling window has, gobreaker's and ours.
const steps = 10

// goodCalls counts the calls of a closed period that succeeded, over the same
// window, in the same steps, as gobreaker counts those that failed. It is one
// number that only grows, and what it was when each step began.
//
// It is beside gobreaker because a success costs a tenth here. gobreaker has to
// be told of a success only if a failure came before: see period.take.
type goodCalls struct {
	n    atomic.Uint64 // since born
	next atomic.Int64  // when the current step ends

	mu   sync.Mutex // guards what follows; taken after gobreaker's
	born int64      // when the first step began, as for gobreaker
	size int64      // of a step
	step int64      // the number of the current one
	from [steps]uint64
}

// reset makes g empty, as of now. It isn't called while calls are added.
func (g *goodCalls) reset(now, size int64) {
	g.mu.Lock()
	g.born, g.size, g.step, g.from = now, size, 0, [steps]uint64{}
	g.n.Store(0)
	g.next.Store(now + size)
	g.mu.Unlock()
}

// add counts one call that ended now.
func (g *goodCalls) add(now int64) {
	if now >= g.next.Load() {
		g.mu.Lock()
		g.rollLocked(now)
		g.mu.Unlock()
	}
	g.n.Add(1)
}

// rollLocked begins the steps up to now.
func (g *goodCalls) rollLocked(now int64) {
	step := (now - g.born) / g.size
	if step <= g.step { // another call was faster
		return
	}
	n := g.n.Load()
	for s := max(g.step, step-steps) + 1; s <= step; s++ {
		g.from[s%steps] = n
	}
	g.step = step
	g.next.Store(g.born + (step+1)*g.size)
}

// sum returns how many calls the window holds.
func (g *goodCalls) sum(now int64) uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rollLocked(now)
	oldest := g.from[(g.step+1)%steps] // of the step after the current one, ten steps ago; 0 if there was none
	return uint32(min(g.n.Load()-oldest, math.MaxUint32))
}
