package degrade

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A Level says how much is left out. Zero is everything; each higher level
// leaves out more. There may be as many as the features registered name.
type Level int

// The usual levels.
const (
	Full    Level = iota // everything
	Reduced              // without what is optional
	Minimal              // only what the service is for
)

// Where features go off, as words for [Switch.Feature].
const (
	Optional = Reduced // goes off at the first level
	Useful   = Minimal // goes off at the second
)

// maxLevel is the highest level.
const maxLevel = 9

// String returns full, reduced, minimal, or the number.
func (l Level) String() string {
	switch l {
	case Full:
		return "full"
	case Reduced:
		return "reduced"
	case Minimal:
		return "minimal"
	}
	return fmt.Sprintf("level %d", int(l))
}

// SwitchConfig configures a [Switch]. Every zero field is its default.
type SwitchConfig struct {
	// Name labels its metrics; default "default".
	Name string

	// Pressure are the signals: 0 is idle, 1 at the limit, more is too much. The
	// highest counts; one that is NaN or panics is ignored, and when none is
	// left the level stays. None: the level changes by hand only. Requests ask
	// them, four times a second, so they must be quick.
	Pressure []func() float64

	// Enter is the pressure at which the next level is entered once it has
	// lasted for EnterAfter; default 0.95 and 1 s.
	Enter      float64
	EnterAfter time.Duration
	// Leave is the pressure that must be expected one level below, for
	// LeaveAfter, before that level is tried; default 0.8 and 5 s. What is
	// expected is the present pressure times what entering the level was seen to
	// save, of which less is believed the longer ago that was, by default half
	// after three and a half minutes: the load may have fallen by itself.
	// LeaveAfter is lengthened by up to a fifth, at random, so that a fleet does
	// not step together, and doubles, up to MaxLeaveAfter (default 5 min), each
	// time that the level had to be entered again soon.
	Leave                     float64
	LeaveAfter, MaxLeaveAfter time.Duration

	// Key names the user of a request, for features that a share of users
	// keeps. Nil: the client's address without the port.
	Key func(*http.Request) string

	// MaxAge caps how long an answer may be kept by caches in which a feature
	// was left out; default 10 s, negative forbids keeping it.
	MaxAge time.Duration

	// File names a JSON file with overrides, an array of them as Admin shows
	// it. NewSwitch reads it, and Run again when it has changed. Default none.
	File string

	// DryRun decides and reports, but leaves every feature on.
	DryRun bool

	// OnChange is called after each change, one at a time and in order, without
	// locks held, by whoever caused the change, so it should not block: what
	// comes while it does waits, and beyond 4096 changes is not told but counted
	// in SwitchStats.HookMissed. A panic in it is recovered and counted in
	// SwitchStats.HookPanics.
	OnChange func(Change)
}

// every is how often the pressure is looked at, by requests that pass
// Switch.Handler or by Switch.Run.
const every = 250 * time.Millisecond

// A Switch turns features off when the pressure is high, and on again. It is
// safe for concurrent use.
type Switch struct {
	cfg   SwitchConfig
	name  string
	epoch time.Time

	now      atomic.Pointer[snapshot]
	due      atomic.Int64  // when the pressure is looked at next, ns since epoch
	degraded atomic.Uint64 // answers marked
	hook     hook

	mu        sync.Mutex // protects what follows
	features  []*Feature
	level     Level // the automatic one
	auto      auto
	overrides map[string]Override // by target, from Set
	file      map[string]Override // from File
	fileSeen  fileState
	history   history
	changes   uint64
}

// snapshot is what is on at one moment. It is never changed.
type snapshot struct {
	level Level
	on    []state
	plain bool // everything is on for everybody

	// What a share of users sees instead: a level set by hand for some of them.
	part  *snapshot
	share float64
}

// state is one feature's.
type state struct {
	on    bool
	share float64  // of the users who have it although it is not on for all
	keys  []string // who have it in any case
	why   string   // when it is not fully on
}

// NewSwitch returns a Switch, or an error that names every field of cfg that is
// not valid.
func NewSwitch(cfg SwitchConfig) (*Switch, error) {
	var errs []error
	ratio := func(field string, v *float64, def float64) bool {
		if math.IsNaN(*v) || *v < 0 || *v > 100 {
			errs = append(errs, fmt.Errorf("degrade: SwitchConfig.%s is %v, must be 0 (default) to 100", field, *v))
			return false
		}
		if *v == 0 {
			*v = def
		}
		return true
	}
	span := func(field string, v *time.Duration, def time.Duration) bool {
		if *v < 0 {
			errs = append(errs, fmt.Errorf("degrade: SwitchConfig.%s is %v, must not be negative", field, *v))
			return false
		}
		if *v == 0 {
			*v = def
		}
		return true
	}
	enter := ratio("Enter", &cfg.Enter, 0.95)
	leave := ratio("Leave", &cfg.Leave, min(0.8, cfg.Enter))
	span("EnterAfter", &cfg.EnterAfter, time.Second)
	after := span("LeaveAfter", &cfg.LeaveAfter, 5*time.Second)
	most := span("MaxLeaveAfter", &cfg.MaxLeaveAfter, max(5*time.Minute, cfg.LeaveAfter))
	if enter && leave && cfg.Leave > cfg.Enter {
		errs = append(errs, fmt.Errorf("degrade: SwitchConfig.Leave is %v, must be at most Enter (%v)", cfg.Leave, cfg.Enter))
	}
	if after && most && cfg.MaxLeaveAfter < cfg.LeaveAfter {
		errs = append(errs, fmt.Errorf("degrade: SwitchConfig.MaxLeaveAfter is %v, must be at least LeaveAfter (%v)", cfg.MaxLeaveAfter, cfg.LeaveAfter))
	}
	for i, f := range cfg.Pressure {
		if f == nil {
			errs = append(errs, fmt.Errorf("degrade: SwitchConfig.Pressure[%d] is nil, must be a function", i))
		}
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = 10 * time.Second
	}
	if cfg.Key == nil {
		cfg.Key = remoteHost
	}
	s := &Switch{cfg: cfg, name: cfg.Name, epoch: time.Now(), overrides: map[string]Override{}}
	if s.name == "" {
		s.name = "default"
	}
	if cfg.File != "" {
		if err := s.readFile(); err != nil {
			errs = append(errs, fmt.Errorf("degrade: SwitchConfig.File: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s.hook.call = cfg.OnChange
	s.auto.hold, s.auto.pressure = s.jitter(cfg.LeaveAfter), math.NaN()
	s.publishLocked(time.Now())
	return s, nil
}

// MustNewSwitch is like [NewSwitch] but panics if cfg is not valid.
func MustNewSwitch(cfg SwitchConfig) *Switch {
	s, err := NewSwitch(cfg)
	if err != nil {
		panic(err)
	}
	return s
}

// SwitchStats is where a [Switch] stands.
type SwitchStats struct {
	Level      Level   // in force
	Automatic  Level   // what the pressure alone would make it
	Pressure   float64 // NaN when no signal has anything to say
	Changes    uint64
	Degraded   uint64 // answers from which something was left out
	HookPanics uint64
	HookMissed uint64 // changes that OnChange was never told, since it did not return
}

// Stats returns where s stands.
func (s *Switch) Stats() SwitchStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SwitchStats{
		Level: s.now.Load().level, Automatic: s.level, Pressure: s.auto.pressure,
		Changes: s.changes, Degraded: s.degraded.Load(), HookPanics: s.hook.panics.Load(),
		HookMissed: s.hook.missed.Load(),
	}
}

// Level returns the level that is in force.
func (s *Switch) Level() Level { return s.now.Load().level }

// publishLocked makes the present state the snapshot, and the differences
// changes.
func (s *Switch) publishLocked(now time.Time) {
	s.expireLocked(now)
	level, why := s.level, "automatic"
	var part *snapshot
	share := 0.0
	if o, ok := s.override("level"); ok && o.Share > 0 && o.Share < 1 {
		part, share = s.snapshotLocked(o.Level, o.because()), o.Share
	} else if ok {
		level, why = o.Level, o.because()
	}
	sn := s.snapshotLocked(level, why)
	sn.part, sn.share = part, share
	sn.plain = sn.plain && part == nil
	s.now.Store(sn)
}

func (s *Switch) snapshotLocked(level Level, why string) *snapshot {
	if s.cfg.DryRun {
		level = Full
	}
	sn := &snapshot{level: level, on: make([]state, len(s.features)), plain: true}
	for i, f := range s.features {
		sn.on[i] = s.stateOf(f, level, why)
		sn.plain = sn.plain && sn.on[i].on
	}
	return sn
}

// stateOf decides about one feature. The first that has an opinion wins: an
// override, what the feature needs, the level.
func (s *Switch) stateOf(f *Feature, level Level, levelWhy string) state {
	if s.cfg.DryRun {
		return state{on: true}
	}
	if o, ok := s.override(f.name); ok {
		return state{on: o.Share >= 1, share: o.Share, keys: o.Keys, why: o.because()}
	}
	if f.down {
		return state{why: "what it needs is down"}
	}
	if level >= f.off {
		st := state{why: fmt.Sprintf("level %s (%s)", level, levelWhy)}
		if level == f.off {
			st.share = f.keep
			if f.keep == Auto {
				st.share = s.auto.dim
			}
		}
		return st
	}
	return state{on: true}
}

// Run looks at the pressure and at File until ctx ends, and returns ctx.Err().
// It is needed when requests do not pass through Handler, or with File.
func (s *Switch) Run(ctx context.Context) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			s.tick(time.Now())
			s.rereadFile(time.Now())
		}
	}
}
