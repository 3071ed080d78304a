package breaker

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sony/gobreaker/v2"
)

// probeLocked decides about a call when the gate's time is over: it moves the
// circuit on as far as time alone can, and hands out a probe if there is one.
// b.mu is held.
func (c *call) probeLocked(now int64) *OpenError {
	b := c.b
	p := b.cur.Load()
	c.start = now
	if p.state == Closed { // the ramp has ended, or another call was faster
		if p.gate.Load() == gateRamp && now >= p.ramp.to {
			p.gate.Store(gatePass)
			b.showLocked(now, "full traffic")
		}
		c.p = p
		return nil
	}
	if now < p.gate.Load() {
		return p.refusal.Load()
	}
	if p.state == Open {
		if p.cb.State() != gobreaker.StateHalfOpen { // its clock is behind ours: not in this world
			return p.refusal.Load()
		}
		p.state = HalfOpen
		b.showLocked(now, "probing")
	}
	if p = b.writeOffLocked(p, now); p.state == HalfOpen && p.hasRoom() {
		p.nextID++
		p.probes = append(p.probes, probe{id: p.nextID, lease: now + int64(b.fam.cfg.ProbeLease)})
		c.p, c.probe = p, p.nextID
		b.shutLocked(p, now)
		return nil
	}
	if p.state == Closed { // the probe that was written off was the last one needed
		c.p = p
		return nil
	}
	return p.refusal.Load()
}

// hasRoom reports whether another probe may go out: no more at once than
// configured, and no more in all than are needed.
func (p *period) hasRoom() bool {
	cfg := &p.fam.cfg
	return len(p.probes) < cfg.ProbesAtOnce && len(p.probes)+int(p.passed) < cfg.Probes
}

// shutLocked sets the gate of a half-open period: to the end of the first lease
// if there is no room for another probe. b.mu is held.
func (b *Breaker) shutLocked(p *period, now int64) {
	if p.hasRoom() {
		p.gate.Store(gateAsk)
		return
	}
	first := p.probes[0].lease
	for _, pr := range p.probes {
		first = min(first, pr.lease)
	}
	if e := p.refusal.Load(); e == nil || e.State != HalfOpen {
		p.refusal.Store(&OpenError{Name: b.fam.cfg.Name, Key: b.key, State: HalfOpen, Why: "probing"})
	}
	p.gate.Store(max(first, gateAsk))
}

// writeOffLocked settles the probes whose lease is over, and returns the
// circuit's period after that. b.mu is held.
func (b *Breaker) writeOffLocked(p *period, now int64) *period {
	for i := 0; i < len(p.probes) && p.state == HalfOpen; {
		if pr := p.probes[i]; pr.lease > now {
			i++
		} else {
			v := Failure
			if pr.answered {
				v = Success // all that is missing is the end of a long body
			}
			p = b.settleLocked(pr.id, v, now, fmt.Sprintf("a probe had no answer within %v", b.fam.cfg.ProbeLease), 0)
		}
	}
	return p
}

// settleLocked takes a probe's outcome, and returns the circuit's period after
// that. It does nothing about a probe that was written off. b.mu is held.
func (b *Breaker) settleLocked(id uint32, v Verdict, now int64, why string, wait time.Duration) *period {
	p := b.cur.Load()
	at := -1
	for i, pr := range p.probes {
		if pr.id == id {
			at = i
		}
	}
	if at < 0 {
		return p
	}
	p.probes = append(p.probes[:at], p.probes[at+1:]...)
	switch v {
	case Failure, Trip:
		_, _ = p.cb.Execute(fail)
		return b.openLocked(now, why, opening{grow: true})
	case Ignore:
		if wait > 0 {
			return b.openLocked(now, "the upstream asks to wait", opening{})
		}
	default:
		_, _ = p.cb.Execute(succeed)
		p.passed++
		if p.cb.State() == gobreaker.StateClosed {
			b.closeLocked(p, now)
			return p
		}
	}
	b.shutLocked(p, now)
	return p
}

// closeLocked follows gobreaker into its closed state. b.mu is held.
func (b *Breaker) closeLocked(p *period, now int64) {
	p.state, p.probes, b.closed = Closed, nil, now
	p.good.reset(now, int64(b.fam.cfg.Window/steps))
	why := fmt.Sprintf("%d probes succeeded", p.passed)
	if p.passed == 1 {
		why = "a probe succeeded"
	}
	if d := int64(b.fam.cfg.Ramp); d > 0 {
		p.ramp = ramp{from: now, to: now + d}
		p.refusal.Store(&OpenError{Name: b.fam.cfg.Name, Key: b.key, State: Recovering, Why: "recovering"})
		p.gate.Store(gateRamp)
	} else {
		p.gate.Store(gatePass)
	}
	b.showLocked(now, why)
}

// probeAnswered notes that a probe was answered in time, and lacks only the end
// of its body.
func (b *Breaker) probeAnswered(c *call) {
	b.mu.Lock()
	for i := range c.p.probes {
		if c.p.probes[i].id == c.probe {
			c.p.probes[i].answered = true
		}
	}
	b.mu.Unlock()
}

// admits lets pass a share that grows from a tenth at r.from to all at r.to.
func (r *ramp) admits(now int64) bool {
	return rand.Float64() < 0.1+0.9*float64(now-r.from)/float64(r.to-r.from)
}
