package breaker

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"
)

// Config configures a [Breaker]. Every zero field is its default. A negative
// value turns a rule off where the comment says so.
type Config struct {
	// Name labels the breaker's metrics, errors and changes. Default "default".
	Name string

	// Window is how far back calls count, in ten steps. Default 10 seconds; at
	// least 10 milliseconds, at most a day.
	Window time.Duration

	// MinCalls is how many calls the window must hold before a ratio may open
	// the circuit. Default 20.
	MinCalls int

	// FailureRatio is the share of failed calls among the completed ones, above
	// 0 and up to 1, at which the circuit opens. It is looked at whenever a call
	// fails. Default 0.5; negative is off.
	FailureRatio float64

	// ConsecutiveFailures is how many calls in a row, within the window, must
	// fail to open the circuit, whatever MinCalls says. Default 0, off.
	ConsecutiveFailures int

	// SlowCall is the slow mark: a call that takes this long is slow, and one
	// that is still in flight by then counts as slow already (it is noticed
	// within a quarter of the mark, when the next call comes). It should be less
	// than what your callers wait for: a call that they have given up counts as
	// nothing. Default 10 seconds; at least a millisecond; negative is off.
	SlowCall time.Duration

	// SlowRatio is the share of slow calls, above 0 and up to 1, at which the
	// circuit opens: those that ended slow or are in flight past the mark, among
	// those that ended or are in flight past the mark. It is looked at whenever a
	// call turns out slow. Default 0.5; negative is off.
	SlowRatio float64

	// SlowToEnd measures an HTTP call to the end of its body. By default it is
	// measured to the header, so that a download or an event stream is not slow
	// for being long.
	SlowToEnd bool

	// HeadersOnly decides how a Transport's call ended when its header is there.
	// By default the end of the body decides: a body that breaks off is a
	// failure. A body that is closed before its end counts as read.
	HeadersOnly bool

	// Judge says how a call ended. Nil means [DefaultJudge]. It is called
	// without locks held. It isn't asked about a call whose caller has cancelled
	// it, which counts as nothing, nor about a panic, which is a failure.
	Judge func(Outcome) Verdict

	// OpenFor is how long the circuit stays open at first. It doubles with each
	// failed probe, and with each opening less than a Window after the circuit
	// closed, up to MaxOpen; a Window spent closed resets it. Default 5 seconds
	// and 1 minute, and no less than OpenFor.
	OpenFor, MaxOpen time.Duration

	// Jitter is the share, up to 1, by which each open time is shortened at
	// random, so that a fleet does not probe in step. What an upstream asks for
	// is prolonged instead. Default 0.2; negative is off.
	Jitter float64

	// MaxRetryAfter bounds the Retry-After of an upstream's 429 or 503 that is
	// obeyed: a circuit that opens within a Window of it does not probe before.
	// Default 5 minutes; negative ignores the field.
	MaxRetryAfter time.Duration

	// Probes is how many probes must succeed, with none failing, before the
	// circuit closes. Default 3.
	Probes int

	// ProbesAtOnce is how many probes may be in flight. Default 1.
	ProbesAtOnce int

	// ProbeLease is how long a probe may take. A probe without an answer by then
	// has failed, and its place is free: a call that hangs, a forgotten done
	// can't keep the circuit half-open. Default 10 seconds, or SlowCall if that
	// is shorter: a slow probe is a failed one.
	ProbeLease time.Duration

	// Ramp is how long after the last probe the share of admitted calls grows
	// from a tenth to all, so that recovery isn't a flood. Default 0: all at
	// once, as with a negative one.
	Ramp time.Duration

	// Key names the circuit that a request belongs to; "" is the Breaker's own.
	// Nil means a circuit per host in [Breaker.Transport], and the Breaker's own
	// in [Breaker.Handler]. See [ByRoute] and [AllTogether]. Of a key longer than
	// 256 bytes a part and a hash are kept.
	Key func(*http.Request) string

	// MaxKeys bounds how many circuits are held. When there are more keys, the
	// one unused for longest is forgotten, one that is closed before one that
	// isn't. Default 10,000, which is about 14 MB.
	MaxKeys int

	// Fallback answers the requests that [Breaker.Handler] refuses. Retry-After
	// is set already. Nil means 503 and a line of text, or problem+json for
	// clients that accept it.
	Fallback http.Handler

	// DryRun decides, counts and reports, but never refuses a call. See
	// [Breaker.SetDryRun].
	DryRun bool

	// OnChange is called after each change of a circuit's state: in order, one
	// at a time, without locks held, so it may call the Breaker. It runs in a
	// goroutine that made a call, so it should be quick. A panic in it is
	// recovered and counted.
	OnChange func(Change)

	// Store shares openings with a fleet; see [Breaker.Run]. Nil means that the
	// process decides alone.
	Store Store

	// Quorum is how many other processes must have opened the same circuit
	// before this one follows. Default 1. Without a Store there are none.
	Quorum int

	// SyncEvery is how often Run asks the Store. Default 1 second.
	SyncEvery time.Duration
}

const (
	maxWindow = 24 * time.Hour
	maxTime   = 365 * 24 * time.Hour
)

// withDefaults returns c with its defaults filled in, and with what is off as
// zero, or an error for each field that can't be.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	bad := func(field string, value any, rule string) {
		errs = append(errs, fmt.Errorf("breaker: Config.%s is %v, must be %s", field, value, rule))
	}
	duration := func(field string, d *time.Duration, def, least, most time.Duration, off bool) {
		switch {
		case *d == 0:
			*d = def
		case *d < 0 && off:
			*d = 0
		case *d < least || *d > most:
			rule := fmt.Sprintf("from %v to %v", least, most)
			if off {
				rule += ", or negative to turn it off"
			}
			bad(field, *d, rule)
		}
	}
	count := func(field string, n *int, def int) {
		switch {
		case *n == 0:
			*n = def
		case *n < 0 || *n > math.MaxInt32:
			bad(field, *n, "positive")
		}
	}
	ratio := func(field string, r *float64, def float64) {
		switch {
		case *r == 0:
			*r = def
		case math.IsNaN(*r) || *r > 1:
			bad(field, *r, "above 0 and at most 1, or negative to turn it off")
		case *r < 0:
			*r = 0
		}
	}

	if c.Name == "" {
		c.Name = "default"
	}
	duration("Window", &c.Window, 10*time.Second, 10*time.Millisecond, maxWindow, false)
	count("MinCalls", &c.MinCalls, 20)
	ratio("FailureRatio", &c.FailureRatio, 0.5)
	if c.ConsecutiveFailures < 0 {
		c.ConsecutiveFailures = 0
	}
	duration("SlowCall", &c.SlowCall, 10*time.Second, time.Millisecond, maxWindow, true)
	ratio("SlowRatio", &c.SlowRatio, 0.5)
	if c.SlowRatio == 0 {
		c.SlowCall = 0
	}
	if c.FailureRatio == 0 && c.ConsecutiveFailures == 0 && c.SlowCall == 0 {
		errs = append(errs, errors.New("breaker: Config.FailureRatio, ConsecutiveFailures and SlowCall are all off, one must be on"))
	}
	duration("OpenFor", &c.OpenFor, 5*time.Second, time.Millisecond, maxTime, false)
	if c.MaxOpen == 0 {
		c.MaxOpen = max(time.Minute, c.OpenFor)
	}
	if c.OpenFor < time.Millisecond { // named above, and nothing to compare with
		if c.MaxOpen < time.Millisecond || c.MaxOpen > maxTime {
			bad("MaxOpen", c.MaxOpen, fmt.Sprintf("from OpenFor to %v", maxTime))
		}
	} else if c.MaxOpen < c.OpenFor || c.MaxOpen > maxTime {
		bad("MaxOpen", c.MaxOpen, fmt.Sprintf("from OpenFor (%v) to %v", c.OpenFor, maxTime))
	}
	ratio("Jitter", &c.Jitter, 0.2)
	duration("MaxRetryAfter", &c.MaxRetryAfter, 5*time.Minute, time.Second, maxTime, true)
	count("Probes", &c.Probes, 3)
	count("ProbesAtOnce", &c.ProbesAtOnce, 1)
	duration("ProbeLease", &c.ProbeLease, 10*time.Second, time.Millisecond, maxTime, false)
	if c.SlowCall > 0 {
		c.ProbeLease = min(c.ProbeLease, c.SlowCall)
	}
	duration("Ramp", &c.Ramp, 0, time.Millisecond, maxTime, true)
	count("MaxKeys", &c.MaxKeys, 10_000)
	count("Quorum", &c.Quorum, 1)
	duration("SyncEvery", &c.SyncEvery, time.Second, 10*time.Millisecond, maxWindow, false)
	return c, errors.Join(errs...)
}
