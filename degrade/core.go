package degrade

import (
	"sync"
	"sync/atomic"
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
	countMask  = 1<<39 - 1 // of a difference between two counts, either of which may have wrapped
)

// maxSlots is the highest limit, well below what the word can count.
const maxSlots = 1 << 20

// core decides who runs, who waits and who is refused. Time comes in as
// nanoseconds since some start, so that the simulation in the tests drives
// this very code.
type core struct {
	word    atomic.Uint64
	limit   atomic.Int64  // slots; changed under mu
	due     atomic.Int64  // when the next step of the control is due
	mask    atomic.Uint64 // of the latencies, which are looked at: fewer when there are many
	low     sample        // latencies of requests that found the backend at ease
	lowLogs logs          // the same, logarithms: see calm
	all     sample        // latencies of all requests that did not pass through handOver

	dryRun   bool
	maxWait  int64 // bound on waiting; 0 automatic, negative no queue
	maxQueue int

	// Longer latencies count as this, so that a stream does not pass for a slow
	// backend; 0 while that is not known.
	longest atomic.Int64

	handoff sample // from the grant of a slot to the moment its goroutine runs

	mu   sync.Mutex // protects what follows
	q    queue
	ctl  control
	load load
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

// force takes a slot beyond the limit, and reports whether the request would
// have been refused.
func (c *core) force(now int64) (n int, refuse bool) {
	n = int(c.word.Add(1) & takenMask)
	c.mu.Lock()
	defer c.mu.Unlock()
	over := float64(n-int(c.limit.Load())) * c.gap()
	if refuse = over > burstWait*c.unit() || c.maxWait < 0; refuse {
		c.load.shed.add(now, 1)
	}
	return n, refuse
}

// wait is called when take failed. It takes a slot after all (granted), queues a
// copy of ask (pending, and returns it) or refuses, and says when to come back.
func (c *core) wait(now int64, ask *waiter) (v verdict, w *waiter, base, spread float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep(now)
	for {
		word := c.word.Load()
		if int64(word&takenMask) < c.limit.Load() && c.q.n == 0 {
			if c.word.CompareAndSwap(word, word+1) {
				return granted, nil, 0, 0
			}
			continue
		}
		if word&waitingBit != 0 {
			break
		}
		if c.word.CompareAndSwap(word, word|waitingBit) {
			c.ctl.spell(now)
			c.load.easy.add(now, float64((admitted(word)-c.load.came)&countMask))
			break
		}
	}
	if v = c.room(now, ask); v != pending {
		// The waiting bit stays even if nobody waits: until the next completion
		// it lets the control see a full backend.
		c.lost(now, c.q.class(ask.prio))
		base, spread = c.retry(now)
		return v, nil, base, spread
	}
	w = new(waiter)
	*w = *ask
	w.since = now
	if w.signal == nil {
		w.ready = make(chan struct{}, 1)
	}
	c.q.push(w)
	return pending, w, 0, 0
}

// settle writes the verdict on w, which is out of the queue, and wakes it.
func (w *waiter) settle(v verdict) {
	w.verdict = v
	if w.signal != nil {
		w.signal()
		return
	}
	w.ready <- struct{}{}
}

// leave gives a slot back. latency is how long it was held, n how many were
// taken when it was taken; a negative latency is not looked at.
func (c *core) leave(now, latency int64, n int) {
	word := c.word.Add(doneOne - 1)
	if longest := c.longest.Load(); longest > 0 {
		latency = min(latency, longest)
	}
	look := latency >= 0 && (word>>doneShift)&c.mask.Load() == 0
	if look && float64(n) <= atEase*float64(c.limit.Load()) {
		c.low.add(latency)
		c.lowLogs.add(latency)
	}
	if word&waitingBit != 0 {
		c.handOver(now, latency, word)
		return
	}
	if look {
		c.all.add(latency)
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
	c.ctl.completed(now, latency, int(word&takenMask)+1, int(c.limit.Load()))
	c.grant(now)
	if now >= c.due.Load() || c.ctl.starting {
		c.step(now)
	}
}

// grant hands out free slots, and opens the fast path when nobody waits.
func (c *core) grant(now int64) {
	for c.q.n > 0 && int64(c.word.Load()&takenMask) < c.limit.Load() {
		cl, w := c.q.pop(func(cl *class) bool { return c.shed(now, cl) > newestAbove })
		if w.expires < now {
			c.lost(now, cl)
			w.settle(expired)
			continue
		}
		for _, o := range c.q.classes {
			o.share *= 1 - shareWeight
		}
		cl.share += shareWeight
		cl.in.add(now, 1)
		c.word.Add(1)
		w.until = now
		w.settle(granted)
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
			c.hungUpLocked(now, now-w.since)
		}
		if why == expired {
			c.lost(now, c.q.class(w.prio))
		}
		c.grant(now)
	}
	return w.verdict
}

// setLimit changes the number of slots. Who waits gets the new ones.
func (c *core) setLimit(now int64, n int) {
	c.limit.Store(int64(n))
	c.grant(now)
}

// init sets c up; it must not be copied after.
func (c *core) init(cfg Config) {
	c.maxQueue = cfg.MaxQueue
	if c.maxQueue == 0 {
		c.maxQueue = 10000
	}
	c.maxWait = int64(cfg.MaxWait)
	c.dryRun = cfg.DryRun
	c.ctl = newControl(cfg.MinLimit, cfg.MaxLimit)
	c.limit.Store(int64(c.ctl.limit))
	if cfg.Limit > 0 {
		c.fix(0, cfg.Limit)
	}
}

// fix sets a fixed limit, or with zero goes on adapting from where it stands,
// within the bounds for what is found.
func (c *core) fix(now int64, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ctl.adaptive = n == 0
	within := min(max(int(c.ctl.limit), c.ctl.min), c.ctl.max)
	switch {
	case n > 0:
		c.ctl.set(now, c.latency(), float64(n))
		c.ctl.limit = float64(n)
		c.setLimit(now, n)
	case within != int(c.ctl.limit):
		c.setLimit(now, c.ctl.set(now, c.latency(), float64(within)))
	}
}
