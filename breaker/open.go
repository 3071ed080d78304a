package breaker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// ErrOpen matches, with [errors.Is], every refusal by a [Breaker].
var ErrOpen = errors.New("breaker: open")

// An OpenError is a refusal. It is shared by the calls that are refused, so it
// must not be changed.
type OpenError struct {
	Name  string    // Config.Name
	Key   string    // of the circuit; "" for the Breaker's own
	State State     // Open; HalfOpen while probes are out; Recovering
	Why   string    // "12 of 20 calls failed"
	Until time.Time // when the next probe may go out; zero unless Open
}

// Error says which breaker refused, why, and until when.
func (e *OpenError) Error() string {
	s := "breaker: " + subject(e.Name, e.Key) + " is " + e.State.String()
	if !e.Until.IsZero() {
		s += " until " + e.Until.UTC().Format(time.RFC3339)
	}
	return s + ": " + e.Why
}

func subject(name, key string) string {
	if key == "" {
		return name
	}
	return name + " " + key
}

// Is reports whether target is [ErrOpen].
func (e *OpenError) Is(target error) bool { return target == ErrOpen }

// RetryAfter returns how long it is from now until the next probe: what is left
// of the open time, a second while probes are out or traffic recovers, or a
// minute if it was forced open without an end.
func (e *OpenError) RetryAfter() time.Duration {
	switch {
	case e.State != Open:
		return time.Second
	case e.Until.IsZero(): // forced open for good
		return time.Minute
	}
	return max(0, time.Until(e.Until))
}

// tooSlowLocked says why the slow calls of p are too many, or "" if they
// aren't. p.slow.mu is held.
func (p *period) tooSlowLocked(w *slowWindow, now int64) string {
	cfg := &p.fam.cfg
	slow, late := w.sums(now)
	calls, _ := p.ended(now)
	all := max(calls, slow) + late
	if int64(all) < int64(cfg.MinCalls) || float64(slow+late)/float64(all) < cfg.SlowRatio {
		return ""
	}
	why := fmt.Sprintf("%d of %d calls took longer than %v", slow+late, all, cfg.SlowCall)
	if late > 0 {
		why += fmt.Sprintf(", %d of them still running", late)
	}
	return why
}

// An opening is how a circuit opens, besides the rule.
type opening struct {
	grow  bool  // a probe failed
	until int64 // a peer's word, instead of a time of our own
}

// open opens the circuit if p, a closed period, is still its current one.
func (b *Breaker) open(p *period, why string, o opening) {
	b.mu.Lock()
	if b.cur.Load() == p && p.state == Closed {
		b.openLocked(b.fam.now(), why, o)
	}
	b.mu.Unlock()
	b.fam.deliver()
}

// openLocked replaces the current period by an open one. b.mu is held.
func (b *Breaker) openLocked(now int64, why string, o opening) *period {
	f := b.fam
	old := b.cur.Load()
	wait := time.Duration(o.until - now)
	if o.until == 0 {
		switch {
		case o.grow:
			b.level++
		case old.state == Closed && now-b.closed < int64(f.cfg.Window):
			b.level++ // it closed only just now
		case old.state == Closed:
			b.level = 0
		}
		wait = f.openTime(b.level)
	}
	if n := b.notice; n.until > now && now-n.at <= int64(f.cfg.Window) {
		asked := time.Duration(n.until - now)
		wait = max(wait, asked+time.Duration(f.cfg.Jitter*rand.Float64()*float64(asked)))
	}
	wait = max(wait, time.Millisecond)

	p := newOpenPeriod(f, wait)
	until := f.now() + int64(wait) // read after gobreaker has read its clock
	p.state = Open
	p.refusal.Store(&OpenError{Name: f.cfg.Name, Key: b.key, State: Open, Why: why, Until: f.at(until)})
	p.gate.Store(until)
	b.cur.Store(p)
	b.count(opened)
	b.showLocked(now, why)
	if o.until == 0 && !f.dryRun.Load() {
		f.announce(b.key, f.at(until), why)
	}
	return p
}

// openTime returns OpenFor, doubled level times, at most MaxOpen, jittered.
func (f *family) openTime(level int) time.Duration {
	d := f.cfg.OpenFor
	for range level {
		if d >= f.cfg.MaxOpen/2 {
			d = f.cfg.MaxOpen
			break
		}
		d *= 2
	}
	return d - time.Duration(f.cfg.Jitter*rand.Float64()*float64(d))
}

// A notice is what an upstream said in Retry-After.
type notice struct{ at, until int64 }

func (b *Breaker) noteWait(wait time.Duration) {
	b.mu.Lock()
	b.noteWaitLocked(b.fam.now(), wait)
	b.mu.Unlock()
}

// noteWaitLocked remembers what the upstream asks for, and keeps a circuit that
// is open already open for that long. b.mu is held.
func (b *Breaker) noteWaitLocked(now int64, wait time.Duration) {
	f := b.fam
	wait = min(wait, f.cfg.MaxRetryAfter)
	until := now + int64(wait)
	if wait <= 0 || until <= b.notice.until && now-b.notice.at <= int64(f.cfg.Window) {
		return
	}
	b.notice = notice{at: now, until: until}
	if p := b.cur.Load(); p.state == Open && p.gate.Load() < until {
		e := *p.refusal.Load()
		e.Until = f.at(until)
		p.refusal.Store(&e)
		p.gate.Store(until)
	}
}
