package breaker

import (
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"
)

// A Change is a change of one circuit's state.
type Change struct {
	At       time.Time
	Name     string // Config.Name
	Key      string // of the circuit; "" for the Breaker's own
	From, To State
	Why      string // "12 of 20 calls failed"
}

// String returns one plain sentence: "inventory: opened: 12 of 20 calls failed".
func (c Change) String() string {
	verb := [...]string{Closed: "closed", Recovering: "recovering", HalfOpen: "half-open", Open: "opened"}[c.To]
	return fmt.Sprintf("%s: %s: %s", subject(c.Name, c.Key), verb, c.Why)
}

// events remembers the last changes, and hands them to OnChange in order.
type events struct {
	mu         sync.Mutex // guards what follows; taken after any Breaker.mu
	recent     [64]Change
	n          int // changes so far
	pending    []Change
	delivering bool

	panics atomic.Uint64
	missed atomic.Uint64
}

// maxPending bounds the changes that wait for a hook that doesn't return.
const maxPending = 4096

// showLocked reports the circuit's state if it isn't what was reported last.
// b.mu is held.
func (b *Breaker) showLocked(now int64, why string) {
	p := b.cur.Load()
	s := p.state
	if s == Closed && p.gate.Load() == gateRamp {
		s = Recovering
	}
	if fo := b.force.Load(); fo != nil {
		s = fo.state
	}
	if s == b.shown {
		return
	}
	f := b.fam
	c := Change{Name: f.cfg.Name, Key: b.key, From: b.shown, To: s, At: f.at(now), Why: why}
	b.shown = s
	if !b.retired.Load() {
		f.inState[c.From].Add(-1)
		f.inState[c.To].Add(1)
	}
	f.moves[c.From][c.To].Add(1)

	e := &f.events
	e.mu.Lock()
	e.recent[e.n%len(e.recent)] = c
	e.n++
	switch {
	case f.cfg.OnChange == nil:
	case len(e.pending) < maxPending:
		e.pending = append(e.pending, c)
	default:
		e.missed.Add(1)
	}
	e.mu.Unlock()
}

// deliver calls OnChange for the changes that wait, unless that is being done
// already, perhaps further up this goroutine's stack. No lock may be held.
func (f *family) deliver() {
	if f.cfg.OnChange == nil {
		return
	}
	e := &f.events
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.delivering {
		return
	}
	e.delivering = true
	defer func() { e.delivering = false }() // also if the hook calls Goexit
	for len(e.pending) > 0 {
		c := e.pending[0]
		e.pending = e.pending[1:]
		f.callHook(c)
	}
	e.pending = nil
}

// callHook calls OnChange with events.mu released.
func (f *family) callHook(c Change) {
	f.events.mu.Unlock()
	defer f.events.mu.Lock()
	defer func() {
		if recover() != nil {
			f.events.panics.Add(1)
		}
	}()
	f.cfg.OnChange(c)
}

// Changes yields the last changes, at most 64, oldest first, each with one plain
// sentence about it.
func (b *Breaker) Changes() iter.Seq2[time.Time, string] {
	return func(yield func(time.Time, string) bool) {
		e := &b.fam.events
		e.mu.Lock()
		n, recent := e.n, e.recent
		e.mu.Unlock()
		for i := max(0, n-len(recent)); i < n; i++ {
			c := recent[i%len(recent)]
			if b != b.fam.root && c.Key != b.key {
				continue
			}
			if !yield(c.At, c.String()) {
				return
			}
		}
	}
}

// maxConditions bounds the circuits that Conditions names.
const maxConditions = 64

// Conditions yields what isn't normal right now: the subject, and one sentence.
// It yields nothing when every circuit is closed and nothing is forced. Of many
// circuits it names the first 64, and counts the others.
func (b *Breaker) Conditions() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		f := b.fam
		if f.dryRun.Load() && !yield(f.cfg.Name, "dry run: no call is refused") {
			return
		}
		f.share.mu.Lock()
		err := f.share.lastErr
		f.share.mu.Unlock()
		if err != nil && !yield(f.cfg.Name, "the store fails, every process decides for itself: "+err.Error()) {
			return
		}
		now, n := f.now(), 0
		for c := range b.circuits() {
			text := c.condition(now)
			if text == "" {
				continue
			}
			if n++; n <= maxConditions && !yield(subject(f.cfg.Name, c.key), text) {
				return
			}
		}
		if n > maxConditions {
			yield(f.cfg.Name, fmt.Sprintf("and %d circuits more", n-maxConditions))
		}
	}
}

// condition says what isn't normal about one circuit, or "".
func (b *Breaker) condition(now int64) string {
	b.releaseExpired(now)
	b.mu.Lock()
	defer b.mu.Unlock()
	p, fo := b.cur.Load(), b.force.Load()
	switch e := p.refusal.Load(); {
	case fo != nil:
		return fo.describe(b.fam)
	case b.shown == Closed:
		return ""
	case b.shown == Open && now >= p.gate.Load():
		return "open, the next call will be a probe: " + e.Why
	case b.shown == Open:
		return "open until " + e.Until.UTC().Format(time.TimeOnly+"Z") + ": " + e.Why
	case b.shown == HalfOpen:
		return fmt.Sprintf("half-open: %d of %d probes succeeded, %d in flight", p.passed, b.fam.cfg.Probes, len(p.probes))
	}
	return "recovering until " + b.fam.at(p.ramp.to).UTC().Format(time.TimeOnly+"Z")
}

// circuits yields b and, if it is the Breaker that New returned, the circuits of
// all keys.
func (b *Breaker) circuits() iter.Seq[*Breaker] {
	return func(yield func(*Breaker) bool) {
		if !yield(b) || b != b.fam.root {
			return
		}
		for _, c := range b.fam.all() {
			if !yield(c) {
				return
			}
		}
	}
}
