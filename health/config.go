package health

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// A Check is one thing that a service needs.
type Check struct {
	// Probe returns nil if the thing is there, an error made by [Degraded] if
	// it is there but not well, and any other error if it is not there. Its
	// context ends after Timeout. Required.
	Probe func(context.Context) error

	// Optional marks a thing that the service can do without: while it is not
	// there the service is degraded, status "warn", and stays ready.
	Optional bool

	// Informational marks a thing that is shown and never changes the status.
	Informational bool

	// Shared marks a thing that all replicas of the service use, such as one
	// database. While it fails, readiness is "warn", because if every replica
	// became not ready at once nobody would be left to answer. To let it
	// empty the fleet all the same, leave Shared false.
	Shared bool

	// Groups are what the check counts for; zero means [Ready]. A check that
	// is in [Startup] alone is not run any more once it has passed.
	Groups Group

	// Every is the time between runs; default 10 seconds. FailEvery is the
	// time while the check fails; default 1 second, or Every if less.
	Every, FailEvery time.Duration

	// Timeout is how long one run may take; default 2 seconds, or Every if
	// less. It is enforced from outside: a Probe that ignores its context is
	// counted as failing, and is not called again until it has returned.
	Timeout time.Duration

	// MaxAge is how old the last result may be before it is no longer
	// believed and the check fails as "stale"; default three times Every
	// plus Timeout. It is judged when somebody asks.
	MaxAge time.Duration

	// Fall is how many failures in a row make a passing check fail; default 3.
	// Rise is how many passes in a row make a failing check pass; default 1. The
	// first result counts at once.
	Fall, Rise int

	// Jitter spreads runs, so that a fleet does not probe in step: each wait
	// is longer or shorter by up to this share, and the first run comes
	// within this share of Every, but within a second. Default 0.1,
	// negative means none; at most 1.
	Jitter float64

	// EscalateAfter makes a check that has failed for this long fail [Live]
	// too, so that the platform restarts the process: for what only a restart
	// cures. Zero means never. It can't be used with Shared, which would
	// restart every replica at once.
	EscalateAfter time.Duration

	// Component is the componentType of the verbose form: "component",
	// "datastore" or "system". Empty means that it is left out.
	Component string

	// Affects lists the endpoints that need the thing, as URI templates. The
	// verbose form shows them while the check does not pass.
	Affects []string
}

// newCheck fills in the defaults of cfg, or says which field is not valid.
func newCheck(where, name string, cfg Check, now time.Time) (*check, error) {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("health: "+where+format, args...))
	}
	if !validName(name) {
		bad(": %q is not a name: use letters, digits, '.', '_' and '-', at most 64, and not live, ready, startup or phase", name)
	}
	if cfg.Probe == nil {
		bad(".Probe is nil, must return whether the thing is there")
	}
	times := true // can be compared
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"Every", cfg.Every}, {"FailEvery", cfg.FailEvery}, {"Timeout", cfg.Timeout},
		{"MaxAge", cfg.MaxAge}, {"EscalateAfter", cfg.EscalateAfter},
	} {
		if d.v < 0 {
			bad(".%s is %v, must not be negative", d.name, d.v)
			times = false
		}
	}
	if cfg.Fall < 0 {
		bad(".Fall is %d, must not be negative", cfg.Fall)
	}
	if cfg.Rise < 0 {
		bad(".Rise is %d, must not be negative", cfg.Rise)
	}
	if math.IsNaN(cfg.Jitter) || cfg.Jitter > 1 {
		bad(".Jitter is %v, must be at most 1", cfg.Jitter)
	}
	if cfg.Groups&^(Live|Ready|Startup) != 0 {
		bad(".Groups is %#x, must be made of Live, Ready and Startup", uint8(cfg.Groups))
	}
	if cfg.Shared && cfg.EscalateAfter > 0 {
		bad(".EscalateAfter is set with Shared, which would restart every replica at once")
	}

	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.Every, 10*time.Second)
	def(&cfg.FailEvery, min(cfg.Every, time.Second))
	def(&cfg.Timeout, min(cfg.Every, 2*time.Second))
	longest := max(cfg.Every, cfg.FailEvery)
	if longest > math.MaxInt64/8 || cfg.Timeout > math.MaxInt64/8 || cfg.MaxAge > math.MaxInt64/2 || cfg.EscalateAfter > math.MaxInt64/2 {
		bad(": Every, FailEvery, Timeout, MaxAge or EscalateAfter is longer than a lifetime")
		times = false
	}
	def(&cfg.MaxAge, 3*longest+cfg.Timeout)
	if least := 2*longest + cfg.Timeout; times && cfg.MaxAge < least {
		bad(".MaxAge is %v, must be at least %v (twice the time between runs, and Timeout), or a healthy check would be stale", cfg.MaxAge, least)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if cfg.Fall == 0 {
		cfg.Fall = 3
	}
	if cfg.Rise == 0 {
		cfg.Rise = 1
	}
	switch {
	case cfg.Jitter == 0:
		cfg.Jitter = 0.1
	case cfg.Jitter < 0:
		cfg.Jitter = 0
	}
	if cfg.Groups == 0 {
		cfg.Groups = Ready
	}
	cfg.Affects = slices.Clone(cfg.Affects)
	return &check{
		name: name, cfg: cfg, slot: make(chan struct{}, 1), stop: make(chan struct{}), wake: make(chan struct{}, 1),
		since: now, lastResult: now,
	}, nil
}

func validName(s string) bool {
	switch s {
	case "", ".", "..", "live", "ready", "startup", "phase":
		return false
	}
	for _, b := range []byte(s) {
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '.' && b != '_' && b != '-' {
			return false
		}
	}
	return len(s) <= 64
}
