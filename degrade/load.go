package degrade

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	rateTau            = 1e9  // of moving rates, ns
	latencyMemory      = 64   // latencies that the moving average stands for
	latenciesPerSecond = 2000 // looked at on the fast path; of more, every second, fourth, …
	longestLatency     = 30   // times the baseline; a longer one counts as this
	firstLatency       = 1e8  // what running takes, until the first has run
	maxRetry           = 30e9 // longest Retry-After without its jitter, and longest jitter, ns
	insideAbove        = 1.5  // times the baseline: what running takes beyond is waiting inside
	quickestStep       = 1e6  // between two steps of the control: half of what running takes,
	slowestStep        = 25e7 // but within these bounds, ns
	lessPatient        = 0.1  // of the difference to one who hung up sooner than is usual
	morePatient        = 0.05 // and to one who hung up later: a low quantile results
)

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
	seen     float64 // latencies that went into them
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

func (r *rate) add(now int64, n float64) {
	r.per = r.value(now) + n/rateTau
	r.at = now
}

func (r *rate) value(now int64) float64 {
	return r.per * math.Exp(-float64(max(now-r.at, 0))/rateTau)
}

// hungUp notes that a client has given up after age. Its patience is learned as
// a low quantile, so that those who close a window at once do not set it.
//
// held is how long it ran, and the backend might have needed longer still: news
// when that is longer than what running takes.
func (c *core) hungUp(now, age, held int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hungUpLocked(now, age)
	if float64(held) > c.latency() {
		c.observe(held)
	}
}

func (c *core) hungUpLocked(now, age int64) {
	l := &c.load
	l.gone.add(now, 1)
	d := float64(age) - l.patience
	switch {
	case l.patience == 0:
		l.patience = float64(age)
	case d < 0:
		l.patience += d * lessPatient
	default:
		l.patience += d * morePatient
	}
}

// observe folds one latency into the moving averages of what running takes.
func (c *core) observe(latency int64) { c.fold(1, float64(latency)) }

// fold folds n latencies into the moving averages.
func (c *core) fold(n, mean float64) {
	l := &c.load
	l.seen += n
	l.latency += (mean - l.latency) * (1 - math.Pow(1-1/min(l.seen, latencyMemory), n))
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
	if c.ctl.baseN >= toBelieve {
		return min(c.latency(), insideAbove*c.ctl.base)
	}
	return c.latency()
}

// gap is the time between two completions while all slots are taken. By
// Little's law it is what running takes over how many run.
func (c *core) gap() float64 {
	return c.latency() / float64(max(c.limit.Load(), 1))
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

// retry returns when who is refused now should come back, and how much later at
// most: when those who wait have been served, and over as long as it would take
// to serve those refused in the last second.
func (c *core) retry(now int64) (base, spread float64) {
	gap := c.gap()
	return min(float64(c.q.n)*gap, maxRetry), min(c.load.shed.value(now)*rateTau*gap, maxRetry)
}

// step is called under core.mu from time to time: it sums up and lets the
// control decide.
func (c *core) step(now int64) {
	if n, mean, _ := c.all.drain(); n > 0 {
		c.fold(n, mean)
	}
	n, mean, square := c.low.drain()
	c.ctl.learn(now, n, mean, square)
	if n > 0 {
		mean, square = c.lowLogs.drain(n)
		c.ctl.eased.add(n, mean, square, baseMemory)
	}
	if n, mean, _ := c.handoff.drain(); n > 0 {
		c.ctl.handoff += (mean - c.ctl.handoff) * n / (n + latencyMemory)
	}
	if c.ctl.baseN >= toKnow {
		c.longest.Store(int64(longestLatency * c.ctl.base))
	}
	word := c.word.Load()
	done := word >> doneShift
	if dt := now - c.load.at; dt > 0 {
		c.load.busy += (float64(word&takenMask) - c.load.busy) * (1 - math.Exp(-float64(dt)/rateTau))
		mask := uint64(0)
		for r := float64((done-c.load.done)&countMask) / float64(dt) * 1e9; r > 2*latenciesPerSecond; r /= 2 {
			mask = mask<<1 | 1
		}
		c.mask.Store(mask)
	}
	c.load.done, c.load.at = done, now
	c.due.Store(now + int64(min(max(c.latency()/2, quickestStep), slowestStep)))
	switch {
	case !c.ctl.adaptive:
	case c.dryRun:
		c.setLimit(now, c.ctl.estimate(c.load.busy, c.load.latency))
	default:
		l := c.ctl.decide(now, c.latency(), c.load.shed.value(now)+c.load.gone.value(now))
		if l > 0 {
			c.setLimit(now, l)
		}
	}
}
