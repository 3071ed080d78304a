package degrade

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// The state that every request touches is one word, so that taking and giving
// back a slot is one atomic operation each:
//
//	bits 0-23   slots taken
//	bit  24     somebody waits (or a slot was refused: look under the mutex)
//	bits 25-63  requests completed, modulo 2^39
//
// Invariants: the waiting bit is set and cleared under mu only; while it is set
// nobody takes a slot without mu; it is set only when all slots are taken, and
// cleared when the queue is empty. So whoever gives a slot back either comes
// before the bit was set, and the one about to wait sees the free slot, or sees
// the bit and hands the slot over. No wake-up is lost.
const (
	takenMask  = 1<<24 - 1
	waitingBit = 1 << 24
	doneOne    = 1 << 25
	doneShift  = 25
)

// maxSlots is the highest limit, well below what the word can count.
const maxSlots = 1 << 20

// core decides who runs, who waits and who is refused. Time comes in as
// nanoseconds since some start, so that the simulation in the tests drives
// this very code.
type core struct {
	word  atomic.Uint64
	limit atomic.Int64 // slots; changed under mu
	due   atomic.Int64 // when the next step of the control is due
	mask  atomic.Uint64
	low   sample // latencies of requests that found the backend at ease
	all   sample // latencies of all requests that did not pass through handOver

	maxWait  int64 // bound on waiting; 0 automatic, negative no queue
	maxQueue int

	mu   sync.Mutex // protects what follows
	q    queue
	ctl  control
	load load
}

// sample sums up latencies. It is drained by the control.
type sample struct{ n, sum, squares atomic.Uint64 }

// add records a latency. Squares are of microseconds, in which a batch of the
// longest latencies does not overflow.
func (s *sample) add(ns int64) {
	us := min(uint64(ns)/1000, 1<<26)
	s.n.Add(1)
	s.sum.Add(uint64(ns))
	s.squares.Add(us * us)
}

func (s *sample) drain() (n, mean, square float64) {
	n = float64(s.n.Swap(0))
	sum, sq := float64(s.sum.Swap(0)), float64(s.squares.Swap(0))
	if n == 0 {
		return 0, 0, 0
	}
	return n, sum / n, sq * 1e6 / n
}

// load is what the last moments looked like, in moving averages.
type load struct {
	latency  float64 // of a request once it runs, ns
	shed     rate    // refused
	easy     rate    // let in without waiting
	came     uint64  // let in until slots were free last
	gone     rate    // hung up, waiting or running
	patience float64 // how long clients wait before they hang up, ns; 0 unknown
	busy     float64 // slots taken, averaged over about a second
	at       int64   // of the last step
	done     uint64  // completed by then
}

// rate is an exponentially weighted rate per nanosecond.
type rate struct {
	per float64
	at  int64
}

const rateTau = 1e9

func (r *rate) add(now int64, n float64) {
	r.per = r.value(now) + n/rateTau
	r.at = now
}

func (r *rate) value(now int64) float64 {
	return r.per * math.Exp(-float64(max(now-r.at, 0))/rateTau)
}

// admitted is how many were ever let in.
func admitted(word uint64) uint64 { return word>>doneShift + word&takenMask }

// take takes a slot if one is free and nobody waits. It returns how many are
// taken then, or 0.
func (c *core) take() int {
	for {
		w := c.word.Load()
		if w&waitingBit != 0 || int64(w&takenMask) >= c.limit.Load() {
			return 0
		}
		if c.word.CompareAndSwap(w, w+1) {
			return int(w&takenMask) + 1
		}
	}
}

// wait is called when take failed. It takes a slot after all (granted), puts w
// in the queue (pending) or refuses.
func (c *core) wait(now int64, w *waiter) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep(now)
	for {
		word := c.word.Load()
		if int64(word&takenMask) < c.limit.Load() && c.q.n == 0 {
			if c.word.CompareAndSwap(word, word+1) {
				return granted
			}
			continue
		}
		if word&waitingBit != 0 {
			break
		}
		if c.word.CompareAndSwap(word, word|waitingBit) {
			c.ctl.spell(now, word>>doneShift)
			c.load.easy.add(now, float64(admitted(word)-c.load.came))
			break
		}
	}
	v := c.room(now, w)
	if v == pending {
		w.since = now
		c.q.push(w)
	} else {
		c.lost(now, c.q.class(w.prio))
		if c.q.n == 0 {
			// The bit stays: all slots are taken, and the next completion
			// clears it. Until then it lets the control see a full backend.
			return v
		}
	}
	return v
}

// room decides whether w may wait. The bound is on the time until its turn,
// predicted from those ahead of it and the rate at which slots come free:
// generous for a burst, tight in standing overload, so that who can't be served
// learns it at the door. That is CoDel's distinction (RFC 8289): a queue that
// works off a burst is good, one that stands is only delay.
func (c *core) room(now int64, w *waiter) verdict {
	if c.maxWait < 0 {
		return refused
	}
	if c.q.n >= c.maxQueue {
		victim := c.q.least(w.prio)
		if victim == nil {
			return refused
		}
		c.drop(victim, evicted)
	}
	cl := c.q.class(w.prio)
	latency, gap := c.unit(), c.gap(now)
	ahead := float64(c.q.ahead(w.prio))
	higher := 0.0
	for _, o := range c.q.classes {
		if o.prio <= w.prio {
			break
		}
		higher += o.share
	}
	est := ahead * gap / max(1-higher, 0.02)
	bound := burstWait * latency
	if shed := c.shed(now, cl); shed > 0 {
		bound = min(bound, (tightWait+slackWait/shed)*latency)
	}
	if c.maxWait > 0 {
		bound = min(bound, float64(c.maxWait))
	}
	last := 1.5 * bound
	if p := c.load.patience; p > 0 && c.load.gone.value(now)*gap > 0.01 {
		// Clients give up after about p: who would wait too long to be served by
		// then only takes the place of others.
		last = max(min(last, p-leaveTime*latency), tightWait*latency)
	}
	if w.deadline != 0 {
		// What can't be finished is not begun: leave time for it to run.
		last = min(last, float64(w.deadline-now)-latency)
		if last <= 0 {
			return tooLate
		}
	}
	bound = min(bound, last)
	w.expires = now + int64(last)
	if est <= bound || c.q.n < minQueue {
		return pending
	}
	// Full. A tenant with fewer waiting than another takes the other's place.
	if f := cl.flows[w.flow]; cl.n > 0 {
		mine, most := 0, cl.longest()
		if f != nil {
			mine = f.n
		}
		if most.n > mine+1 {
			c.drop(most.tail, evicted)
			return pending
		}
	}
	return refused
}

// lost notes that one of cl was refused.
func (c *core) lost(now int64, cl *class) {
	c.load.shed.add(now, 1)
	cl.out.add(now, 1)
}

// shed is the share of a class that was refused lately. Those who were let in
// without waiting count as let in, whatever their class: while that happens, there is room.
func (c *core) shed(now int64, cl *class) float64 {
	out := cl.out.value(now)
	if out <= 1e-12 {
		return 0
	}
	return out / (out + cl.in.value(now) + c.load.easy.value(now))
}

// drop takes w out of the queue without a slot.
func (c *core) drop(w *waiter, why verdict) {
	c.q.remove(w)
	w.verdict = why
	w.signal()
}

// sweep drops those at the head of their lists who waited too long. Each also has
// a timer of its own; sweeping keeps them from taking room until it fires.
func (c *core) sweep(now int64) {
	if c.q.n == 0 {
		return
	}
	for _, cl := range c.q.classes {
		if cl.n == 0 {
			continue
		}
		for _, f := range cl.flows {
			for f != nil && f.head != nil && f.head.expires < now {
				c.lost(now, cl)
				c.drop(f.head, expired)
			}
		}
	}
}

// leave gives a slot back. latency is how long it was held, n how many were
// taken when it was taken; a negative latency is not looked at.
func (c *core) leave(now, latency int64, n int) {
	word := c.word.Add(doneOne - 1)
	if word&waitingBit != 0 {
		c.handOver(now, latency, word)
		return
	}
	if latency >= 0 && (word>>doneShift)&c.mask.Load() == 0 {
		c.all.add(latency)
		if float64(n) <= atEase*float64(c.limit.Load()) {
			c.low.add(latency)
		}
	}
	if now >= c.due.Load() && c.mu.TryLock() {
		c.step(now)
		c.mu.Unlock()
	}
}

// handOver gives free slots to those who wait.
func (c *core) handOver(now, latency int64, word uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if latency >= 0 {
		c.observe(latency)
	}
	c.sweep(now)
	c.ctl.completed(now, int(word&takenMask)+1, int(c.limit.Load()))
	c.grant(now)
	if now >= c.due.Load() {
		c.step(now)
	}
}

// grant hands out free slots, and opens the fast path when nobody waits.
func (c *core) grant(now int64) {
	for c.q.n > 0 && int64(c.word.Load()&takenMask) < c.limit.Load() {
		cl, w := c.q.pop(func(cl *class) bool { return c.shed(now, cl) > newestAbove })
		if w.expires < now {
			c.lost(now, cl)
			w.verdict = expired
			w.signal()
			continue
		}
		for _, o := range c.q.classes {
			o.share *= 1 - shareWeight
		}
		cl.share += shareWeight
		cl.in.add(now, 1)
		c.word.Add(1)
		w.verdict = granted
		w.signal()
	}
	if c.q.n == 0 && int64(c.word.Load()&takenMask) < c.limit.Load() && c.word.Load()&waitingBit != 0 {
		c.load.came = admitted(c.word.And(^uint64(waitingBit)))
		c.ctl.rest(now)
	}
}

// cancel takes w out of the queue if it still waits, and returns the verdict.
func (c *core) cancel(now int64, w *waiter, why verdict) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.queued {
		c.q.remove(w)
		w.verdict = why
		if why == abandoned {
			c.hungUp(now, now-w.since)
		}
		if why == expired {
			c.lost(now, c.q.class(w.prio))
		}
		c.grant(now)
	}
	return w.verdict
}

// hungUp notes that a client has given up after age. Its patience is learned as
// a low quantile, so that those who close a window at once do not set it.
func (c *core) hungUp(now, age int64) {
	l := &c.load
	l.gone.add(now, 1)
	d := float64(age) - l.patience
	switch {
	case l.patience == 0:
		l.patience = float64(age)
	case d < 0:
		l.patience += d * 0.1
	default:
		l.patience += d * 0.05
	}
}

// observe folds one latency into the moving average of what running takes.
func (c *core) observe(latency int64) {
	if c.load.latency == 0 {
		c.load.latency = float64(latency)
		return
	}
	c.load.latency += (float64(latency) - c.load.latency) / latencyMemory
}

// latency is what running takes, at present.
func (c *core) latency() float64 {
	if c.load.latency == 0 {
		return firstLatency
	}
	return c.load.latency
}

// unit is what bounds on waiting are measured in: what running takes, but
// without the part of it that is waiting inside the backend.
func (c *core) unit() float64 {
	if c.ctl.baseN >= 20 {
		return min(c.latency(), 1.5*c.ctl.base)
	}
	return c.latency()
}

// gap is the time between two completions while all slots are taken. By
// Little's law it is what running takes over how many run.
func (c *core) gap(now int64) float64 {
	return c.latency() / float64(max(c.limit.Load(), 1))
}

// setLimit changes the number of slots. Who waits gets the new ones.
func (c *core) setLimit(now int64, n int) {
	c.limit.Store(int64(n))
	c.grant(now)
}

func (c *core) init(cfg Config) {
	c.maxQueue = cfg.MaxQueue
	if c.maxQueue == 0 {
		c.maxQueue = 10000
	}
	c.maxWait = int64(cfg.MaxWait)
	c.ctl = newControl(cfg.MinLimit, cfg.MaxLimit)
	c.limit.Store(int64(c.ctl.limit))
	if cfg.Limit > 0 {
		c.fix(0, cfg.Limit)
	}
}

// fix sets a fixed limit, or with zero goes on adapting from where it stands.
func (c *core) fix(now int64, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ctl.adaptive = n == 0
	if n > 0 {
		c.setLimit(now, c.ctl.set(now, float64(n), c.latency()))
	}
}

// look fills in where the core stands.
func (c *core) look(now int64, st *Stats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step(now)
	st.InFlight = int(c.word.Load() & takenMask)
	st.Waiting = c.q.n
	st.Limit = int(c.limit.Load())
	st.Latency = time.Duration(c.load.latency)
	st.Demand = c.load.busy + float64(c.q.n) + c.load.shed.value(now)*c.load.latency
	st.Pressure = st.Demand / float64(st.Limit)
}

// retry returns when who is refused now should come back, and how much later
// at most: when those who wait have been served, and over as long as it would
// take to serve those refused in the last second.
func (c *core) retry(now int64) (base, spread time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gap := c.gap(now)
	base = time.Duration(float64(c.q.n) * gap)
	spread = time.Duration(c.load.shed.value(now) * rateTau * gap)
	return min(base, maxRetry), min(spread, maxRetry)
}

const maxRetry = 30 * time.Second
