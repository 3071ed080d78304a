package degrade

import (
	"fmt"
	"time"
)

// restAfter is how long nobody must have been refused for refusing to be over.
const restAfter = 5 * time.Second

// noteRefusal keeps the history. While refusing goes on it costs one atomic store.
func (s *Shedder) noteRefusal(now int64) {
	last := s.lastShed.Swap(now)
	if s.shedding.Load() && now-last <= int64(restAfter) {
		return
	}
	s.mu.Lock()
	s.settleLocked(last, now)
	if s.shedding.Load() {
		s.mu.Unlock()
		return
	}
	s.shedFrom, s.refusals = now, s.counts.total()[outRefused]-1
	s.shedding.Store(true)
	word := s.core.word.Load()
	c := Change{s.at(now), s.name, fmt.Sprintf("%s: began to refuse: %d of %d slots taken", s.name, word&takenMask, s.core.limit.Load())}
	s.history.add(c.At, c.Text)
	s.hook.note(c)
	s.mu.Unlock()
	s.hook.tell()
}

// settleLocked notes that refusing has ended, when it has: last is when one was
// refused last.
func (s *Shedder) settleLocked(last, now int64) {
	if s.shedding.Load() && now-last > int64(restAfter) {
		s.shedding.Store(false)
		n := s.counts.total()[outRefused] - s.refusals
		took := time.Duration(last - s.shedFrom).Round(time.Millisecond)
		s.history.add(s.at(last), fmt.Sprintf("%s: refused no more: %d requests in %v", s.name, n, took))
	}
}

// at is the time of day at now.
func (s *Shedder) at(now int64) time.Time { return s.epoch.Add(time.Duration(now)) }
