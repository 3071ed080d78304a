package degrade

import "math"

// What is looked for is the knee of the backend: the number of slots up to which
// more slots do more work, and beyond which requests only wait inside. By Little's
// law it is the rate of completions at capacity times the time that a request
// takes when it does not have to wait inside (the baseline).
//
// Both can be measured while serving. The rate counts while all slots are taken;
// what is seen at different limits above the knee adds up to one estimate (the
// pool). The baseline is the mean latency of requests that started while less
// than three quarters of the slots were taken. A mean over many is blind to how
// service times scatter, which a minimum, or a short window, is not.
//
// What can't be known from looking is whether latency rose because of a queue or
// because the backend became slower. So fewer slots are a trial: the rate at the
// new limit is compared with the rate before, by a sequential test whose variance
// is measured too. As much done: there was a queue. Less done: the backend is
// slower, the slots come back, and the baseline is corrected. More slots are
// given without a trial as long as requests take no longer than at ease, and are
// tried from time to time when that is not known well. A trial during which the
// backend changed says nothing. And where the slots are few, taking one away may
// refuse somebody who need not be: it is done only while nearly all are taken
// nearly all the time, which chance does not bring about far from overload.
//
// What was tried before, on the simulation of the tests: with a baseline that is
// believed without trials a limit can stay at an eighth of what 64 workers could
// use, when the first requests have taught a wrong one; trials that are judged
// by what was seen at the present limit alone, without the pool, lost up to a
// tenth of the capacity by chance, and up to half where a backend completes 16
// requests a second; and trials that are compared with the one before only, and
// not with where a series of them began, lead down step by step on a machine
// whose processors are starved.
//
// Ratios below are of latencies, of rates, or of slots: none depends on how fast
// a backend is.
const (
	firstLimit = 8    // where an adaptive limit starts; it doubles while that helps
	shortest   = 2e6  // what takes less, ns, counts as this: the scheduler makes goroutines wait as long
	fewSlots   = 10   // a limit as low as this is tried only in a standing overload
	headroom   = 1.3  // slots given per slot that the backend can use
	growBelow  = 1.2  // grow when requests take less than this times the baseline
	tryAbove   = 1.4  // try fewer when they take more than this times the baseline
	atEase     = 0.75 // a latency counts for the baseline below this share of the limit

	leastStep    = 0.8  // fewer by less than this leads to trials that chance decides
	sure         = 1.5  // standard errors by which a trial must seem worth while
	surer        = 2.5  // standard errors by which it must be decided
	baseMemory   = 1000 // latencies that the baseline is averaged over, at most
	newestMemory = 24   // completions by which a change of the backend is noticed
	poolMemory   = 600  // completions that the capacity is averaged over, at most
	baseAge      = 20e9 // a baseline older than this is checked by trying more slots
	wellKnown    = 100  // until so many latencies were seen at ease more is tried boldly and often
	minTrial     = 6    // a trial lasts for half a second, but for so many completions over the square
	maxTrial     = 400  // of its step at least, and so many at most; then the likelier answer holds
)

// control finds the limit. It is guarded by core.mu, and told the time.
type control struct {
	adaptive bool
	min, max int
	limit    float64 // whole

	// The baseline, how many latencies it stands for, and where it comes from.
	base, baseN float64
	recent      tempo   // latencies on their way into it
	quicker     int     // batches of latencies in a row that were much shorter
	fresh       int64   // when it was last confirmed
	checked     bool    // it does not come from a full backend
	guessed     bool    // it was inferred from a trial
	measured    float64 // and what it was before

	// How long a slot that is handed over stays idle, on average, because its
	// goroutine must be scheduled first: on a busy machine, milliseconds.
	handoff float64

	// The squared coefficient of variation of latencies at ease, and the means
	// that it is computed from.
	cv2                 float64
	mean, square, meanN float64

	// Completions while all slots were taken, since the limit was changed and what
	// the change stirred up has settled.
	full   bool
	from   int64 // of the completion before
	settle int64
	seen   tempo
	pooled tempo // the part of seen that is in pool
	newest tempo // the last part of seen
	pool   tempo // what is known of the capacity

	// In what share of the time all slots were taken lately, until when, and how
	// long lately is: as long as fifty requests take.
	taken   float64
	weighed int64
	memory  float64

	starting bool // the limit has only ever been doubled
	rising   bool // the last trial was of more slots, and all were of use
	proven   bool // more slots were tried, and did not help
	trial    trial
	home     float64 // where a series of trials of fewer slots began; 0 none
	homeRate float64 // and what was done there
	nextDown int64
	below    int64 // when fewer slots last did less
	nextUp   int64
	backoff  float64 // between trials of fewer slots that turn out wrong
}

// tempo is n completions in a time of t.
type tempo struct{ n, t float64 }

func (t tempo) rate() float64 { return t.n / t.t }

// fade lets t count for at most n.
func (t *tempo) fade(n float64) {
	if f := n / t.n; f < 1 {
		t.n, t.t = n, t.t*f
	}
}

// trial is a limit that is tried.
type trial struct {
	dir   int     // 1 more slots, -1 fewer, 0 none
	limit float64 // before
	tempo tempo   // before
	began int64
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
		cv2:   1, backoff: 1e9, starting: true, measured: math.Inf(1),
	}
}

// spell notes that from now on all slots are taken.
func (c *control) spell(now int64) {
	c.weigh(now)
	c.full, c.from = true, now
}

// weigh keeps the share of time in which all slots are taken.
func (c *control) weigh(now int64) {
	is := 0.0
	if c.full {
		is = 1
	}
	c.taken += (is - c.taken) * (1 - math.Exp(-float64(now-c.weighed)/max(c.memory, 25e7)))
	c.weighed = now
}

// completed notes that one of taken requests has finished while others waited.
// While the limit has just been lowered, more than the limit are taken.
func (c *control) completed(now int64, taken, limit int) {
	if !c.full {
		return
	}
	if c.from >= c.settle && taken >= limit && taken <= limit+1 {
		c.seen.n++
		c.seen.t += float64(now - c.from)
		c.newest.n++
		c.newest.t += float64(now - c.from)
	}
	c.from = now
}

// rest notes that slots are free again.
func (c *control) rest(now int64) {
	c.weigh(now)
	c.full = false
}

// forgetIfChanged begins to look anew when the last completions came at another
// rate than those before at this limit (those in the pool, when no trial is on),
// and reports whether it did.
func (c *control) forgetIfChanged() bool {
	a := c.newest
	if a.n < newestMemory {
		return false
	}
	c.newest = tempo{}
	b := tempo{c.seen.n - a.n, c.seen.t - a.t}
	if c.trial.dir == 0 {
		b = c.pool
	}
	if b.n < newestMemory || math.Abs(math.Log(a.rate()/b.rate())) < 3.5*math.Sqrt(max(c.cv2, 1)*(1/a.n+1/b.n)) {
		return false
	}
	if a.rate() > b.rate() {
		a = tempo{} // chosen for being quick, it would promise too much
	}
	c.seen, c.pooled, c.pool = a, tempo{}, tempo{}
	return true
}

// decide returns a new limit, or 0 for none. settle is how long a change takes
// to show, shed the rate of requests that are refused or hang up.
func (c *control) decide(now int64, settle, shed float64) int {
	c.memory = 50 * settle / c.limit
	c.weigh(now)
	switch {
	case c.trial.dir < 0 && c.limit < fewSlots && c.taken < 0.35:
		// The load has gone: nothing can be learned, and nobody need be refused for it.
		c.trial.dir = 0
		c.nextDown = now + 1e9
		return c.set(now, settle, c.trial.limit)
	case c.seen.n < 8:
		return 0
	case c.starting:
		return c.start(now, settle)
	case c.trial.dir != 0:
		return c.judge(now, settle)
	}
	c.forgetIfChanged()
	c.gather()
	standing := c.taken > 0.9 || c.taken > 0.5 && shed > 0.15*(shed+c.pool.rate())
	sigma := math.Sqrt(c.cv2 * (1/c.pool.n + 1/c.baseN))
	held := c.limit / c.pool.rate() // how long a slot is held at capacity
	if held < (c.base+c.handoff)*(1-surer*sigma) && c.pool.n >= 50 {
		c.base = max(held-c.handoff, held/2) // nothing is quicker than without waiting
	}
	ratio := held / max(c.base+c.handoff, shortest) // over how long it must be
	switch {
	case c.pool.n < 16:
		return 0
	case (ratio*(1+sure*sigma) < growBelow || ratio < growBelow && c.pool.n >= 200 && c.limit < firstLimit) && c.checked && !c.guessed:
		// No trial: with a baseline from requests at ease the limit can't run away.
		c.pool = tempo{}
		return c.set(now, settle, min(max(c.limit/ratio*headroom, c.limit+1), max(2*c.limit, c.home)))
	case ratio*(1+sure*sigma) < growBelow:
		factor := max(headroom, min(c.home/c.limit, 4))
		if c.rising {
			factor = max(factor, 2)
		}
		return c.try(now, settle, factor)
	case !c.checked && c.limit > firstLimit && c.pool.n >= 60 && standing && now > c.nextDown:
		return c.try(now, settle, 0.7)
	case ratio*(1-sure*sigma) > tryAbove && now > c.nextDown:
		down := min(max(headroom/(ratio*(1-sigma/3)), 0.5), leastStep)
		if c.limit*down < fewSlots && (!standing || c.pool.n < 30) {
			return 0
		}
		return c.try(now, settle, down)
	case c.pool.n >= 30 && now > c.nextUp && c.meanN < wellKnown:
		return c.try(now, settle, 2)
	case c.pool.n >= 60 && now > c.nextUp && (now-c.fresh > baseAge || !c.proven && ratio < tryAbove):
		return c.try(now, settle, headroom)
	}
	return 0
}

// gather adds what was seen at this limit to what is known of the capacity,
// unless it contradicts it: then the backend has changed.
func (c *control) gather() {
	if c.pool.n >= 30 && c.seen.n >= 16 {
		x := c.seen.rate()
		if math.Abs(x-c.pool.rate()) > 3.5*x*math.Sqrt(c.cv2*(1/c.seen.n+1/c.pool.n)) {
			c.pool, c.pooled = tempo{}, tempo{c.seen.n / 2, c.seen.t / 2}
		}
	}
	c.pool.n += c.seen.n - c.pooled.n
	c.pool.t += c.seen.t - c.pooled.t
	c.pool.fade(poolMemory)
	c.seen.fade(2 * poolMemory)
	c.pooled = c.seen
}

// set changes the limit and begins to look anew.
func (c *control) set(now int64, settle, limit float64) int {
	if !math.IsNaN(limit) {
		c.limit = min(max(math.Round(limit), float64(c.min)), float64(c.max))
	}
	c.seen, c.pooled, c.newest = tempo{}, tempo{}, tempo{}
	c.settle = now + int64(settle)
	return int(c.limit)
}
