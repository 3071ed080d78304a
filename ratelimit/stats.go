package ratelimit

import (
	"fmt"
	"iter"
	"time"
)

// Stats counts what a [Limiter] has decided since it was made. The numbers
// are read one after the other, not in one instant.
type Stats struct {
	Allowed     uint64 // requests that passed
	Refused     uint64 // requests that did not
	WouldRefuse uint64 // requests that passed only because of DryRun
	Errors      uint64 // invalid rates from RateOf, negative costs
	Panics      uint64 // of OnRefuse
	Keys        int    // buckets in memory, those that are full but not yet forgotten included
	Forgotten   uint64 // full buckets whose memory was used again
	Overflowed  uint64 // requests that drew from an overflow bucket
	MostRefused []KeyCount
}

// Stats returns the counts so far. It is cheap, and safe for concurrent use.
func (l *Limiter) Stats() Stats {
	s := Stats{
		Errors:      l.counts.errors.Load(),
		Panics:      l.counts.panics.Load(),
		MostRefused: l.refused.top(),
	}
	for i := range l.counts.stripes {
		c := &l.counts.stripes[i]
		s.Allowed += c.allowed.Load()
		s.Refused += c.refused.Load()
		s.WouldRefuse += c.dry.Load()
	}
	for _, t := range l.mem.Load().tables {
		s.Keys += int(t.used.Load())
		s.Forgotten += t.stats.forgotten.Load()
		s.Overflowed += t.stats.overflowed.Load()
	}
	return s
}

// Collect emits the limiter's metrics, in a stable order. It is safe for
// concurrent use.
func (l *Limiter) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	s, name := l.Stats(), l.cfg.Name
	const requests, help = "spillway_ratelimit_requests_total", "Requests decided, by outcome; dry_run is those let through that would have been denied."
	emit(requests, help, "counter", float64(s.Allowed), "policy", name, "outcome", "allowed")
	emit(requests, help, "counter", float64(s.Refused), "policy", name, "outcome", "denied")
	emit(requests, help, "counter", float64(s.WouldRefuse), "policy", name, "outcome", "dry_run")
	emit("spillway_ratelimit_keys", "Buckets in memory.", "gauge", float64(s.Keys), "policy", name)
	emit("spillway_ratelimit_evictions_total", "Full buckets forgotten to make room.", "counter", float64(s.Forgotten), "policy", name)
	emit("spillway_ratelimit_overflowed_total", "Requests that drew from an overflow bucket because the table was full of debts.", "counter", float64(s.Overflowed), "policy", name)
	l.waits.collect(emit, name)
	emit("spillway_ratelimit_errors_total", "Invalid rates and costs from hooks, and hooks that panicked.", "counter", float64(s.Errors+s.Panics), "policy", name)
}

// Conditions yields what is not normal right now: a subject and a sentence.
// It is safe for concurrent use.
func (l *Limiter) Conditions() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		m := l.mem.Load()
		for _, t := range m.tables {
			if t.flooded.Load() <= m.now() {
				continue
			}
			if !yield(l.cfg.Name, fmt.Sprintf("%d keys are in debt, new ones share overflow buckets", t.used.Load())) {
				return
			}
		}
		l.upstreams.paused(yield)
	}
}

// Changes yields the last changes, at most 64, oldest first. It is safe for
// concurrent use.
func (l *Limiter) Changes() iter.Seq2[time.Time, string] { return l.journal.all }
