package balancer

import (
	"fmt"
	"strings"
	"time"
)

// Eject says when a backend is left out because of what it answers, and for
// how long. The zero value is the defaults.
//
// A backend is only ejected if the others do better: when all fail alike,
// leaving some out helps nobody. After its time out it gets one request at a
// time, one that can be retried where possible. If that succeeds the backend
// is back, with a slow start; if not it is out for twice as long.
type Eject struct {
	// Consecutive is how many failures in a row eject, or responses in a row
	// that broke off. Default 5; a negative number turns ejection off
	// altogether.
	Consecutive int

	// Gateway is how many of the statuses 502, 503 and 504 and of transport
	// errors in a row eject. Zero or a negative number means that they are not
	// counted apart from other failures.
	Gateway int

	// Ratio is the share of failures among at least MinRequests answers in
	// about ten seconds that ejects. Default 0.5; a negative number means
	// that the ratio is not looked at.
	Ratio float64

	// MinRequests is how many answers Ratio and SlowerThan need. Default 20.
	MinRequests int

	// SlowerThan ejects a backend whose latency is more than so many times the
	// mean of the pool, and more than 100 milliseconds. Zero or a negative
	// number means that latency does not eject; [Latency] sends a slow
	// backend what it can carry, which is better than nothing.
	SlowerThan float64

	// Base and Max are how long the first ejection lasts and how long one may
	// last; each doubles the one before, unless the backend has been well for
	// more than twice as long since. They vary by up to a fifth, at random.
	// Default 5 seconds and a minute.
	Base, Max time.Duration

	// MaxShare is how much of a tier may be out at a time. One of two may
	// always be, the last one never. Default 0.5.
	MaxShare float64
}

// answered counts an answer. Gateway is whether a failure was a gateway error
// or a transport error.
func (b *Balancer) answered(l *Lease, v Verdict, gateway bool) {
	e := l.e
	now := b.now()
	e.answered(now, v)
	e.done[v].Add(1)
	if e.gone.Load() {
		b.countLate(e)
	}
	if v == Ignored {
		if l.trial {
			e.trial.Store(false)
		}
		return
	}
	e.sample(now, now-l.began, v)
	e.recent.add(now, v != Success)
	if v == Success {
		if e.failures.Load() != 0 {
			e.failures.Store(0)
		}
		if e.gateway.Load() != 0 {
			e.gateway.Store(0)
		}
		if l.trial {
			b.restore(e, now)
		} else if slow := b.cfg.Eject.SlowerThan; slow > 0 && e.slow(slow) {
			b.consider(e, now, false)
		}
		return
	}
	b.failed(e, now, gateway, l.trial)
}

// failed counts a failure of e, and ejects it if that was one too many.
func (b *Balancer) failed(e *Endpoint, now time.Duration, gateway, trial bool) {
	n := e.failures.Add(1)
	var g uint32
	if gateway {
		g = e.gateway.Add(1)
	} else {
		e.gateway.Store(0)
	}
	cfg := &b.cfg.Eject
	if cfg.Consecutive < 0 {
		if trial {
			b.restore(e, now)
		}
		return
	}
	if trial || int(n) >= cfg.Consecutive || cfg.Gateway > 0 && int(g) >= cfg.Gateway {
		b.consider(e, now, trial)
		return
	}
	if cfg.Ratio > 0 {
		if all, bad := e.recent.count(now); all >= uint64(cfg.MinRequests) && float64(bad) >= cfg.Ratio*float64(all) {
			b.consider(e, now, false)
		}
	}
}

// brokeOff counts a response that ended in the middle: a failure too, of which
// the header knew nothing.
func (b *Balancer) brokeOff(e *Endpoint) {
	now := b.now()
	e.recent.add(now, true)
	if most := b.cfg.Eject.Consecutive; most > 0 && int(e.broken.Add(1)) >= most {
		b.consider(e, now, false)
	}
}

func (e *Endpoint) slow(factor float64) bool {
	mean := e.pool.mean()
	return mean > 0 && float64(e.Latency()) > max(factor*mean, float64(100*time.Millisecond))
}

// consider ejects e if a rule says so and it stands out and there is room.
func (b *Balancer) consider(e *Endpoint, now time.Duration, trial bool) {
	b.mu.Lock()
	if trial {
		e.trial.Store(false)
		if e.out {
			b.eject(e, now, "failed on probation; before: "+strings.TrimPrefix(e.outWhy, "failed on probation; before: "))
		}
	} else if !e.out && !e.gone.Load() && (e.checkedAgain == 0 || now-e.checkedAgain > 100*time.Millisecond) {
		if why := b.verdict(e, now); why != "" {
			b.eject(e, now, why)
		} else {
			e.checkedAgain = now
		}
	}
	b.mu.Unlock()
	b.tell()
}

// verdict returns why e is to be ejected, or "". The caller holds b.mu.
func (b *Balancer) verdict(e *Endpoint, now time.Duration) string {
	tier := e.backend.Load().Tier
	members, out := 0, 0
	var others, othersBad uint64
	for _, x := range b.members {
		d := x.backend.Load()
		if d.Tier != tier || d.Drain {
			continue
		}
		members++
		if x.out {
			out++
		}
		if x != e && !x.out {
			all, bad := x.recent.count(now)
			others += all
			othersBad += bad
		}
	}
	if out >= min(max(int(b.cfg.Eject.MaxShare*float64(members)), 1), members-1) {
		return ""
	}
	cfg := &b.cfg.Eject
	all, bad := e.recent.count(now)
	ratio := float64(bad) / max(1, float64(all))
	n, g := int(e.failures.Load()), int(e.gateway.Load())
	why := ""
	switch {
	case n >= cfg.Consecutive:
		why = fmt.Sprintf("%d failures in a row", n)
		ratio = 1
	case int(e.broken.Load()) >= cfg.Consecutive:
		why = fmt.Sprintf("%d responses in a row broke off", e.broken.Load())
		ratio = 1
	case cfg.Gateway > 0 && g >= cfg.Gateway:
		why = fmt.Sprintf("%d gateway errors in a row", g)
		ratio = 1
	case cfg.Ratio > 0 && all >= uint64(cfg.MinRequests) && ratio >= cfg.Ratio:
		why = fmt.Sprintf("%d of %d answers failed", bad, all)
	case cfg.SlowerThan > 0 && all >= uint64(cfg.MinRequests) && e.slow(cfg.SlowerThan):
		return fmt.Sprintf("answers in %v, the pool in %v", e.Latency().Round(time.Millisecond),
			time.Duration(e.pool.mean()).Round(time.Millisecond))
	}
	if others > 0 && float64(othersBad)/float64(others) > ratio/2 {
		return "" // it does not stand out
	}
	return why
}

// eject leaves e out. The caller holds b.mu.
func (b *Balancer) eject(e *Endpoint, now time.Duration, why string) {
	cfg := &b.cfg.Eject
	if !e.out && e.ejections > 0 && now-e.returned > 2*e.outFor {
		e.streak = 0
	}
	e.outFor = cfg.Max
	if cfg.Base <= cfg.Max>>e.streak {
		e.outFor = cfg.Base << e.streak
	}
	e.streak++
	e.ejections++
	e.out, e.outUntil = true, now+b.vary(e.outFor, 0.2)
	e.outWhy = why
	e.warm.Store(0)
	b.rebuild(now, false)
}

// restore ends the probation of e.
func (b *Balancer) restore(e *Endpoint, now time.Duration) {
	b.mu.Lock()
	e.trial.Store(false)
	if e.out {
		e.out, e.returned = false, now
		e.failures.Store(0)
		e.gateway.Store(0)
		e.broken.Store(0)
		e.recent.reset()
		e.startWarm(now, b.cfg.SlowStart)
		b.rebuild(now, false)
	}
	b.mu.Unlock()
	b.tell()
}

// startWarm begins a slow start.
func (e *Endpoint) startWarm(now, slowStart time.Duration) {
	if slowStart > 0 {
		e.warm.Store(max(int64(now), 1))
	}
}

// ended counts the end of a request's response.
func (b *Balancer) ended(e *Endpoint) {
	if e.end() && e.gone.Load() {
		e.closeIdle()
	}
}
