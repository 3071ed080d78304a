package ratelimit

import (
	"context"
	"time"
)

// A Decision is the answer to one request.
type Decision struct {
	// Allowed says whether the request may go on. Only then was it charged.
	Allowed bool

	// DryRun says that Allowed would be false if Config.DryRun were not set.
	DryRun bool

	// Degraded says that the Store did not answer; see Config.Outage.
	Degraded bool

	// Remaining is how many tokens are left under the rate that decided.
	Remaining int

	// RetryAfter is when the same request would pass if nobody else drew from
	// the bucket. Zero if it was allowed, Never if its cost exceeds the burst.
	RetryAfter time.Duration

	by   *limit // a pointer, so that a Decision is returned in registers
	debt int64  // ticks
}

// FullAfter returns when the bucket of the rate that decided will be full.
func (d Decision) FullAfter() time.Duration { return ticksToDuration(d.debt) }

// Policy returns the name of the rate that decided: the one that refused, or
// has the fewest tokens left.
func (d Decision) Policy() string {
	if d.by == nil {
		return ""
	}
	return d.by.policy
}

// Rate returns that rate, with its Burst filled in.
func (d Decision) Rate() Rate {
	if d.by == nil {
		return Rate{}
	}
	return d.by.rate
}

// Never is the RetryAfter of a request that costs more than its bucket holds.
const Never = time.Duration(1<<63 - 1)

// decide answers a and counts the answer. It returns an error only if ctx ended
// while a waited for its turn.
func (l *Limiter) decide(ctx context.Context, a *ask) error {
	if l.maxWait > 0 && a.n > 0 {
		if err := l.decideWaiting(ctx, a); err != nil {
			return err
		}
	} else {
		l.once(ctx, a)
	}
	l.count(a.allowed, a.degraded, a.keys[0])
	return nil
}

// count counts a decision.
func (l *Limiter) count(allowed, degraded bool, key string) {
	c := l.counts.mine()
	switch {
	case allowed && !degraded:
		c.allowed.Add(1)
		return
	case allowed && l.cfg.Outage == LetPass:
		c.failedOpen.Add(1)
		return
	case allowed:
		c.allowed.Add(1)
		return
	case l.cfg.DryRun:
		c.dry.Add(1)
	case degraded && l.cfg.Outage == RefuseAll:
		c.failedClosed.Add(1)
		return
	default:
		c.refused.Add(1)
	}
	l.refused.add(key)
}

// once answers a without waiting for tokens.
func (l *Limiter) once(ctx context.Context, a *ask) {
	switch {
	case l.shared != nil:
		l.decideShared(ctx, a)
	case a.n == 0:
		l.mem.Load().charge(a)
	default:
		l.mem.Load().take(a)
	}
}

// decision makes a's answer presentable.
func (l *Limiter) decision(a *ask) Decision {
	wait := a.wait
	if a.allowed {
		wait = 0
	}
	return l.verdict(a.limits[a.by], a.debts[a.by], wait, a.degraded)
}

// verdict makes a Decision of what lim says: the bucket is debt ticks from
// full, and if wait is positive the request is refused for so long.
func (l *Limiter) verdict(lim *limit, debt, wait int64, degraded bool) Decision {
	d := Decision{
		Allowed:   wait <= 0,
		Degraded:  degraded,
		by:        lim,
		Remaining: lim.remaining(debt),
		debt:      debt,
	}
	if wait > 0 {
		d.RetryAfter = Never
		if wait != never {
			d.RetryAfter = ticksToDuration(wait)
		}
		if l.cfg.DryRun {
			d.Allowed, d.DryRun = true, true
		}
	}
	return d
}
