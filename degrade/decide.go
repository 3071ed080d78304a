package degrade

import "math"

// decide returns a new limit, or 0 for none. settle is how long a change takes
// to show, shed the rate of requests that are refused or hang up.
func (c *control) decide(now int64, settle, shed float64) int {
	c.memory = takenMemory * settle / c.limit
	c.weigh(now)
	switch {
	case c.trial.dir < 0 && c.limit < fewSlots && c.taken < seldomTaken:
		// The load has gone: nothing can be learned, and nobody need be refused for it.
		c.trial.dir = 0
		c.nextDown = now + pause
		return c.set(now, settle, c.trial.limit)
	case c.seen.n < toBegin:
		return 0
	case c.starting:
		return c.start(now, settle)
	case c.trial.dir != 0:
		return c.judge(now, settle)
	}
	c.forgetIfChanged()
	c.gather()
	standing := c.taken > mostlyTaken || c.taken > oftenTaken && shed > oftenShed*(shed+c.pool.rate())
	sigma := math.Sqrt(c.cv2 * (1/c.pool.n + 1/c.baseN))
	held := c.limit / c.pool.rate() // how long a slot is held at capacity
	if held < (c.base+c.handoff)*(1-surer*sigma) && c.pool.n >= toKnow {
		c.base = max(held-c.handoff, held/2) // nothing is quicker than without waiting
	}
	ratio := held / max(c.base+c.handoff, shortest) // over how long it must be
	switch {
	case c.pool.n < toCompare:
		return 0
	case ratio > muchSlower && c.limit < mostCalm && c.calm():
		// A few requests that last hold slots, and nobody waits in the backend.
		c.pool = tempo{}
		return c.set(now, settle, min(boldly*c.limit, mostCalm))
	case (ratio*(1+sure*sigma) < growBelow || ratio < growBelow && c.pool.n >= toRely && c.limit < firstLimit) && c.checked && !c.guessed:
		// No trial: with a baseline from requests at ease the limit can't run away.
		c.pool = tempo{}
		return c.set(now, settle, min(max(c.limit/ratio*headroom, c.limit+1), max(boldly*c.limit, c.home)))
	case ratio*(1+sure*sigma) < growBelow:
		factor := max(headroom, min(c.home/c.limit, homeward))
		if c.rising {
			factor = max(factor, boldly)
		}
		return c.try(now, settle, factor)
	case !c.checked && c.limit > firstLimit && c.pool.n >= toDisturb && standing && now > c.nextDown:
		return c.try(now, settle, blindly)
	case ratio*(1-sure*sigma) > tryAbove && now > c.nextDown:
		down := min(max(headroom/(ratio*(1-sigma/3)), halve), leastStep)
		if c.limit*down < fewSlots && (!standing || c.pool.n < toStep) {
			return 0
		}
		return c.try(now, settle, down)
	case c.pool.n >= toStep && now > c.nextUp && c.meanN < wellKnown:
		return c.try(now, settle, boldly)
	case c.pool.n >= toDisturb && now > c.nextUp && (now-c.fresh > baseAge || !c.proven && ratio < tryAbove):
		return c.try(now, settle, headroom)
	}
	return 0
}

// gather adds what was seen at this limit to what is known of the capacity,
// unless it contradicts it: then the backend has changed.
func (c *control) gather() {
	if c.pool.n >= toStep && c.seen.n >= toCompare {
		x := c.seen.rate()
		if math.Abs(x-c.pool.rate()) > changedBy*x*math.Sqrt(c.cv2*(1/c.seen.n+1/c.pool.n)) {
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
	c.seen, c.pooled, c.newest, c.pressed = tempo{}, tempo{}, tempo{}, spread{}
	c.settle = now + int64(settle)
	return int(c.limit)
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
	if b.n < newestMemory || math.Abs(math.Log(a.rate()/b.rate())) < changedBy*math.Sqrt(max(c.cv2, 1)*(1/a.n+1/b.n)) {
		return false
	}
	if a.rate() > b.rate() {
		a = tempo{} // chosen for being quick, it would promise too much
	}
	c.seen, c.pooled, c.pool = a, tempo{}, tempo{}
	return true
}
