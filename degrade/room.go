package degrade

import "math"

// How long may be waited, in units of what a request takes. CoDel (RFC 8289,
// section 3) tells a queue that works off a burst, which is good, from one that
// stands, which is only delay; it waits for an interval to tell. Here the share
// of its class that is refused tells at once: while nothing is, a burst may
// wait for burstWait; the more is, the tighter is the bound, because then
// waiting longer serves nobody more, it only makes all wait. A class that is
// just about served as a whole keeps a long queue and loses little, while one
// below it that is mostly refused learns so at the door.
//
// How many come together by chance does not depend on how many workers there
// are, so where these are few a burst lasts for many times what a request takes:
// burstQueue is a bound in requests. And predictions err: while nothing is
// refused, who waits is not sent away for having waited longer than predicted.
const (
	burstWait  = 3.5  // while nothing is refused
	burstQueue = 13   // or as long as so many requests take
	tightWait  = 0.5  // when nearly everything is
	tightQueue = 4    // or as long as so many take
	slackWait  = 0.17 // in between: tightWait + slackWait / share refused
	lenient    = 3    // who waits may wait so many times longer than was predicted, without overload
	stallWait  = 1e8  // and so long in any case, ns: a process that gets no processor is not overloaded
	quickBurst = 3e7  // nobody is refused for a shorter wait, ns, while nothing is refused,
	quickWait  = 5e6  // and for a shorter one than this (CoDel's target) at any time
	coldWait   = 4e9  // as long as little is known, ns
	minQueue   = 2    // so many may wait whatever is predicted, so that no slot stays free

	// Above this share refused the newest is served first: who has waited
	// longest is the most likely to give up.
	newestAbove = 0.1

	leaveTime   = 3.0      // what to leave for running before the client's patience ends
	goneAbove   = 0.01     // share of clients that must hang up before their patience counts
	shareWeight = 1.0 / 64 // of the newest in a class's share of the slots
	leftOver    = 0.02     // share of the slots that a class is taken to get, whatever the higher ones take
	easyTau     = 1e8      // how fast ease is forgotten while no slot is free, ns
)

// room decides whether w may wait, and until when. The bound is on the time until
// its turn, predicted from those ahead of it and the rate at which slots come
// free for its class.
func (c *core) room(now int64, w *waiter) verdict {
	if c.maxWait < 0 {
		return refused
	}
	cl := c.q.class(w.prio)
	latency, gap := max(c.unit(), shortest), c.gap()
	ahead := float64(c.q.ahead(w.prio))
	higher := 0.0
	for _, o := range c.q.classes {
		if o.prio <= w.prio {
			break
		}
		higher += o.share
	}
	est := ahead * gap / max(1-higher, leftOver)
	bound := max(burstWait*latency, burstQueue*gap, quickBurst)
	shed := c.shed(now, cl)
	if shed > 0 {
		bound = min(bound, max((tightWait+slackWait/shed)*latency, tightQueue*gap))
	}
	bound = max(bound, quickWait)
	if c.ctl.starting && c.ctl.baseN < toKnow {
		// Nothing is known yet, neither what a request takes nor how many can run:
		// the limit is on its way up, and a first burst waits for that.
		bound = max(bound, coldWait)
	}
	// Predictions err, and who has waited is served next: while there is no overload
	// to be got rid of, nobody is sent away for that.
	last := bound
	if shed < newestAbove {
		last = max(last*lenient, stallWait)
	}
	if c.maxWait > 0 {
		last = min(last, float64(c.maxWait))
	}
	if p := c.load.patience; p > 0 && c.load.gone.value(now)*gap > goneAbove {
		// Clients give up after about p: who would wait too long to be served by
		// then only takes the place of others.
		last = max(min(last, p-leaveTime*latency), tightWait*latency)
	}
	if w.deadline != 0 {
		// What can't be finished is not begun: leave time for it to run.
		last = min(last, float64(w.deadline-now)-latency)
		if last <= 0 {
			return tooLate
		}
	}
	bound = min(bound, last)
	w.expires, w.due = now+int64(last), now+int64(bound)
	if c.q.n >= c.maxQueue {
		victim := c.q.least(w.prio)
		if est > bound || victim == nil {
			return refused
		}
		c.lost(now, c.q.class(victim.prio))
		c.drop(victim, evicted)
	}
	if est <= bound || c.q.n < minQueue {
		return pending
	}
	// Full. A tenant with fewer waiting than another takes the other's place.
	if f := cl.flows[w.flow]; cl.n > 0 {
		mine, most := 0, cl.longest()
		if f != nil {
			mine = f.n
		}
		if most.n > mine+1 {
			c.lost(now, cl)
			c.drop(most.tail, evicted)
			// Its turn comes when all others have had as many.
			turns := float64(2*mine+3) * float64(cl.active+1)
			w.expires = max(w.expires, now+int64(max(burstWait*latency, turns*gap/max(1-higher, leftOver))))
			w.due = w.expires
			return pending
		}
	}
	return refused
}

// lost notes that one of cl was refused.
func (c *core) lost(now int64, cl *class) {
	c.load.shed.add(now, 1)
	cl.out.add(now, 1)
}

// shed is the share of a class that was refused lately. Those who were let in
// without waiting count as let in, whatever their class: while that happens,
// there is room.
func (c *core) shed(now int64, cl *class) float64 {
	out := cl.out.value(now)
	if out <= 1e-12 {
		return 0
	}
	// The longer no slot has been free, the less that counts.
	easy := c.load.easy.value(now) * math.Exp(-float64(now-c.load.easy.at)/easyTau)
	return out / (out + cl.in.value(now) + easy)
}

// drop takes w out of the queue without a slot.
func (c *core) drop(w *waiter, why verdict) {
	c.q.remove(w)
	w.settle(why)
}

// sweep drops those at the head of their lists who waited too long: in an
// overload, longer than they were predicted to. Each also has a timer of its own;
// sweeping keeps them from taking room until it fires.
func (c *core) sweep(now int64) {
	if c.q.n == 0 {
		return
	}
	for _, cl := range c.q.classes {
		if cl.n == 0 {
			continue
		}
		over := c.shed(now, cl) > newestAbove
		for _, f := range cl.flows {
			for f != nil && f.head != nil && (f.head.expires < now || over && f.head.due < now) {
				c.lost(now, cl)
				c.drop(f.head, expired)
			}
		}
	}
}
