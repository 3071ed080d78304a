package ratelimit

import (
	"fmt"
	"iter"
	"time"
)

// Stats counts what a [Limiter] has decided since it was made. The numbers
// are read one after the other, not in one instant.
type Stats struct {
	Allowed      uint64 // requests that passed
	Refused      uint64 // requests that did not
	WouldRefuse  uint64 // requests that passed only because of DryRun
	FailedOpen   uint64 // requests let pass because the Store did not answer
	FailedClosed uint64 // requests refused because the Store did not answer
	Degraded     uint64 // decisions made without the Store, however
	StoreErrors  uint64 // calls of the Store that failed or were late
	Errors       uint64 // invalid rates from RateOf, negative costs
	Panics       uint64 // of OnRefuse
	Keys         int    // buckets in memory, those that are full but not yet forgotten included
	Forgotten    uint64 // full buckets whose memory was used again
	Overflowed   uint64 // requests that drew from an overflow bucket
	MostRefused  []KeyCount
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
		s.FailedOpen += c.failedOpen.Load()
		s.FailedClosed += c.failedClosed.Load()
	}
	if l.shared != nil {
		s.Degraded, s.StoreErrors = l.shared.degraded.Load(), l.shared.failed.Load()
	}
	for _, t := range l.mem.Load().tables {
		s.Keys += int(t.used.Load())
		s.Overflowed += t.overflowed.Load()
		for i := range t.shards {
			s.Forgotten += t.shards[i].forgotten.Load()
		}
	}
	return s
}

// Collect emits the limiter's metrics, in a stable order. It is safe for
// concurrent use.
func (l *Limiter) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	s, name := l.Stats(), l.cfg.Name
	one := func(metric, help, kind string, value float64) {
		emit("spillway_ratelimit_"+metric, help, kind, value, "policy", name)
	}
	for _, o := range []struct {
		outcome string
		n       uint64
	}{
		{"allowed", s.Allowed}, {"denied", s.Refused}, {"dry_run", s.WouldRefuse},
		{"failed_open", s.FailedOpen}, {"failed_closed", s.FailedClosed},
	} {
		emit("spillway_ratelimit_requests_total",
			"Requests decided, by outcome; dry_run is those let through that would have been denied.",
			"counter", float64(o.n), "policy", name, "outcome", o.outcome)
	}
	one("keys", "Buckets in memory.", "gauge", float64(s.Keys))
	one("evictions_total", "Full buckets forgotten to make room.", "counter", float64(s.Forgotten))
	one("overflowed_total", "Requests that drew from an overflow bucket because the table was full of debts.",
		"counter", float64(s.Overflowed))
	if l.shared != nil {
		up := 1.0
		if l.shared.down.Load() != nil {
			up = 0
		}
		one("store_up", "Whether the shared store answers.", "gauge", up)
		one("store_errors_total", "Calls of the shared store that failed or were late.", "counter", float64(s.StoreErrors))
		one("degraded_total", "Decisions made without the shared store.", "counter", float64(s.Degraded))
	}
	l.waits.collect(emit, name)
	one("errors_total", "Invalid rates and costs from hooks.", "counter", float64(s.Errors))
	one("hook_panics_total", "Panics in hooks of the configuration.", "counter", float64(s.Panics))
}

// Conditions yields what is not normal right now: a subject and a sentence.
// It is safe for concurrent use.
func (l *Limiter) Conditions() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if s := l.shared; s != nil {
			if o := s.down.Load(); o != nil {
				how := [...]string{"deciding locally", "letting all pass", "refusing all"}[l.cfg.Outage]
				if !yield(l.cfg.Name, fmt.Sprintf("%s since %s, the store does not answer: %v", how, o.since.UTC().Format("15:04:05Z"), o.err)) {
					return
				}
			}
		}
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
