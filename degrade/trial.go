package degrade

import "math"

// start doubles the limit for as long as that helps: until requests take longer
// than at ease, or, when there was no ease to see, until the rate does not rise.
func (c *control) start(now int64, settle float64) int {
	x, before := c.seen.rate(), c.trial.tempo
	if c.seen.n < min(max(c.limit, toCompare), wellKnown) {
		return 0
	}
	if c.baseN >= toKnow {
		sigma := math.Sqrt(c.cv2 * (1/c.seen.n + 1/c.baseN))
		ratio := c.limit / x / max(c.base, shortest)
		if ratio*(1-sigma) > growBelow || c.seen.n >= wellKnown {
			c.starting = false
			return 0
		}
		if ratio*(1+sigma) > growBelow {
			return 0
		}
	} else if before.n > 0 && float64(now-c.trial.began) < startLasts*settle+startTime && x < headroom*before.rate() {
		err := math.Sqrt(c.cv2 * (1/c.seen.n + 1/before.n))
		if x*(1+err) > headroom*before.rate() && c.seen.n < wellKnown {
			return 0
		}
		c.starting = false
		c.rebase(now, c.trial.limit/before.rate(), toCompare)
		if to := x * max(c.base, shortest) * headroom; to < leastStep*c.limit {
			return c.set(now, settle, to)
		}
		return 0
	}
	if int(c.limit) >= c.max {
		c.starting = false
		return 0
	}
	c.trial.limit, c.trial.tempo, c.trial.began = c.limit, c.seen, now
	return c.set(now, settle, boldly*c.limit)
}

// try begins a trial of factor times the limit.
func (c *control) try(now int64, settle float64, factor float64) int {
	to := math.Round(c.limit * factor)
	if factor > 1 {
		to = max(to, c.limit+1)
	}
	to = min(max(to, float64(c.min)), float64(c.max))
	if to == c.limit {
		return 0
	}
	c.trial = trial{dir: 1, limit: c.limit, tempo: c.pool, began: now}
	if to < c.limit {
		c.trial.dir = -1
	}
	return c.set(now, settle, to)
}

// judge ends a trial when there is enough evidence.
func (c *control) judge(now int64, settle float64) int {
	t, n := c.trial, c.seen.n
	x := c.seen.rate()
	gain := x / t.tempo.rate()
	fair := (1 + c.limit/t.limit) / 2 // half of what as many slots would gain if all were of use
	z := surer
	step := 1 - c.limit/t.limit
	if n > min(max(x*trialTime, minTrial/(step*step), leastTrial), maxTrial) {
		z = 0
	}
	err := z * gain * math.Sqrt(c.cv2*(1/n+1/t.tempo.n))
	// Neither can fewer slots do more nor more slots less, or more than their share:
	// then the backend has changed meanwhile, and the trial says nothing.
	noise := outsideBy * gain * math.Sqrt(c.cv2*(1/n+1/t.tempo.n))
	share := c.limit / t.limit
	if n >= toCompare && (gain+noise < min(share, 1) || gain-noise > max(share, 1)) || c.forgetIfChanged() {
		c.trial.dir = 0
		c.pool, c.pooled = tempo{}, tempo{}
		c.nextUp, c.nextDown = now+pause, now+pause
		return c.set(now, settle, t.limit)
	}
	above, below := gain-err > fair, gain+err < fair
	if n < toCompare || !above && !below || t.dir < 0 && below && n < toKnow {
		return 0
	}
	c.trial.dir, c.rising = 0, false
	was := t.limit / t.tempo.rate()
	switch {
	case t.dir > 0 && above: // more done: all slots before were of use
		c.rising = true
		if was > c.base*growBelow {
			c.rebase(now, was, t.tempo.n)
		}
		c.pool, c.pooled = tempo{}, tempo{}
		return 0
	case t.dir > 0 && gain > 1+noise/2: // somewhat more done: the slots of use are known
		c.home = 0
		c.pool, c.pooled = tempo{}, tempo{}
		return c.set(now, settle, min(t.limit*gain*headroom, c.limit))
	case t.dir > 0: // no more done: back, or as far as it was of use
		c.home = 0
		c.proven = true
		// The guessed baseline promised a gain: it was wrong, or nearly so.
		if was = t.limit / x; c.guessed && was < c.base*growBelow {
			if was < c.base {
				c.base = c.measured
			}
			c.base, c.baseN, c.guessed = min(c.base, was/nearly), min(c.baseN, toKnow), false
			c.checked = now < c.below+belowMemory
		}
		// Trying more costs only latency, so it is done again before long.
		c.nextUp = now + max(upRests*(now-t.began), leastUp)
		if c.meanN < wellKnown {
			c.nextUp = now + upHurries*(now-t.began)
		}
		return c.set(now, settle, max(t.limit, min(t.limit*gain, c.limit)))
	case t.dir < 0 && !below && c.limit < c.home && x < c.homeRate*(1+c.limit/c.home)/2:
		// Step by step no loss was seen, but all together there is one.
		to := min(c.home, c.limit*c.homeRate/x*headroom)
		c.home = 0
		c.rebase(now, c.limit/x, n)
		c.nextDown = now + int64(c.backoff)
		return c.set(now, settle, to)
	case below: // less done: the backend itself is slower
		c.rebase(now, c.limit/x, n)
		c.home = 0
		c.backoff = min(c.backoff*2, mostBackoff)
		c.below = now
		c.nextDown = now + int64(c.backoff)
		return c.set(now, settle, min(t.limit, c.limit/gain*headroom))
	default: // as much done
		if c.home == 0 {
			c.home, c.homeRate = t.limit, t.tempo.rate()
		}
		c.pool.fade(stepMemory)
		c.backoff = pause
		c.proven = false
		c.nextUp = max(c.nextUp, now+pause)
		return 0
	}
}
