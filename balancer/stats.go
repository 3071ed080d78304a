package balancer

import (
	"fmt"
	"iter"
	"time"
)

// Stats counts what a [Balancer] has done since it was made. The counts are
// read one after the other, not in one instant.
type Stats struct {
	Backends  int // members
	Available int // of them, those that get requests: ready or warming
	InFlight  int
	Panic     bool // fewer are available than Config.PanicShare: all are used

	// Attempts, by what they said of the backend. One request can make
	// several, by retries and hedging.
	Success, Failure, Refused, Ignored uint64

	Retries     uint64 // attempts after a failure
	Hedges      uint64 // attempts because the first took long
	OverBudget  uint64 // retries and hedges that the budget did not allow
	Unavailable uint64 // requests that no backend was left for
	Ejections   uint64 // of the present members
	HookPanics  uint64 // panics of Config.OnChange, Healthy, Policy, and Wrap while warming, recovered
	HookMissed  uint64 // changes that Config.OnChange was never told, since it did not return
}

// Stats returns the counts so far.
func (b *Balancer) Stats() Stats {
	b.refresh()
	v := b.view.Load()
	s := Stats{
		Backends:    len(v.members),
		Available:   v.ready,
		Panic:       v.panics,
		Retries:     b.retries.Load(),
		Hedges:      b.hedged.Load(),
		OverBudget:  b.overBudget.Load(),
		Unavailable: b.unavailable.Load(),
		HookPanics:  b.hookPanics.Load(),
		HookMissed:  b.hookMissed.Load(),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	done := b.past
	for _, list := range [][]*Endpoint{b.members, b.leaving} {
		for _, e := range list {
			s.InFlight += e.InFlight()
			for i := range e.done {
				done[i] += e.done[i].Load()
			}
		}
	}
	for _, e := range b.members {
		s.Ejections += e.ejections
	}
	s.Success, s.Failure, s.Refused, s.Ignored = done[Success], done[Failure], done[Refused], done[Ignored]
	return s
}

// A Status is a backend and what is known of it.
type Status struct {
	Backend  Backend
	State    State
	Why      string // it is in this state; empty when all is well
	Since    time.Time
	Until    time.Time // the end of an ejection; zero in other states
	Leaving  bool      // no longer a member, with requests in flight
	InFlight int
	Latency  time.Duration // see [Endpoint.Latency]

	Success, Failure, Refused, Ignored uint64
	Ejections                          uint64
}

// Backends returns the members in the order they were set, and after them the
// backends that have left and still have requests in flight.
func (b *Balancer) Backends() []Status {
	b.refresh()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget()
	list := make([]Status, 0, len(b.members)+len(b.leaving))
	for _, e := range b.members {
		list = append(list, b.status(e))
	}
	for _, e := range b.leaving {
		s := b.status(e)
		s.State, s.Why, s.Leaving = Draining, "it was removed", true
		list = append(list, s)
	}
	return list
}

// status is called with b.mu held.
func (b *Balancer) status(e *Endpoint) Status {
	s := Status{
		Backend:   e.Backend(),
		State:     e.state,
		Why:       e.why,
		Since:     b.base.Add(e.since),
		InFlight:  e.InFlight(),
		Latency:   e.Latency(),
		Success:   e.done[Success].Load(),
		Failure:   e.done[Failure].Load(),
		Refused:   e.done[Refused].Load(),
		Ignored:   e.done[Ignored].Load(),
		Ejections: e.ejections,
	}
	if e.state == Ejected {
		s.Until = b.base.Add(e.outUntil)
	}
	return s
}

// Conditions yields what is not normal right now: the subject, and a sentence.
// It yields nothing when all is well.
func (b *Balancer) Conditions() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		list := b.Backends()
		v := b.view.Load()
		b.mu.Lock()
		discoverErr := b.discoverErr
		b.mu.Unlock()
		if len(v.members) == 0 && !yield(b.cfg.Name, "no backends are known") {
			return
		}
		if v.panics && !yield(b.cfg.Name, fmt.Sprintf("only %d of %d backends are available: using all", v.ready, len(v.members))) {
			return
		}
		if discoverErr != "" && !yield(b.cfg.Name, "discovery fails, the last good set stays: "+discoverErr) {
			return
		}
		for _, s := range list {
			if s.Leaving {
				continue
			}
			text := s.State.String()
			switch s.State {
			case Ready, Warming:
				continue
			case Ejected:
				text += " until " + s.Until.UTC().Format("15:04:05Z")
			}
			if !yield(s.Backend.ID, text+": "+s.Why) {
				return
			}
		}
	}
}
