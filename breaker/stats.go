package breaker

import "time"

// Stats is what a [Breaker] has seen since it was made, and how it stands.
type Stats struct {
	State State
	Why   string    // why it isn't closed, after the key if it is a key's; "" if it is closed
	Until time.Time // when the next probe may go out; zero unless open

	// Calls that ended, and calls that were refused. Of the Breaker that New
	// returned these are the sums over all keys, those forgotten included.
	Succeeded uint64 // in time
	Slow      uint64 // succeeded, but past the slow mark
	Failed    uint64
	Ignored   uint64 // counted as nothing
	Refused   uint64
	Spared    uint64 // let through only because of DryRun or ForceClosed
	Opened    uint64 // times that a circuit opened

	// The rolling window of this circuit alone, as far as it decides.
	WindowCalls, WindowFailed, WindowSlow int

	Keys       int    // circuits held, without the Breaker's own
	Evicted    uint64 // circuits forgotten for want of room
	HookPanics uint64 // panics in OnChange
	HookMissed uint64 // changes that OnChange was never told, since it didn't return

	// LastFailure is the last call that counted as a failure.
	LastFailure LastFailure
}

// Stats returns the numbers so far. Of the Breaker that New returned it visits
// every circuit, so it is for a page or a scrape, not for each request.
func (b *Breaker) Stats() Stats {
	f := b.fam
	var s Stats
	worst := Closed
	now := f.now()
	for c := range b.circuits() {
		c.releaseExpired(now)
		c.mu.Lock()
		if c.last != nil && c.last.At.After(s.LastFailure.At) {
			s.LastFailure = *c.last
		}
		p, shown, force := c.cur.Load(), c.shown, c.force.Load()
		c.mu.Unlock()
		if c != b {
			s.Keys++
		} else {
			s.WindowCalls, s.WindowFailed, s.WindowSlow = p.window(f.now())
		}
		if shown > worst || c == b {
			worst = shown
			s.Why, s.Until = "", time.Time{}
			switch e := p.refusal.Load(); {
			case force != nil:
				s.Why, s.Until = force.no.Why, force.no.Until
				if force.state == Closed {
					s.Why, s.Until = "forced closed: "+force.why, time.Time{}
				}
			case shown == Open:
				s.Why, s.Until = e.Why, e.Until
			case shown != Closed:
				s.Why = shown.String()
			}
			if c != b && s.Why != "" {
				s.Why = c.key + ": " + s.Why
			}
		}
		if c == f.root && force != nil { // it speaks for every key
			s.State = shown
			worst = numStates
		}
	}
	if worst < numStates {
		s.State = worst
	}
	var sum [numOutcomes]uint64
	if b == f.root {
		sum = f.keys.sums()
		s.Evicted = f.evicted.Load()
		s.HookPanics, s.HookMissed = f.events.panics.Load(), f.events.missed.Load()
	}
	for o := range sum {
		sum[o] += b.counts[o].Load()
	}
	s.Succeeded, s.Slow, s.Failed, s.Ignored = sum[succeeded], sum[slow], sum[failed], sum[ignored]
	s.Refused, s.Spared, s.Opened = sum[refused], sum[spared], sum[opened]
	return s
}

// window returns what the rolling window holds.
func (p *period) window(now int64) (calls, failed, slow int) {
	p.slow.mu.Lock()
	var ended, late uint32
	if p.slow.window != nil {
		ended, late = p.slow.window.sums(now)
	}
	p.slow.mu.Unlock()
	all, bad := p.ended(now)
	return int(all + late), int(bad), int(ended + late)
}

// ended returns how many calls of the window have ended, and how many failed.
func (p *period) ended(now int64) (calls, failed uint32) {
	p.cb.State() // rolls the window, which Counts alone does not
	failed = p.cb.Counts().TotalFailures
	return p.good.sum(now) + failed, failed
}

// Collect emits the breaker's metrics, in the shape that package health and
// Prometheus want: labels are alternating names and values. No label holds a
// key.
func (b *Breaker) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	f := b.fam
	name := f.cfg.Name
	s := f.root.Stats()

	states := [...]string{Closed: "closed", Recovering: "recovering", HalfOpen: "half_open", Open: "open"}
	for state, label := range states {
		v := 0.0
		if s.State == State(state) {
			v = 1
		}
		emit("spillway_breaker_state", "1 for the worst state of the breaker's circuits.", "gauge", v, "breaker", name, "state", label)
	}
	for state, label := range states {
		emit("spillway_breaker_circuits", "Circuits by state, one per key and the breaker's own.", "gauge",
			float64(f.inState[state].Load()), "breaker", name, "state", label)
	}
	for _, o := range [...]struct {
		label string
		n     uint64
	}{{"success", s.Succeeded}, {"slow", s.Slow}, {"failure", s.Failed}, {"ignored", s.Ignored}, {"rejected", s.Refused}} {
		emit("spillway_breaker_requests_total", "Calls by how they ended.", "counter", float64(o.n), "breaker", name, "outcome", o.label)
	}
	emit("spillway_breaker_spared_total", "Calls let through only because of a dry run or because forced closed.", "counter", float64(s.Spared), "breaker", name)
	for from := range states {
		for to := range states {
			if from != to {
				emit("spillway_breaker_transitions_total", "Changes of a circuit's state.", "counter",
					float64(f.moves[from][to].Load()), "breaker", name, "from", states[from], "to", states[to])
			}
		}
	}
	until := 0.0
	if !s.Until.IsZero() {
		until = float64(s.Until.UnixMilli()) / 1000
	}
	emit("spillway_breaker_open_until_timestamp_seconds", "When the next probe may go out, 0 if not open.", "gauge", until, "breaker", name)
	emit("spillway_breaker_evictions_total", "Circuits forgotten for want of room.", "counter", float64(s.Evicted), "breaker", name)
	emit("spillway_breaker_hook_panics_total", "Panics in OnChange.", "counter", float64(s.HookPanics), "breaker", name)
	emit("spillway_breaker_hook_missed_total", "Changes that OnChange was never told, because it didn't return.", "counter", float64(s.HookMissed), "breaker", name)
	emit("spillway_breaker_store_errors_total", "Calls of the Store that failed.", "counter", float64(f.share.errors.Load()), "breaker", name)
}
