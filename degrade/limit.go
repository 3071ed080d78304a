package degrade

import "math"

// Constants of the control. They are ratios: times are relative to what a
// request takes, so that one set serves a cache lookup and a report.
const (
	firstLimit   = 8   // where an adaptive limit starts
	firstLatency = 1e8 // what running takes, until the first has run (100 ms)

	tightWait    = 0.5 // bound on waiting in standing overload, times the latency
	burstWait    = 3.0 // otherwise
	intervalWait = 10  // how long a queue must stand to be one, times the latency
	minInterval  = 100e6
	minQueue     = 2 // so many may wait whatever the prediction says

	atEase        = 0.75 // a latency counts for the baseline below this share of the limit
	shareWeight   = 1.0 / 64
	latencyMemory = 64

	headroom    = 1.25 // slots per slot that the backend can use
	growBelow   = 1.15 // grow when requests take less than this times the baseline
	tryAbove    = 1.5  // try fewer when they take more than this times the baseline
	baseMemory  = 400
	newestFirst = true
)

// control finds how many slots the backend can use.
type control struct {
	adaptive bool
	min, max int

	limit float64

	base  float64 // baseline
	baseN float64
	cv2   float64

	full   bool
	from   int64
	settle int64
	n, t   float64

	trial    bool
	ref      float64
	refRate  float64
	refN     float64
	nextTry  int64
	patience float64
	streak   int
}

func newControl(lo, hi int) control {
	if lo == 0 {
		lo = 1
	}
	if hi == 0 {
		hi = maxSlots
	}
	return control{
		adaptive: true, min: lo, max: hi,
		limit: float64(min(max(firstLimit, lo), hi)),
		cv2:   1, patience: 1e9, streak: 1,
	}
}

// spell notes that from now on all slots are taken.
func (c *control) spell(now int64, _ uint64) {
	c.full = true
	c.from = now
}

// completed notes that one of taken requests has finished while others waited.
func (c *control) completed(now int64, taken, limit int) {
	if !c.full {
		return
	}
	if taken >= limit && c.from >= c.settle && taken <= limit+1 {
		c.n++
		c.t += float64(now - c.from)
	}
	c.from = now
}

// rest notes that slots are free again.
func (c *control) rest(int64) { c.full = false }

func (c *control) reset(now int64, wait float64) {
	c.n, c.t = 0, 0
	c.settle = now + int64(wait)
}

// learn takes latencies seen at ease into the baseline.
func (c *control) learn(n, mean, square float64) {
	if n == 0 {
		return
	}
	w := n / (c.baseN + n)
	if c.baseN == 0 {
		c.base = mean
	}
	c.base += (mean - c.base) * w
	c.baseN = min(c.baseN+n, baseMemory)
	if n > 1 && mean > 0 {
		v := max(square/(mean*mean)-1, 0.02)
		c.cv2 += (min(v, 4) - c.cv2) * min(n/(n+100), 0.5)
	}
}

// step is called under core.mu from time to time.
func (c *core) step(now int64) {
	ctl := &c.ctl
	n, mean, _ := c.all.drain()
	if n > 0 {
		w := 1 - math.Pow(1-1.0/latencyMemory, n)
		if c.load.latency == 0 {
			w = 1
		}
		c.load.latency += (mean - c.load.latency) * w
	}
	ctl.learn(c.low.drain())
	done := c.word.Load() >> doneShift
	if dt := now - c.load.at; dt > 0 {
		c.load.busy += (float64(c.word.Load()&takenMask) - c.load.busy) * (1 - math.Exp(-float64(dt)/rateTau))
		perSecond := float64(done-c.load.done) / float64(dt) * 1e9
		m := uint64(0)
		for perSecond > 4000 {
			perSecond /= 2
			m = m<<1 | 1
		}
		c.mask.Store(m)
	}
	c.load.done, c.load.at = done, now
	c.due.Store(now + int64(min(max(c.latency()/2, 1e6), 250e6)))
	if !ctl.adaptive {
		return
	}
	if l := ctl.decide(now, c.latency()); l > 0 {
		c.setLimit(now, l)
	}
}

// decide returns a new limit, or 0.
func (c *control) decide(now int64, latency float64) int {
	if c.n < 4 {
		return 0
	}
	if c.n > 4000 {
		c.n, c.t = c.n/2, c.t/2
	}
	x := c.n / c.t
	l := math.Round(c.limit)
	w := l / x
	if c.baseN == 0 {
		c.base, c.baseN = w, c.n
	}
	sigma := math.Sqrt(c.cv2 * (1/c.n + 1/c.baseN))
	r := w / c.base
	if c.trial {
		q := x / c.refRate
		d := l / c.ref
		mid := (1 + d) / 2
		s := math.Sqrt(c.cv2 * (1/c.n + 1/c.refN))
		switch {
		case q*(1+1.5*s) < mid || (c.n > 400 && q < mid):
			// Fewer did less: the backend itself has become slower.
			c.base, c.baseN = w, c.n
			c.trial = false
			c.patience = min(c.patience*2, 60e9)
			c.nextTry = now + int64(c.patience)
			return c.set(now, min(c.ref, l/q*headroom), latency)
		case q*(1-1.5*s) > mid || c.n > 400:
			c.trial = false
			c.patience = 1e9
		}
		return 0
	}
	if r < 1-sigma {
		c.base, r = w, 1
	}
	if r*(1+sigma) < growBelow {
		g := headroom
		if c.streak > 0 {
			g = 2
		}
		return c.set(now, max(l*g, l+1), latency)
	}
	if r*(1-sigma) > growBelow {
		c.streak = 0
	}
	if r*(1-1.5*sigma) > tryAbove && now > c.nextTry && int(l) > c.min {
		c.trial = true
		c.ref, c.refRate, c.refN = l, x, c.n
		return c.set(now, max(l/r*headroom, l/4), latency)
	}
	return 0
}

func (c *control) set(now int64, l, latency float64) int {
	c.limit = min(max(math.Round(l), float64(c.min)), float64(c.max))
	c.reset(now, latency)
	return int(c.limit)
}
