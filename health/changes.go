package health

import (
	"iter"
	"strings"
	"time"
)

// A Change is a change of the status of a check or a group, or a new phase.
type Change struct {
	At time.Time

	// Subject is the name of a check, or "live", "ready", "startup", "phase".
	Subject string

	// From and To are statuses, or phases if Subject is "phase".
	From, To string

	// Reason says why, in words that may be shown. It may be empty.
	Reason string

	// Err is what the probe of a check returned, or nil. Its text may hold
	// what should not be shown. After a panic it holds the stack.
	Err error
}

// String returns a sentence such as "db: fail: timeout (was pass)".
func (c Change) String() string {
	s := c.Subject + ": " + c.To
	if c.Reason != "" {
		s += ": " + c.Reason
	}
	return s + " (was " + c.From + ")"
}

// A ring holds the last changes.
type ring struct {
	buf  [64]Change
	next int
	n    int
}

func (r *ring) add(c Change) {
	r.buf[r.next] = c
	r.next = (r.next + 1) % len(r.buf)
	r.n = min(r.n+1, len(r.buf))
}

// list returns the changes, oldest first.
func (r *ring) list() []Change {
	out := make([]Change, 0, r.n)
	for i := range r.n {
		out = append(out, r.buf[(r.next-r.n+i+len(r.buf))%len(r.buf)])
	}
	return out
}

// maxQueue bounds the changes that wait for a hook that does not return.
const maxQueue = 4096

// changeLocked notes a change, and queues it for OnChange if there is one. It
// requires that h.mu be held.
func (h *Checker) changeLocked(c Change) {
	h.ring.add(c)
	switch {
	case h.cfg.OnChange == nil:
	case len(h.queue) < maxQueue:
		h.queue = append(h.queue, c)
	default:
		h.hookMissed.Add(1)
	}
}

// deliver calls OnChange with what is queued, unless another goroutine is at
// it: that one delivers these too, which keeps the order.
func (h *Checker) deliver() {
	if h.cfg.OnChange == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.delivering {
		return
	}
	h.delivering = true
	for len(h.queue) > 0 {
		c := h.queue[0]
		h.queue = h.queue[1:]
		h.callHook(c)
	}
	h.delivering, h.queue = false, nil
}

// callHook calls OnChange with h.mu released, and waits for it. The call has a
// goroutine of its own: one that the hook ends must not be the loop of a check.
func (h *Checker) callHook(c Change) {
	h.mu.Unlock()
	defer h.mu.Lock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() {
			if recover() != nil {
				h.hookPanics.Add(1)
			}
		}()
		h.cfg.OnChange(c)
	}()
	<-ended
}

// Changes returns the last changes, at most 64, oldest first, as one sentence
// each.
func (h *Checker) Changes() iter.Seq2[time.Time, string] {
	return func(yield func(time.Time, string) bool) {
		h.mu.Lock()
		changes := h.ring.list()
		h.mu.Unlock()
		for _, c := range changes {
			if !yield(c.At, c.String()) {
				return
			}
		}
	}
}

// Conditions returns what is not normal right now: a subject and a sentence
// each.
func (h *Checker) Conditions() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, c := range h.conditions() {
			if !yield(c[0], c[1]) {
				return
			}
		}
	}
}

func (h *Checker) conditions() (out [][2]string) {
	h.load()
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch p := Phase(h.phase.Load()); p {
	case Serving:
	case Draining:
		out = append(out, [2]string{"service", "draining: not ready, still serving"})
	default:
		out = append(out, [2]string{"service", p.String()})
	}
	if h.inMaint {
		out = append(out, [2]string{"service", strings.TrimSuffix("in maintenance: "+h.maintenance, ": ")})
	}
	if !h.started {
		text := "starting: waits for " + h.groups[2].reasons
		if h.runCtx == nil {
			text = "not started: nothing runs the checks; call Run, Serve or ListenAndServe"
		}
		out = append(out, [2]string{"service", text})
	}
	for _, c := range h.checks {
		switch s := c.effective(); {
		case c.stale:
			out = append(out, [2]string{c.name, h.reasonLocked(c, now)})
		case s == Fail:
			text := "failing since " + c.since.UTC().Format(time.TimeOnly) + "Z: " + h.reasonLocked(c, now)
			if c.escalated {
				text += "; counts as not alive"
			}
			out = append(out, [2]string{c.name, text})
		case s == Warn:
			out = append(out, [2]string{c.name, "degraded since " + c.since.UTC().Format(time.TimeOnly) + "Z: " + h.reasonLocked(c, now)})
		}
	}
	return out
}
