package breaker

import (
	"context"
	"time"
)

// A call is a call that was let through. Its methods are not safe for
// concurrent use.
type call struct {
	b     *Breaker
	p     *period // nil if the outcome counts in Stats alone
	start int64
	epoch uint64 // 0 if the call isn't, or no longer, in the period's flight
	probe uint32 // 0 if it is none
	timed bool   // slow is known
	slow  bool
	over  bool
}

// enter lets the call c through to b, or refuses it. A call that is let through
// must come to its end, even if it panics: defer c.abandon. now is the family's
// time, or 0 if it hasn't been read: it is read only if someone wants to know.
func (c *call) enter(b *Breaker, now int64) *OpenError {
	c.b = b
	for b.fam.forced.Load() == 0 {
		p := b.cur.Load()
		gate := p.gate.Load()
		if gate == gatePass && p.mark == 0 {
			c.p = p
			return nil
		}
		if now == 0 {
			now = b.fam.now()
		}
		if gate != gatePass {
			return c.ask(p, now)
		}
		epoch := p.epoch(now)
		if p.slow.flight.begin(epoch) {
			c.p, c.start, c.epoch = p, now, epoch
			return nil
		}
		b.sweep(p, now, epoch) // which may open the circuit
		now = 0
	}
	return c.enterForced(b.fam.now())
}

// ask decides about a call when the gate isn't simply open.
func (c *call) ask(p *period, now int64) *OpenError {
	gate := p.gate.Load()
	switch {
	case gate == gatePass:
		c.join(p, now)
		return nil
	case gate == gateRamp && now < p.ramp.to:
		if !p.ramp.admits(now) {
			return c.refuse(p.refusal.Load())
		}
		c.join(p, now)
		return nil
	case gate > now:
		return c.refuse(p.refusal.Load())
	}
	c.b.mu.Lock()
	no := c.probeLocked(now)
	c.b.mu.Unlock()
	c.b.fam.deliver()
	if no != nil {
		return c.refuse(no)
	}
	if c.probe == 0 {
		c.join(c.p, now)
	}
	return nil
}

// join lets the call count in p.
func (c *call) join(p *period, now int64) {
	c.p, c.start = p, now
	if p.mark > 0 {
		epoch := p.epoch(now)
		if p.slow.flight.begin(epoch) {
			c.epoch = epoch
		} else if c.b.sweep(p, now, epoch); p.slow.flight.begin(epoch) {
			c.epoch = epoch
		}
	}
}

// refuse counts a refusal, or lets the call through in a dry run.
func (c *call) refuse(no *OpenError) *OpenError {
	if c.b.fam.dryRun.Load() {
		c.b.count(spared)
		return nil
	}
	c.b.count(refused)
	return no
}

// sweep is for the first call of an epoch: it looks for calls that are past the
// slow mark while still in flight.
func (b *Breaker) sweep(p *period, now int64, epoch uint64) {
	f := b.fam
	s := &p.slow
	s.mu.Lock()
	late := s.flight.sweep(now-p.mark, epoch, p.shift)
	if late == 0 {
		s.mu.Unlock()
		return
	}
	w := s.windowLocked(f)
	w.bucket(now).late += late
	why := p.tooSlowLocked(w, now)
	s.mu.Unlock()
	if why != "" {
		b.open(p, why, opening{})
	}
}

// noteSlow counts a call that ended slow.
func (b *Breaker) noteSlow(p *period, now int64) {
	s := &p.slow
	s.mu.Lock()
	w := s.windowLocked(b.fam)
	w.bucket(now).slow++
	why := p.tooSlowLocked(w, now)
	s.mu.Unlock()
	if why != "" {
		b.open(p, why, opening{})
	}
}

// answered notes that the answer has begun: the call is slow, or isn't. It
// returns the time, or 0 if it didn't have to read it.
func (c *call) answered() (now int64) {
	c.timed = true
	p := c.p
	if p == nil {
		return 0
	}
	if p.mark > 0 {
		now = p.fam.now()
		c.slow = now-c.start >= p.mark
		if c.epoch != 0 && !p.slow.flight.end(c.epoch) {
			p.landed(now)
		}
		c.epoch = 0
	}
	if c.probe != 0 && !c.slow {
		c.b.probeAnswered(c)
	}
	return now
}

// end counts how the call ended, once. wait is what the upstream asked for.
func (c *call) end(v Verdict, wait time.Duration) {
	if c.over {
		return
	}
	c.over = true
	var now int64
	if !c.timed {
		now = c.answered()
	}
	b, p := c.b, c.p
	switch {
	case v == Success && !c.slow:
		b.count(succeeded)
	case v == Success:
		b.count(slow)
	case v == Ignore:
		b.count(ignored)
	default:
		b.count(failed)
	}
	switch {
	case p == nil:
		return
	case c.probe != 0:
		b.endProbe(c, v, wait)
		return
	case wait > 0:
		b.noteWait(wait)
	}
	if v == Ignore || b.cur.Load() != p {
		return
	}
	if now == 0 {
		now = b.fam.now()
	}
	p.take(v, now)
	switch {
	case v == Trip:
		b.open(p, "a call said so", opening{})
	case p.tripped.Load():
		b.open(p, p.why(), opening{})
	case c.slow:
		b.noteSlow(p, now)
	}
}

// take tells p how a call has ended now: gobreaker of every failure, and of a
// success after one, which ends the failures in a row. Any other success can't
// change what gobreaker does; it is only counted, and gobreaker asks for the
// number when it decides. The order matters: told grows after gobreaker knows,
// and forgot after gobreaker has forgotten. So a success that finds them equal
// has nothing to tell, even if others are in the midst of telling.
func (p *period) take(v Verdict, now int64) {
	if v != Success {
		_, _ = p.cb.Execute(fail)
		p.told.Add(1)
		return
	}
	p.good.add(now)
	if n := p.told.Load(); n != p.forgot.Load() {
		_, _ = p.cb.Execute(succeed)
		p.forgot.Store(n)
	}
}

func (b *Breaker) endProbe(c *call, v Verdict, wait time.Duration) {
	why := "a probe failed"
	if c.slow && v == Success {
		v, why = Failure, "a probe was slow"
	}
	now := b.fam.now()
	b.mu.Lock()
	b.noteWaitLocked(now, wait)
	if b.cur.Load() == c.p {
		b.settleLocked(c.probe, v, now, why, wait)
	}
	b.mu.Unlock()
	b.fam.deliver()
}

// abandon ends a call that didn't come to its end: it panicked, or its
// goroutine exited. It is deferred, and does nothing after end.
func (c *call) abandon(ctx context.Context) {
	switch {
	case c.over:
	case gone(ctx):
		c.end(Ignore, 0)
	default:
		c.b.fail(errPanicked, 0)
		c.end(Failure, 0)
	}
}

// gone reports whether ctx was cancelled by whoever made the call, as opposed
// to being past its deadline.
func gone(ctx context.Context) bool { return ctx.Err() == context.Canceled }
