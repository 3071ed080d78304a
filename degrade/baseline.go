package degrade

import "math"

const (
	muchSlower  = 2.0  // times the baseline: latencies at ease may be of another backend,
	farSlower   = 10.0 // times the baseline: how latencies scattered before says nothing
	muchQuicker = 0.5  // and also below so much of it
	leastCV2    = 0.05 // bounds on cv2: neither may latencies that hardly scatter make
	mostCV2     = 4.0  // anything certain, nor a few long ones everything uncertain
)

// learn takes latencies seen at ease into the baseline.
func (c *control) learn(now int64, n, mean, square float64) {
	if n == 0 {
		return
	}
	// Requests that started with slots to spare and took much longer, or much less,
	// than such requests did before: the backend has changed.
	c.recent.n += n
	c.recent.t += n * mean
	if c.recent.n >= toKnow && c.baseN >= toCompare {
		m := c.recent.t / c.recent.n
		err := otherBy * min(m, c.base) * math.Sqrt(c.cv2*(1/c.recent.n+1/c.baseN))
		d := m / c.base
		if d >= muchQuicker {
			c.quicker = 0
		} else {
			c.quicker++ // not at once: of requests that begin together the quick ones end first
		}
		if (d > muchSlower || c.quicker > 1) && math.Abs(m-c.base) > err {
			c.quicker = 0
			c.base, c.baseN = m, c.recent.n
			c.checked = m < c.base
			c.nextDown = max(c.nextDown, now+afterChange)
			n = 0
		}
		c.recent = tempo{}
	}
	c.base += (mean - c.base) * n / (c.baseN + n)
	c.baseN = min(c.baseN+n, baseMemory)
	c.fresh = now
	c.checked = c.checked || c.baseN >= toBelieve
	c.guessed = c.guessed && n <= toCompare
	w := n / (c.meanN + n)
	c.mean += (mean - c.mean) * w
	c.square += (square - c.square) * w
	c.meanN = min(c.meanN+n, 2*baseMemory)
	if c.meanN >= toKnow {
		c.cv2 = min(max(c.square/(c.mean*c.mean)-1, leastCV2), mostCV2)
	}
}

// rebase sets the baseline to what a trial has shown to be free of waiting.
func (c *control) rebase(now int64, base, n float64) {
	if !c.guessed && c.baseN > 0 {
		c.measured = c.base
	}
	if base > farSlower*c.base { // all that is known is of another backend: find the limit anew
		c.cv2, c.meanN, c.rising = 1, 0, true
	}
	c.base, c.baseN, c.fresh, c.checked, c.guessed = base, n, now, true, true
}

// estimate is the limit of a dry run, in which nothing can be tried: what is in
// use while requests take no longer than at ease, and what Little's law says
// when they do.
func (c *control) estimate(busy, latency float64) int {
	l := c.limit
	switch {
	case c.baseN < toBelieve:
	case latency < growBelow*c.base:
		l = max(l, busy*headroom)
	case latency > tryAbove*c.base:
		l = busy * c.base / latency * headroom
	}
	c.limit = min(max(math.Ceil(l), float64(c.min)), float64(c.max))
	return int(c.limit)
}
