package balancer

import (
	"math"
	"time"
)

const (
	latencyMemory = 2 * time.Second // time constant of the moving average
	staleAfter    = 5 * time.Second // an estimate starts to fade to the pool's mean
	staleOver     = 5 * time.Second // and has reached it after this long
	idleAfter     = 3 * time.Second // an unused backend is looked at again
	minPenalty    = time.Second     // what a failure counts as, at least,
	maxPenalty    = 5 * time.Second // and at most
	meanEvery     = 100 * time.Millisecond
	cheaper       = 0.8 // a cost must be below this share of another to be lower
)

// Latency returns the default Policy: of a few backends drawn by weight it
// picks the one with the lowest
//
//	latency × (1 + in flight / weight)
//
// The latency is a moving average over about two seconds of the time to the
// response's header, and no less than the time for which a backend that is
// being waited for has answered nothing: a backend that hangs gets dear before
// its first request times out, and stays so when its callers give up. A failure
// or refusal counts as the larger of 1 second and ten times the pool's mean, so
// that failing fast never looks fast. An unknown backend costs the pool's mean;
// an estimate that is not renewed for 5 seconds fades to it; a backend that was
// idle for 3 seconds gets one request the next time it is drawn, so that nobody
// is forgotten. After failures in a row these times are longer.
//
// Costs that differ by less than a fifth count as equal, and the backend that
// was drawn first gets the request. Without that, requests that come one after
// the other would nearly all go to the one that was a hair faster last.
//
// Choices is how many are drawn, from 2 to 8; less counts as 2, and more as 8.
// Default 3: in the simulation it has a shorter tail than 2, and more do not
// shorten it much.
func Latency(choices int) Policy {
	if choices == 0 {
		choices = 3
	}
	return latencyPolicy(min(max(choices, 2), 8))
}

type latencyPolicy int

func (p latencyPolicy) Picker(ready []*Endpoint) Picker {
	s := newSampler(ready)
	if len(ready) == 1 {
		return func(Call) *Endpoint { return s.ready[0] }
	}
	choices := int(p)
	return func(c Call) *Endpoint {
		a, b := s.two(c.Rand)
		best, least := a, a.cost(c.Now)
		r := mix(c.Rand)
		for i := 1; ; {
			if b != best {
				cost := b.cost(c.Now)
				winner, loser := best, b
				if cost < least*cheaper {
					winner, loser, least = b, best, cost
				}
				if c.Try == 0 && loser.idle(c.Now) {
					return loser
				}
				best = winner
			}
			if i++; i >= choices {
				return best
			}
			r = mix(r)
			b = s.one(r)
		}
	}
}

// cost is what sending a request to e is expected to cost, in nanoseconds.
func (e *Endpoint) cost(now time.Duration) float64 {
	est := math.Float64frombits(e.latency.Load())
	age := now - time.Duration(e.sampled.Load())
	if est == 0 || age > staleAfter {
		est = e.faded(est, age)
	}
	load := e.load.Load()
	if load>>32 > 0 {
		// Nothing came back for longer than an answer takes.
		if silent := float64(int64(now) - e.progress.Load()); silent > est {
			est = silent
		}
	}
	return est * (1 + float64(int32(load))*math.Float64frombits(e.perLoad.Load()))
}

// faded returns the estimate after it has not been renewed for age.
func (e *Endpoint) faded(est float64, age time.Duration) float64 {
	mean := max(e.pool.mean(), 1)
	if est == 0 {
		return mean
	}
	after := e.patience(staleAfter)
	if age <= after {
		return est
	}
	return est + (mean-est)*min(1, float64(age-after)/float64(staleOver))
}

// idle reports whether e is known, unused, and has not been looked at for long.
func (e *Endpoint) idle(now time.Duration) bool {
	age := now - time.Duration(e.sampled.Load())
	return age > idleAfter && e.load.Load()>>32 == 0 && e.latency.Load() != 0 && age > e.patience(idleAfter)
}

// patience doubles d for each of the last failures in a row: what keeps failing
// is looked at less and less often.
func (e *Endpoint) patience(d time.Duration) time.Duration { return d << min(e.failures.Load(), 4) }

// sample renews the estimate of e with an answer that took took.
func (e *Endpoint) sample(now, took time.Duration, v Verdict) {
	x := float64(max(took, 1))
	if v != Success {
		x = max(x, e.pool.penalty())
	}
	last := time.Duration(e.sampled.Swap(int64(now)))
	for {
		old := e.latency.Load()
		est := math.Float64frombits(old)
		if est == 0 || now-last > e.patience(staleAfter)+staleOver {
			est = x
			if v == Success {
				// One fast answer does not make a fast backend.
				if mean := e.pool.mean(); mean > 0 {
					est = (x + mean) / 2
				}
			}
		} else {
			keep := math.Exp(-float64(max(now-last, 0)) / float64(latencyMemory))
			est = x + (est-x)*keep
		}
		if e.latency.CompareAndSwap(old, math.Float64bits(est)) {
			break
		}
	}
	e.pool.renew(now)
}

// outwaited says that nobody waits for an answer of e any more, because the
// caller gave up or another backend was faster: it takes at least that long, if
// it was thought to take less. That is neither a success nor a failure; but
// without it a backend that hangs would look as good as new each time the last
// caller has hung up on it.
func (e *Endpoint) outwaited(now, began time.Duration) {
	if waited := now - began; waited > e.Latency() {
		e.sample(now, waited, Success)
	}
}
