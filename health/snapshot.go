package health

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A snapshot is what the probes answer. It does not change after it is made.
type snapshot struct {
	until   int64 // nanoseconds since epoch; from then on time alone has changed the answer
	answers [groupCount]answer
}

// An answer is what the public form of one probe says, ready to be written.
type answer struct {
	status Status
	code   int
	body   []byte
	length []string // Content-Length
}

// A groupState is the status of a group as of the last render.
type groupState struct {
	status  Status
	notes   []string // public
	reasons string   // names of what is wrong, not public
	since   time.Time
	changes uint64
}

// load returns the current snapshot. It is one atomic load, unless a deadline
// has passed since the last one was made: staleness is judged here, so that a
// scheduler that died is seen too.
func (h *Checker) load() *snapshot { return h.loadAt(h.now()) }

// loadAt is load for a caller that has read the clock.
func (h *Checker) loadAt(now int64) *snapshot {
	s := h.snap.Load()
	if now < s.until {
		return s
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s = h.snap.Load(); h.now() >= s.until {
		// Changes are queued but not delivered: a hook must not run on the
		// goroutine of a probe.
		s = h.renderLocked(time.Now())
	}
	return s
}

// now is the time since epoch, by the monotonic clock, which is the cheap one.
func (h *Checker) now() int64 { return int64(time.Since(h.epoch)) }

// renderLocked works out the groups as of now and makes the snapshot. It
// requires that h.mu be held.
func (h *Checker) renderLocked(now time.Time) *snapshot {
	until := time.Duration(math.MaxInt64)
	from := func(t time.Time) { // the answer changes at t
		if d := t.Sub(h.epoch); t.After(now) {
			until = min(until, d)
		}
	}
	var groups [groupCount]groupState
	for i := range groups {
		groups[i].status = Pass
	}
	var pending []string
	for _, c := range h.checks {
		h.ageLocked(c, now, from)
		if c.waitsForStart() {
			pending = append(pending, c.name)
		}
		for i := range groups {
			g, s := &groups[i], c.countsLocked(i)
			g.status = max(g.status, s)
			if s > Pass {
				g.reasons = strings.TrimPrefix(g.reasons+", "+c.name, ", ")
			}
		}
	}
	h.started = h.started || len(pending) == 0
	fail := func(g *groupState, note string) {
		g.status = Fail
		g.notes = append(g.notes, note)
	}
	if !h.started {
		fail(&groups[2], "starting")
		fail(&groups[1], "starting")
		groups[2].reasons, groups[1].reasons = strings.Join(pending, ", "), strings.Join(pending, ", ")
	}
	if h.inMaint {
		fail(&groups[1], "maintenance")
	}
	if Phase(h.phase.Load()) != Serving {
		fail(&groups[1], "draining")
	}

	s := &snapshot{until: int64(until)}
	for i := range groups {
		g, old := &groups[i], &h.groups[i]
		g.since, g.changes = old.since, old.changes
		if g.status != old.status {
			g.since = now
			// The state that a Checker is born with is no change.
			if old.status != Unknown {
				g.changes++
				h.changeLocked(Change{
					At: now, Subject: groupNames[i], From: old.status.String(), To: g.status.String(),
					Reason: strings.TrimSuffix(strings.Join(append(slices.Clone(g.notes), g.reasons), ", "), ", "),
				})
			}
		}
		*old = *g
		s.answers[i] = newAnswer(g)
	}
	h.snap.Store(s)
	return s
}

// ageLocked applies what time alone does to c: a result goes stale, a failure
// escalates. It calls from with the time of the next such change.
func (h *Checker) ageLocked(c *check, now time.Time, from func(time.Time)) {
	was := c.stale
	c.stale = false
	if !c.finished() {
		expires := c.lastResult.Add(c.cfg.MaxAge)
		from(expires)
		c.stale = !now.Before(expires)
	}
	if c.stale != was {
		c.changes++
		change := Change{At: now, Subject: c.name, From: c.status.String(), To: c.effective().String()}
		if c.stale {
			change.Reason = h.reasonLocked(c, now)
		} else {
			change.From = Unknown.String()
		}
		if change.From != change.To {
			h.changeLocked(change)
		}
	}
	c.escalated = false
	if c.cfg.EscalateAfter > 0 && (c.stale || c.status == Fail) {
		bad := c.since
		if c.status != Fail {
			bad = c.lastResult.Add(c.cfg.MaxAge)
		}
		at := bad.Add(c.cfg.EscalateAfter)
		from(at)
		c.escalated = !now.Before(at)
	}
}

// countsLocked is what the status of c means for group i as of the last
// render. Startup is latched, so no status counts for it.
func (c *check) countsLocked(i int) Status {
	g := Group(1) << i
	switch {
	case c.cfg.Informational || g == Startup:
		return Pass
	case g == Live && c.escalated:
		return Fail
	case c.cfg.Groups&g == 0:
		return Pass
	}
	s := c.status
	if c.stale {
		s = Fail
	}
	if s == Fail && (c.cfg.Optional || c.cfg.Shared && g == Ready) {
		return Warn
	}
	return max(Pass, s) // without a result yet, it is the startup that waits
}

// effective is the status of c as of the last render.
func (c *check) effective() Status {
	if c.stale {
		return Unknown
	}
	return c.status
}

// finished reports whether c is not run any more because it has passed.
func (c *check) finished() bool { return c.cfg.Groups == Startup && c.status.ok() }

// waitsForStart reports whether the service has not started yet because of c:
// because c has no result at all, or counts for startup and has not passed.
func (c *check) waitsForStart() bool {
	if c.cfg.Informational {
		return false
	}
	if c.cfg.Groups&Startup != 0 && !c.cfg.Optional {
		return c.lastPass.IsZero()
	}
	return c.runs == [outcomeCount]uint64{}
}

// reasonLocked is what may be said of c as of the last render.
func (h *Checker) reasonLocked(c *check, now time.Time) string {
	switch {
	case !c.stale && c.status == Unknown && h.runCtx == nil:
		return "no result yet: nothing runs the checks; call Run, Serve or ListenAndServe"
	case !c.stale && c.status == Unknown:
		return "no result yet"
	case !c.stale:
		return c.reason
	case c.status == Unknown:
		return "stale: no result in " + seconds(now.Sub(c.lastResult))
	}
	return "stale: last result " + seconds(now.Sub(c.lastResult)) + " ago"
}

// newAnswer renders the public form of a group.
func newAnswer(g *groupState) answer {
	b := append([]byte(`{"status":"`), g.status.String()...)
	b = append(b, '"')
	for i, note := range g.notes {
		if i == 0 {
			b = append(b, `,"notes":[`...)
		} else {
			b = append(b, ',')
		}
		b = strconv.AppendQuote(b, note)
	}
	if len(g.notes) > 0 {
		b = append(b, ']')
	}
	b = append(b, "}\n"...)
	a := answer{status: g.status, code: http.StatusOK, body: b, length: []string{strconv.Itoa(len(b))}}
	if !g.status.ok() {
		a.code = http.StatusServiceUnavailable
	}
	return a
}
