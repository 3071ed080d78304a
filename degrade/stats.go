package degrade

import (
	"fmt"
	"iter"
	"time"
)

// Stats is what a [Shedder] has done since it was made, and where it stands.
type Stats struct {
	Admitted   uint64 // let in, those after waiting included
	Queued     uint64 // had to wait, whatever came of it
	Refused    uint64 // answered 503
	Abandoned  uint64 // hung up while waiting
	Throttled  uint64 // held back by Transport
	HookPanics uint64
	HookMissed uint64 // changes that OnChange was never told, since it did not return

	InFlight int           // running now
	Waiting  int           // now
	Limit    int           // slots
	Streams  int           // long-lived requests open now, see Config.LongLived
	Pressure float64       // see Shedder.Pressure
	Demand   float64       // slots that all who came lately would have kept busy
	Latency  time.Duration // what running takes, lately
	Refusing bool          // refused somebody in the last five seconds
}

// Stats returns the counts so far.
func (s *Shedder) Stats() Stats {
	t := s.counts.total()
	st := Stats{
		Admitted: t[outAdmitted], Queued: t[outQueued], Refused: t[outRefused],
		Abandoned: t[outAbandoned], Throttled: s.throttled.Load(), HookPanics: s.hook.panics.Load(),
		HookMissed: s.hook.missed.Load(), Streams: int(s.streams.Load()),
	}
	s.core.look(s.now(), &st)
	s.mu.Lock()
	s.settleLocked(s.lastShed.Load(), s.now())
	st.Refusing = s.shedding.Load()
	s.mu.Unlock()
	return st
}

// Pressure returns how hard pressed the service is: the slots that all who
// came in the last second would have kept busy, over the slots there are. 0 is
// idle, 1 is at the limit, 2 means that half is refused.
func (s *Shedder) Pressure() float64 {
	var st Stats
	s.core.look(s.now(), &st)
	return st.Pressure
}

// Changes returns the last changes, at most 64, oldest first.
func (s *Shedder) Changes() iter.Seq2[time.Time, string] {
	s.mu.Lock()
	s.settleLocked(s.lastShed.Load(), s.now())
	all := s.history.all()
	s.mu.Unlock()
	return all
}

// Conditions returns what is not normal right now: nothing when all is well.
func (s *Shedder) Conditions() iter.Seq2[string, string] {
	st := s.Stats()
	return func(yield func(string, string) bool) {
		if st.Refusing {
			yield(s.name, fmt.Sprintf("refusing requests: %d of %d slots taken, %d waiting, pressure %.2f", st.InFlight, st.Limit, st.Waiting, st.Pressure))
		}
	}
}
