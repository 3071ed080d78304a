package balancer

import (
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"
)

// A Change is a backend's change of state.
type Change struct {
	At       time.Time
	Backend  Backend
	From, To State
	Why      string // "5 failures in a row"; empty when all is well
}

// String returns the change as one sentence without its time.
func (c Change) String() string {
	if c.Why == "" {
		return fmt.Sprintf("%s: %s, was %s", c.Backend.ID, c.To, c.From)
	}
	return fmt.Sprintf("%s: %s, was %s: %s", c.Backend.ID, c.To, c.From, c.Why)
}

// changeLog keeps the last 64 changes.
type changeLog struct {
	list [64]struct {
		at   time.Time
		text string
	}
	n int // ever noted
}

// add is called with the lock held that protects l.
func (l *changeLog) add(at time.Time, text string) {
	x := &l.list[l.n%len(l.list)]
	x.at, x.text = at, text
	l.n++
}

// changesOf yields what is in a log that mu protects, oldest first.
func changesOf(mu *sync.Mutex, log *changeLog) iter.Seq2[time.Time, string] {
	return func(yield func(time.Time, string) bool) {
		mu.Lock()
		l := *log
		mu.Unlock()
		for i := max(0, l.n-len(l.list)); i < l.n; i++ {
			if x := l.list[i%len(l.list)]; !yield(x.at, x.text) {
				return
			}
		}
	}
}

// note adds a line to the log. The caller holds b.mu.
func (b *Balancer) note(now time.Duration, text string) { b.log.add(b.base.Add(now), text) }

// maxUntold bounds the changes that wait for a hook that does not return.
const maxUntold = 4096

// noteChange is called with b.mu held; the hook is told after.
func (b *Balancer) noteChange(now time.Duration, e *Endpoint, to State, why string) {
	c := Change{At: b.base.Add(now), Backend: e.Backend(), From: e.state, To: to, Why: why}
	b.note(now, c.String())
	if b.cfg.OnChange == nil {
		return
	}
	b.tellMu.Lock()
	if len(b.untold) < maxUntold {
		b.untold = append(b.untold, c)
	} else {
		b.hookMissed.Add(1)
	}
	b.tellMu.Unlock()
}

// notePanic is called with b.mu held.
func (b *Balancer) notePanic(now time.Duration, panics bool, ready, all int) {
	if panics {
		b.note(now, fmt.Sprintf("%s: only %d of %d backends are available: using all", b.cfg.Name, ready, all))
	} else {
		b.note(now, fmt.Sprintf("%s: %d of %d backends are available: using only those", b.cfg.Name, ready, all))
	}
}

// tell calls the hook with the changes it has not been told, in order, without
// locks. If another goroutine is at it, that one goes on with ours.
func (b *Balancer) tell() {
	if b.cfg.OnChange == nil {
		return
	}
	b.tellMu.Lock()
	defer b.tellMu.Unlock()
	if b.telling {
		return
	}
	b.telling = true
	defer func() { b.telling = false }()
	for len(b.untold) > 0 {
		c := b.untold[0]
		b.untold = slices.Delete(b.untold, 0, 1)
		b.callHook(c)
	}
}

// callHook calls the hook with tellMu released, also if the hook ends its
// goroutine.
func (b *Balancer) callHook(c Change) {
	b.tellMu.Unlock()
	defer b.tellMu.Lock()
	defer func() {
		if recover() != nil {
			b.hookPanics.Add(1)
		}
	}()
	b.cfg.OnChange(c)
}

// Changes yields the last changes, at most 64, oldest first: backends that
// joined, left, and changed their state.
func (b *Balancer) Changes() iter.Seq2[time.Time, string] { return changesOf(&b.mu, &b.log) }
