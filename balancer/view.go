package balancer

import (
	"math"
	"time"
)

// A view is what requests are spread by: immutable, replaced as a whole when
// a backend's state or the membership changes.
type view struct {
	members []*Endpoint
	groups  []group              // one, unless there are tiers or zones
	trials  []trial              // endpoints on probation
	byToken map[string]*Endpoint // those in groups, by sticky token
	wake    time.Duration        // when time alone changes something
	back    time.Duration        // when one that is left out may be back, at the earliest
	panics  bool                 // too few are available: some group uses them all
	ready   int                  // how many members are available
}

type trial struct {
	e     *Endpoint
	since time.Duration
}

const forever = time.Duration(math.MaxInt64)

// rebuild settles the state of every member, and makes a new view if one has
// changed or force is set. The caller holds b.mu.
func (b *Balancer) rebuild(now time.Duration, force bool) {
	old := b.view.Load()
	next := &view{members: b.members, wake: forever, back: forever}
	changed := force || old == nil
	for _, e := range b.members {
		state, why := e.settle(now, b.cfg.SlowStart)
		if state != e.state || why != e.why {
			if state != e.state {
				changed = true
				b.noteChange(now, e, state, why)
				e.since = now
			}
			e.state, e.why = state, why
		}
		switch state {
		case Probation:
			next.trials = append(next.trials, trial{e, e.since})
		case Warming:
			next.wake = min(next.wake, time.Duration(e.warm.Load())+b.cfg.SlowStart)
		case Ejected:
			next.wake = min(next.wake, e.outUntil)
		case Draining:
			if e.drainedUntil > now {
				next.wake = min(next.wake, e.drainedUntil)
			}
		}
		if e.outsideDown {
			next.wake = min(next.wake, e.outsideAt)
		}
		if e.probeDown { // as far as its probes can pass
			next.back = min(next.back, e.probeAt+time.Duration(b.cfg.Probe.Rise-1-e.probeStreak)*b.cfg.Probe.Every)
		}
		if state <= Warming {
			next.ready++
		}
	}
	next.back = min(next.back, next.wake)
	if !changed {
		if old.wake != next.wake || old.back != next.back {
			next.groups, next.trials, next.byToken, next.panics, next.ready =
				old.groups, old.trials, old.byToken, old.panics, old.ready
			b.view.Store(next)
		}
		return
	}
	next.groups = b.group(b.members)
	for _, g := range next.groups {
		next.panics = next.panics || g.panics
	}
	if b.cfg.Sticky.Cookie != "" {
		next.byToken = make(map[string]*Endpoint, len(b.members))
		for _, g := range next.groups {
			for _, e := range g.ready {
				next.byToken[e.token] = e
			}
		}
	}
	if was := old != nil && old.panics; next.panics != was {
		b.notePanic(now, next.panics, next.ready, len(b.members))
	}
	b.view.Store(next)
}

// wakeUp does what time has made due, and returns the view after it. If
// another goroutine is at it, the old view is good for one more request.
func (b *Balancer) wakeUp(now time.Duration) *view {
	if b.waking.CompareAndSwap(false, true) {
		b.doDue(now)
		b.tell() // a hook that takes its time keeps nobody else from waking
	}
	return b.view.Load()
}

// doDue is called with b.waking set, and clears it.
func (b *Balancer) doDue(now time.Duration) {
	defer b.waking.Store(false)
	b.recheckOutside(now)
	b.mu.Lock()
	b.rebuild(now, false)
	b.mu.Unlock()
}
