package degrade

import (
	"math"
	"math/rand/v2"
	"time"
)

// auto is what the automatic level remembers. It is guarded by Switch.mu.
type auto struct {
	pressure float64               // the last reading; NaN when there was none
	high     time.Time             // since when it is high enough to enter the next level
	low      time.Time             // since when it is low enough to leave this one
	left     time.Time             // when a level was last left
	entered  time.Time             // when one was last entered
	hold     time.Duration         // how long the pressure must be low before a level is left
	cost     [maxLevel + 1]float64 // pressure before entering the level over pressure after; 0 unknown
	before   float64               // pressure before the last entry, until its effect is learned
	recent   float64               // moving average of the pressure
	dim      float64               // share of users who keep the features of this level that are Auto
}

const (
	newWeight   = 0.3             // weight of the newest reading in averages
	showsAfter  = 2 * time.Second // after so long what a level saves has shown
	mostCost    = 10.0            // it is not believed to save more
	guessedCost = 1.3             // what entering a level is taken to save until it has been seen
	topPressure = 1000.0          // more counts as this, infinity too, which would stay in every average

	// The pressure after a level was entered may have fallen by itself, as after a
	// short peak, and not because of the level. So what entering it was seen to save
	// is believed less and less, over so many times the wait before it is left, which
	// doubles when leaving was too soon. Else a peak would be paid for all day.
	beliefHolds = 60.0

	// The share of users who keep a feature that is Auto, per look at the pressure:
	// down by as much as the pressure is too high, within bounds, and up slowly.
	dimLeast = 0.02
	dimMost  = 0.2
	brighten = 0.01
)

func (s *Switch) jitter(d time.Duration) time.Duration {
	return d + rand.N(d/5+1)
}

// tick looks at the pressure and at what features need, and changes the level.
func (s *Switch) tick(now time.Time) {
	p := math.NaN()
	for _, f := range s.cfg.Pressure {
		if v := ask(f); !math.IsNaN(v) && (math.IsNaN(p) || v > p) {
			p = min(max(v, 0), topPressure)
		}
	}
	// Foreign functions are asked without the lock.
	s.mu.Lock()
	needy := make([]*Feature, 0, len(s.features))
	for _, f := range s.features {
		if f.needs != nil {
			needy = append(needy, f)
		}
	}
	s.mu.Unlock()
	down := make([]bool, len(needy))
	for i, f := range needy {
		down[i] = !up(f.needs)
	}
	s.mu.Lock()
	s.due.Store(int64(now.Sub(s.epoch) + every))
	before, dim := s.level, s.auto.dim
	s.decideLocked(now, p)
	changed := s.level != before || s.auto.dim != dim
	for i, f := range needy {
		if down[i] == f.down {
			continue
		}
		f.down, changed = down[i], true
		if f.down {
			s.noteLocked(now, "%s goes off: what it needs is down", f.name)
		} else {
			s.noteLocked(now, "%s is back: what it needs is up", f.name)
		}
	}
	if changed || s.expireLocked(now) {
		s.publishLocked(now)
	}
	s.mu.Unlock()
	s.hook.tell()
}

// ask reads a signal; one that panics has nothing to say.
func ask(f func() float64) (v float64) {
	v = math.NaN()
	defer func() { _ = recover() }()
	return f()
}

// up asks what a feature needs; a panic means down.
func up(f func() bool) (ok bool) {
	defer func() { _ = recover() }()
	return f()
}

// decideLocked moves the automatic level by at most one.
func (s *Switch) decideLocked(now time.Time, p float64) {
	a := &s.auto
	a.pressure = p
	if math.IsNaN(p) {
		a.high, a.low = time.Time{}, time.Time{}
		return
	}
	a.recent += (p - a.recent) * newWeight
	if a.before > 0 && now.Sub(a.entered) > showsAfter {
		ratio := min(max(a.before/max(a.recent, 0.01), 1), mostCost)
		if c := &a.cost[s.level]; *c == 0 {
			*c = ratio
		} else {
			*c += (ratio - *c) * newWeight
		}
		a.before = 0
	}
	top, dims := Level(0), false
	for _, f := range s.features {
		top = max(top, f.off)
		dims = dims || f.off == s.level && f.keep == Auto
	}
	if dims && s.dimLocked(p) {
		a.high, a.low = time.Time{}, time.Time{}
		return
	}
	switch {
	case p >= s.cfg.Enter && s.level < top:
		a.low = time.Time{}
		if a.high.IsZero() {
			a.high = now
		}
		if now.Sub(a.high) < s.cfg.EnterAfter {
			return
		}
		if !a.left.IsZero() && now.Sub(a.left) < 2*a.hold {
			a.hold = s.jitter(min(a.hold*2, s.cfg.MaxLeaveAfter))
		} else {
			a.hold = s.jitter(s.cfg.LeaveAfter)
		}
		a.before, a.entered, a.high, a.dim = a.recent, now, time.Time{}, 0
		s.level++
		s.noteLocked(now, "level %s: pressure %.2f for %v", s.level, p, s.cfg.EnterAfter)
	case s.level > 0 && p*s.costOf(s.level, now) <= s.cfg.Leave:
		a.high = time.Time{}
		if a.low.IsZero() {
			a.low = now
		}
		if now.Sub(a.low) < a.hold {
			return
		}
		expected := p * s.costOf(s.level, now)
		a.left, a.low, a.before, a.dim = now, time.Time{}, 0, 1
		s.level--
		s.noteLocked(now, "level %s: pressure %.2f, expected %.2f", s.level, p, expected)
	default:
		a.high, a.low = time.Time{}, time.Time{}
	}
}

// dimLocked moves the share of users who keep the features of this level, and
// reports whether there was room to. It shrinks fast and grows slowly.
func (s *Switch) dimLocked(p float64) bool {
	before := s.auto.dim
	switch {
	case p >= s.cfg.Enter:
		s.auto.dim = max(before-max(dimLeast, min(p-s.cfg.Enter, dimMost)), 0)
	case p <= (s.cfg.Leave+s.cfg.Enter)/2:
		s.auto.dim = min(before+brighten, 1)
	}
	return s.auto.dim != before
}

// costOf is how many times higher the pressure is expected to be one level below l.
func (s *Switch) costOf(l Level, now time.Time) float64 {
	a := &s.auto
	if a.cost[l] == 0 {
		return guessedCost
	}
	age := float64(now.Sub(a.entered)) / (beliefHolds * float64(a.hold))
	return 1 + (a.cost[l]-1)*math.Exp(-age)
}
