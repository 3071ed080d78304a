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
	nearly     = 1.1  // where more slots gained nothing, a guessed baseline is so many times below what a request took
	atEase     = 0.75 // a latency counts for the baseline below this share of the limit
)

// How many completions or latencies must have been seen. The mean of n whose
// scatter is as large as their mean is known to one part in the root of n, given
// below: the more would be lost by an error, the more are waited for.
const (
	toBegin   = 8   // before anything is decided at a new limit: 35 %
	toCompare = 16  // before one rate is held against another: 25 %
	toBelieve = 20  // before a baseline is one: 22 %
	toStep    = 30  // before slots are taken where they are few, or added on a guess: 18 %
	toKnow    = 50  // before anything is learned from them for good: 14 %
	toDisturb = 60  // before a trial for which there is no sign yet: 13 %
	wellKnown = 100 // until so many latencies were seen at ease more is tried boldly and often: 10 %
	toRely    = 200 // before a mean will do without its error: 7 %

	baseMemory   = 1000 // latencies that the baseline is averaged over, at most
	poolMemory   = 600  // completions that the capacity is averaged over, at most
	stepMemory   = 150  // of them, after a step down that cost nothing: the knee may be near
	newestMemory = 24   // completions by which a change of the backend is noticed

	// A trial that has not been decided ends with the likelier answer, after as
	// many completions as come in trialTime, and as the first two say, but after
	// maxTrial at the latest.
	leastTrial = 40
	minTrial   = 6 // over the square of its step: a small one shows later
	maxTrial   = 400
	trialTime  = 5e8 // ns
)

// Standard errors by which something must differ.
const (
	sure      = 1.5 // for a trial to seem worth while, which the trial will check
	surer     = 2.5 // for a trial to be decided
	outsideBy = 3.0 // for what a trial found to lie beyond what more or fewer slots can do
	changedBy = 3.5 // for the backend to have changed: asked after every few completions, it must seldom be chance
	otherBy   = 4.0 // for latencies at ease to be of another backend: a baseline is not given up lightly
)

// Times, ns. Trials of fewer slots cost those who wait, so one that was wrong is
// not repeated soon; trials of more cost only latency.
const (
	pause       = 1e9  // before the next trial after one that says nothing
	afterChange = 2e9  // before fewer slots are tried after the baseline has changed
	leastUp     = 5e9  // before more slots are tried again, at least
	mostBackoff = 60e9 // before fewer slots are tried again, at most
	belowMemory = 30e9 // for so long a loss by fewer slots shows that the baseline is right
	baseAge     = 20e9 // a baseline older than this is checked by trying more slots
	upRests     = 20   // times what the last trial of more slots took, before the next
	upHurries   = 3    // the same, while the baseline is not well known
	startTime   = 2e9  // in which doubling the limit must have shown, and
	startLasts  = 10   // times what a request takes: later the load is another

	// The share of time in which all slots are taken is averaged over as long as
	// so many requests take, and so long at least.
	takenMemory = 50
	leastMemory = 25e7
)

// How far a step goes, in times the limit, and what a standing overload is.
const (
	boldly      = 2.0  // up, when the last step up was of use or little is known
	homeward    = 4.0  // up at most, back to where a series of trials began
	blindly     = 0.7  // down, while no baseline is known that does not come from a full backend
	halve       = 0.5  // down at once, at most: whoever waits pays for an error
	leastStep   = 0.8  // fewer by less than this leads to trials that chance decides
	mostlyTaken = 0.9  // of the time all slots are taken: a standing overload,
	oftenTaken  = 0.5  // or so much, while more
	oftenShed   = 0.15 // than this share is refused
	seldomTaken = 0.35 // the load has gone: a trial of few slots is over
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

	// Logarithms of latencies: at ease, and while all slots were taken since the
	// limit was changed.
	eased, pressed spread

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
	// long lately is.
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
		cv2:   1, backoff: pause, starting: true, measured: math.Inf(1),
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
	c.taken += (is - c.taken) * (1 - math.Exp(-float64(now-c.weighed)/max(c.memory, leastMemory)))
	c.weighed = now
}

// completed notes that one of taken requests has finished while others waited.
// While the limit has just been lowered, more than the limit are taken.
// A negative latency is not known.
func (c *control) completed(now, latency int64, taken, limit int) {
	if !c.full {
		return
	}
	if c.from >= c.settle && taken >= limit && taken <= limit+1 {
		c.seen.n++
		c.seen.t += float64(now - c.from)
		c.newest.n++
		c.newest.t += float64(now - c.from)
		if latency >= 0 {
			x := logOf(latency)
			c.pressed.add(1, x, x*x, calmMemory)
		}
	}
	c.from = now
}

// rest notes that slots are free again.
func (c *control) rest(now int64) {
	c.weigh(now)
	c.full = false
}
