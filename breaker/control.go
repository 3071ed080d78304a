package breaker

import "time"

// A force overrides what a circuit decides.
type force struct {
	state State // Open or Closed
	until int64 // 0: for good
	no    *OpenError
	why   string
}

func (f *force) describe(fam *family) string {
	s := "forced " + f.state.String()
	if f.until != 0 {
		s += " until " + fam.at(f.until).UTC().Format(time.TimeOnly+"Z")
	}
	return s + ": " + f.why
}

// ForceOpen refuses every call for d, or until [Breaker.Release] if d isn't
// positive. why is for people: it is part of the refusals and changes. On the
// Breaker that New returned it speaks for every key. Afterwards the circuit
// goes on where it was.
func (b *Breaker) ForceOpen(d time.Duration, why string) { b.setForce(Open, d, why) }

// ForceClosed lets every call through for d, or until [Breaker.Release] if d
// isn't positive, and counts them in Stats alone. On the Breaker that New
// returned it speaks for every key. Afterwards the circuit goes on where it was.
func (b *Breaker) ForceClosed(d time.Duration, why string) { b.setForce(Closed, d, why) }

// Release ends a ForceOpen or ForceClosed.
func (b *Breaker) Release() {
	b.mu.Lock()
	b.releaseLocked(b.fam.now(), "released")
	b.mu.Unlock()
	b.fam.deliver()
}

// SetDryRun switches between refusing calls and only deciding, counting and
// reporting what would be refused. It may be called while serving.
func (b *Breaker) SetDryRun(on bool) { b.fam.dryRun.Store(on) }

// Reset closes the circuit, ends what is forced, and forgets what it has
// counted; the totals in Stats go on. On the Breaker that New returned it does
// so for every key.
func (b *Breaker) Reset() {
	for c := range b.circuits() {
		c.mu.Lock()
		now := c.fam.now()
		c.cur.Store(newPeriod(c.fam, c.fam.cfg.OpenFor))
		c.level, c.closed, c.notice = 0, now-int64(c.fam.cfg.Window), notice{}
		c.releaseLocked(now, "reset")
		c.showLocked(now, "reset")
		c.mu.Unlock()
	}
	b.fam.deliver()
}

func (b *Breaker) setForce(s State, d time.Duration, why string) {
	f := b.fam
	b.mu.Lock()
	for b.retired.Load() { // the caller has kept it for too long
		b.mu.Unlock()
		b = f.find(b.key, f.now())
		b.mu.Lock()
	}
	now := f.now()
	fo := &force{state: s, why: why, no: &OpenError{Name: f.cfg.Name, Key: b.key, State: Open, Why: "forced open: " + why}}
	if d > 0 {
		fo.until = now + int64(min(d, maxTime))
		fo.no.Until = f.at(fo.until)
	}
	if b.force.Swap(fo) == nil {
		f.forced.Add(1)
	}
	b.showLocked(now, "forced "+s.String()+": "+why)
	b.mu.Unlock()
	f.deliver()
}

// releaseLocked ends what is forced, if anything. b.mu is held.
func (b *Breaker) releaseLocked(now int64, why string) {
	if b.force.Swap(nil) != nil {
		b.fam.forced.Add(-1)
		b.showLocked(now, why)
	}
}

// forcedNow returns what b, or the Breaker that it is a circuit of, is forced
// to, or nil.
func (b *Breaker) forcedNow(now int64) *force {
	for _, c := range [...]*Breaker{b.fam.root, b} {
		fo := c.force.Load()
		if fo == nil {
			continue
		}
		if fo.until == 0 || now < fo.until {
			return fo
		}
		c.mu.Lock()
		if c.force.Load() == fo {
			c.releaseLocked(now, "no longer forced "+fo.state.String())
		}
		c.mu.Unlock()
		c.fam.deliver()
	}
	return nil
}

// releaseExpired ends what b is forced to if its time is over.
func (b *Breaker) releaseExpired(now int64) {
	if b.force.Load() != nil {
		b.forcedNow(now)
	}
}

// enterForced is enter for when some circuit of the family is forced.
func (c *call) enterForced(now int64) *OpenError {
	b := c.b
	fo := b.forcedNow(now)
	switch {
	case fo == nil:
		return c.ask(b.cur.Load(), now)
	case fo.state == Open:
		return c.refuse(fo.no)
	}
	if b.cur.Load().gate.Load() != gatePass {
		b.count(spared)
	}
	return nil
}
