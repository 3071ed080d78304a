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

// enter lets a call through, or refuses it. What it returns must come to its
// end, even if the call panics: defer call.abandon.
func (b *Breaker) enter(now int64) (call, *OpenError) {
	f := b.fam
	for f.forced.Load() == 0 {
		p := b.cur.Load()
		if p.gate.Load() != gateClosed {
			return b.ask(p, now)
		}
		if f.cfg.SlowCall == 0 {
			return call{b: b, p: p, start: now}, nil
		}
		epoch := uint64(now>>f.shift) + 1
		if p.slow.flight.begin(epoch) {
			return call{b: b, p: p, start: now, epoch: epoch}, nil
		}
		b.sweep(p, now, epoch) // which may open the circuit
		now = f.now()
	}
	return b.enterForced(now)
}

// ask decides about a call when the gate isn't simply open.
func (b *Breaker) ask(p *period, now int64) (call, *OpenError) {
	gate := p.gate.Load()
	switch {
	case gate == gateClosed:
		return b.admit(p, now), nil
	case gate == gateRamp && now < p.ramp.to:
		if !p.ramp.admits(now) {
			return b.refuse(p.refusal.Load(), now)
		}
		return b.admit(p, now), nil
	case gate > now:
		return b.refuse(p.refusal.Load(), now)
	}
	b.mu.Lock()
	c, no := b.probeLocked(now)
	b.mu.Unlock()
	b.fam.deliver()
	if no != nil {
		return b.refuse(no, now)
	}
	if c.probe == 0 {
		return b.admit(c.p, now), nil
	}
	return c, nil
}

// admit returns a call that counts in p.
func (b *Breaker) admit(p *period, now int64) call {
	c := call{b: b, p: p, start: now}
	if b.fam.cfg.SlowCall > 0 {
		epoch := uint64(now>>b.fam.shift) + 1
		if p.slow.flight.begin(epoch) {
			c.epoch = epoch
		} else if b.sweep(p, now, epoch); p.slow.flight.begin(epoch) {
			c.epoch = epoch
		}
	}
	return c
}

// refuse counts a refusal, or lets the call through in a dry run.
func (b *Breaker) refuse(e *OpenError, now int64) (call, *OpenError) {
	if b.fam.dryRun.Load() {
		b.count(spared)
		return call{b: b, start: now}, nil
	}
	b.count(refused)
	return call{}, e
}

// sweep is for the first call of an epoch: it looks for calls that are past the
// slow mark while still in flight.
func (b *Breaker) sweep(p *period, now int64, epoch uint64) {
	f := b.fam
	s := &p.slow
	s.mu.Lock()
	late := s.flight.sweep(now-int64(f.cfg.SlowCall), epoch, f.shift)
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

// answered notes that the answer has begun: the call is slow, or isn't.
func (c *call) answered() {
	f := c.b.fam
	c.timed = true
	if f.cfg.SlowCall == 0 {
		return
	}
	now := f.now()
	c.slow = now-c.start >= int64(f.cfg.SlowCall)
	if c.epoch != 0 {
		if s := &c.p.slow; !s.flight.end(c.epoch) {
			s.mu.Lock()
			s.windowLocked(f).landed(now)
			s.mu.Unlock()
		}
	}
	if c.probe != 0 && !c.slow {
		c.b.mu.Lock()
		for i := range c.p.probes {
			if c.p.probes[i].id == c.probe {
				c.p.probes[i].answered = true
			}
		}
		c.b.mu.Unlock()
	}
}

// end counts how the call ended, once. wait is what the upstream asked for.
func (c *call) end(v Verdict, wait time.Duration) {
	if c.over {
		return
	}
	c.over = true
	if !c.timed {
		c.answered()
	}
	b, p := c.b, c.p
	switch {
	case v == Ignore:
		b.count(ignored)
	case v != Success:
		b.count(failed)
	case c.slow:
		b.count(slow)
	default:
		b.count(succeeded)
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
	if v == Success {
		_, _ = p.cb.Execute(succeed)
	} else {
		_, _ = p.cb.Execute(fail)
	}
	switch {
	case v == Trip:
		b.open(p, "a call said so", opening{})
	case p.tripped.Load():
		b.open(p, p.why(), opening{})
	case c.slow:
		b.noteSlow(p, b.fam.now())
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
