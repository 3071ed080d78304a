package degrade

import (
	"fmt"
	"iter"
	"time"
)

// Changes returns the last changes, at most 64, oldest first.
func (s *Switch) Changes() iter.Seq2[time.Time, string] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.history.all()
}

// Conditions returns what is not normal right now: the level if it is not full,
// and the features that are not on for all. It yields nothing when all is well.
func (s *Switch) Conditions() iter.Seq2[string, string] {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn := s.now.Load()
	var subject, text []string
	if sn.level != Full {
		subject, text = append(subject, s.name), append(text, "level "+sn.level.String())
	}
	for i, f := range s.features {
		if st := sn.on[i]; !st.on {
			subject, text = append(subject, f.name), append(text, st.String())
		}
	}
	return func(yield func(string, string) bool) {
		for i := range subject {
			if !yield(subject[i], text[i]) {
				return
			}
		}
	}
}

func (st state) String() string {
	switch {
	case st.on:
		return "on"
	case st.share > 0:
		return fmt.Sprintf("on for %.3g%% of users: %s", st.share*100, st.why)
	case len(st.keys) > 0:
		return "on for some users: " + st.why
	}
	return "off: " + st.why
}

// noteLocked records a change; hook.tell must be called after mu is released.
func (s *Switch) noteLocked(now time.Time, format string, args ...any) {
	c := Change{now, s.name, fmt.Sprintf(s.name+": "+format, args...)}
	s.changes++
	s.history.add(c.At, c.Text)
	s.hook.note(c)
}
