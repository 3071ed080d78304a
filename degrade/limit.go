package degrade

import "math"

// Constants of the control. They are ratios: times are relative to what a
// request takes, so that one set serves a cache lookup and a report.
var (
	firstLimit   = 8
	firstLatency = 1e8 // what running takes, until the first has run (100 ms)

	tightWait = 0.5 // bound on waiting in standing overload, times the latency
	burstWait = 3.0 // otherwise
	slackWait = 0.1

	baseAge    = 20e9
	poolMemory = 600.0
	growSure   = 1.5
	trySure    = 1.5
	minQueue   = 2 // so many may wait whatever the prediction says

	atEase        = 0.75 // a latency counts for the baseline below this share of the limit
	shareWeight   = 1.0 / 64
	latencyMemory = 64.0
	probe         = 1.3
	leaveTime     = 3.0

	headroom    = 1.3 // slots per slot that the backend can use
	growBelow   = 1.2 // grow when requests take less than this times the baseline
	tryAbove    = 1.4 // try fewer when they take more than this times the baseline
	baseMemory  = 1000.0
	newestAbove = 0.1
)

// control finds how many slots the backend can use.
type control struct {
	adaptive bool
	min, max int

	limit float64

	base  float64 // baseline
	baseN float64
	cv2   float64

	cvN, mean, square float64
	fresh             int64 // when the baseline was last confirmed

	full   bool
	from   int64
	settle int64
	n, t   float64

	sure         bool
	guess        bool
	proven       bool // an up-trial has shown that more slots do not help
	trial        int
	ref          float64
	refRate      float64
	refN         float64
	began        int64
	nextDown     int64
	nextUp       int64
	patience     float64
	starting     bool
	pool, joined flowRate
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
		cv2:   1, patience: 1e9, starting: true,
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
	c.n, c.t, c.joined = 0, 0, flowRate{}
	c.settle = now + int64(wait)
}

// learn takes latencies seen at ease into the baseline.
func (c *control) learn(now int64, n, mean, square float64) {
	if n == 0 {
		return
	}
	w := n / (c.baseN + n)
	c.base += (mean - c.base) * w
	c.baseN = min(c.baseN+n, baseMemory)
	c.fresh = now
	c.sure = c.sure || c.baseN >= 20
	if n > 16 {
		c.guess = false
	}
	w = n / (c.cvN + n)
	c.mean += (mean - c.mean) * w
	c.square += (square - c.square) * w
	c.cvN = min(c.cvN+n, 2*baseMemory)
	if c.cvN >= 50 {
		c.cv2 = min(max(c.square/(c.mean*c.mean)-1, 0.05), 4)
	}
}

// step is called under core.mu from time to time.
func (c *core) step(now int64) {
	ctl := &c.ctl
	n, mean, square := c.all.drain()
	if n > 0 {
		w := 1 - math.Pow(1-1.0/latencyMemory, n)
		if c.load.latency == 0 {
			w = 1
		}
		c.load.latency += (mean - c.load.latency) * w
	}
	n, mean, square = c.low.drain()
	ctl.learn(now, n, mean, square)
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
	if c.n < 8 {
		return 0
	}
	x := c.n / c.t
	l := math.Round(c.limit)
	if c.starting {
		return c.start(now, latency, l, x)
	}
	if c.trial != 0 {
		return c.judge(now, latency, l, x)
	}
	// What was seen with this limit joins what is known of the capacity, unless it
	// contradicts it: then the backend has changed.
	if c.pool.n >= 30 && c.n >= 16 {
		p := c.pool.n / c.pool.t
		if math.Abs(x-p) > 4*x*math.Sqrt(c.cv2*(1/c.n+1/c.pool.n)) {
			debugf("%8.3f changed: %v -> %v", float64(now)/1e9, p*1e9, x*1e9)
			c.pool = flowRate{}
			c.joined = flowRate{c.n / 2, c.t / 2}
		}
	}
	c.pool.n += c.n - c.joined.n
	c.pool.t += c.t - c.joined.t
	c.joined = flowRate{c.n, c.t}
	if c.pool.n > poolMemory {
		f := poolMemory / c.pool.n
		c.pool.n, c.pool.t = c.pool.n*f, c.pool.t*f
	}
	if c.n > 2*poolMemory {
		c.n, c.t = c.n/2, c.t/2
		c.joined = flowRate{c.n, c.t}
	}
	capacity := c.pool.n / c.pool.t
	sigma := math.Sqrt(c.cv2 * (1/c.pool.n + 1/c.baseN))
	r := l / (capacity * c.base)
	if r < 1-2.5*sigma && c.pool.n >= 50 {
		c.base, r = l/capacity, 1
	}
	switch {
	case c.pool.n >= 16 && r*(1+growSure*sigma) < growBelow && int(l) < c.max:
		return c.try(now, latency, l, headroom)
	case !c.sure && c.pool.n >= 60:
		return c.try(now, latency, l, 0.7)
	case c.pool.n >= 16 && r*(1-trySure*sigma) > tryAbove && now > c.nextDown && int(l) > c.min:
		return c.try(now, latency, l, max(headroom/r, 0.25))
	case c.pool.n >= 150 && now > c.nextUp && (float64(now-c.fresh) > baseAge || !c.proven) && int(l) < c.max:
		return c.try(now, latency, l, probe)
	}
	return 0
}

// start doubles the limit until that gains nothing.
func (c *control) start(now int64, latency, l, x float64) int {
	if c.n < min(max(l, 16), 100) {
		return 0
	}
	debugf("%8.3f start %v n %.0f x %.1f before %.1f base %.1f (%v)", float64(now)/1e9, l, c.n, x*1e9, c.refRate*1e9, c.base/1e6, c.baseN)
	if c.baseN >= 50 {
		// The load was light before: what a request takes at ease is known.
		sigma := math.Sqrt(c.cv2 * (1/c.n + 1/c.baseN))
		r := l / x / c.base
		if r*(1-sigma) > growBelow || c.n >= 100 {
			c.starting = false
			return 0
		}
		if r*(1+sigma) > growBelow {
			return 0
		}
	} else if c.refRate > 0 && x < 1.3*c.refRate {
		c.starting = false
		c.rebase(now, c.ref/c.refRate, 16)
		if to := x * c.base * headroom; to < 0.8*l {
			return c.set(now, to, latency)
		}
		return 0
	}
	c.ref, c.refRate, c.refN = l, x, c.n
	if int(l) >= c.max {
		return 0
	}
	return c.set(now, 2*l, latency)
}

// try begins a trial of factor times the present limit.
func (c *control) try(now int64, latency, l, factor float64) int {
	to := math.Round(l * factor)
	if factor > 1 {
		to = max(to, l+1)
	}
	to = min(max(to, float64(c.min)), float64(c.max))
	if to == l {
		return 0
	}
	c.trial = 1
	if to < l {
		c.trial = -1
	}
	c.ref, c.refRate, c.refN, c.began = l, c.pool.n/c.pool.t, c.pool.n, now
	debugf("%8.3f try %v->%v: r %.2f n %.0f base %.1fms n %.0f cv2 %.2f", float64(now)/1e9, l, to, l/c.refRate/c.base, c.pool.n, c.base/1e6, c.baseN, c.cv2)
	return c.set(now, to, latency)
}

// judge ends a trial when there is enough evidence.
func (c *control) judge(now int64, latency, l, x float64) int {
	if c.n < 16 {
		return 0
	}
	q, d := x/c.refRate, l/c.ref
	mid := (1 + d) / 2
	s := q * math.Sqrt(c.cv2*(1/c.n+1/c.refN))
	z := 2.5
	if c.n > min(max(x*5e8, 100), 400) {
		z = 0
	}
	above, below := q-z*s > mid, q+z*s < mid
	if c.trial < 0 && below && c.n < 50 {
		return 0
	}
	if !above && !below {
		return 0
	}
	up := c.trial > 0
	debugf("%8.3f judge %d: %v->%v q %.2f±%.2f mid %.2f n %.0f/%.0f above %v", float64(now)/1e9, c.trial, c.ref, l, q, s, mid, c.n, c.refN, above)
	c.trial = 0
	switch {
	case up && above: // more slots, more done: those before were all in use
		if was := c.ref / c.refRate; was > c.base*growBelow {
			c.rebase(now, was, c.refN)
		}
		c.pool, c.joined = flowRate{}, flowRate{}
		return 0
	case up: // no more done: back
		c.proven = true
		c.nextUp = now + max(20*(now-c.began), 5e9)
		if was := c.ref / c.refRate; c.guess && was < c.base {
			// The baseline had promised a gain: it was too high.
			c.base, c.baseN, c.sure = was/headroom, min(c.baseN, 50), false
			c.guess = false
		}
		return c.set(now, c.ref, latency)
	case below: // fewer slots, less done: the backend itself has become slower
		c.rebase(now, l/x, c.n)
		c.patience = min(c.patience*2, 60e9)
		c.nextDown = now + int64(c.patience)
		return c.set(now, min(c.ref, l/q*headroom), latency)
	default:
		c.patience = 1e9
		c.proven = false
		c.nextUp = max(c.nextUp, now+1e9)
		return 0
	}
}

// rebase sets the baseline to what is known to be free of queueing.
func (c *control) rebase(now int64, w, n float64) {
	c.base, c.baseN, c.sure, c.fresh, c.guess = w, n, true, now, true
}

// flowRate is n completions in a time of t.
type flowRate struct{ n, t float64 }

func (c *control) set(now int64, l, latency float64) int {
	c.limit = min(max(math.Round(l), float64(c.min)), float64(c.max))
	c.reset(now, latency)
	return int(c.limit)
}

var debugf = func(format string, args ...any) {}
