package health

import (
	"context"
	"errors"
	"math/bits"
	"strings"
	"sync"
	"time"
)

// A Status is the status of a check or of a group.
type Status uint8

// The statuses. Unknown is what a check has before its first result and when
// the last one is stale; a group that depends on it fails.
const (
	Unknown Status = iota
	Pass
	Warn
	Fail
)

// String returns "unknown", "pass", "warn" or "fail".
func (s Status) String() string {
	if s > Fail {
		s = Unknown
	}
	return [...]string{"unknown", "pass", "warn", "fail"}[s]
}

func (s Status) ok() bool { return s == Pass || s == Warn }

// A Group is a set of the questions that a platform asks; combine them with |.
type Group uint8

// The groups, and the endpoint of each.
const (
	Live    Group = 1 << iota // /livez: if it fails, restart the process
	Ready                     // /readyz: if it fails, send no requests
	Startup                   // /startupz: until it passes once, wait

	groupCount = 3
)

// String returns "live", "ready", "startup", or several joined by "|".
func (g Group) String() string {
	var names []string
	for i, name := range groupNames {
		if g&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

var groupNames = [groupCount]string{"live", "ready", "startup"}

// index returns the place of a single group in an array of groups.
func (g Group) index() (int, bool) {
	return bits.TrailingZeros8(uint8(g)), g == Live || g == Ready || g == Startup
}

// A Phase is where a Checker is in its life.
type Phase int32

// The phases, in order. There is no way back.
const (
	Serving  Phase = iota // the normal state
	Draining              // not ready, and everything is still served
	Closing               // no new connections; requests in flight end
	Stopping              // the hooks of Drain run
	Stopped

	phaseCount = 5
)

// String returns "serving", "draining", "closing", "stopping" or "stopped".
func (p Phase) String() string {
	if p < 0 || p >= phaseCount {
		return "unknown"
	}
	return [phaseCount]string{"serving", "draining", "closing", "stopping", "stopped"}[p]
}

// Degraded returns an error that makes a check "warn" instead of "fail": the
// thing is there, but not well. It returns nil for nil.
func Degraded(err error) error {
	if err == nil {
		return nil
	}
	return &degradedError{err}
}

type degradedError struct{ error }

func (e *degradedError) Unwrap() error { return e.error }

// Public returns an error whose text msg may be shown to the authorised and
// on the dashboard. The text of cause, which may be nil, stays in the process
// unless Config.ShowErrors is set.
func Public(msg string, cause error) error { return &publicError{msg, cause} }

type publicError struct {
	msg   string
	cause error
}

func (e *publicError) Unwrap() error { return e.cause }

func (e *publicError) Error() string {
	if e.cause == nil {
		return e.msg
	}
	return e.msg + ": " + e.cause.Error()
}

// Measure sets what a check has measured in this run, shown as observedValue
// and observedUnit. Without it they are the time that the run took. ctx is
// the one that Probe was called with; with another one, it does nothing.
func Measure(ctx context.Context, value float64, unit string) {
	if m, ok := ctx.Value(measureKey{}).(*measurement); ok {
		m.mu.Lock()
		m.value, m.unit, m.set = value, unit, true
		m.mu.Unlock()
	}
}

type measureKey struct{}

type measurement struct {
	mu    sync.Mutex // a Probe may use goroutines
	value float64
	unit  string
	set   bool
}

// An outcome is how one run ended.
type outcome uint8

const (
	passed outcome = iota
	warned
	failed
	timedOut
	panicked
	overran
	canceled

	outcomeCount = 7
)

var outcomeNames = [outcomeCount]string{"pass", "warn", "fail", "timeout", "panic", "overrun", "canceled"}

// A result is what one run found.
type result struct {
	outcome outcome
	err     error
	took    time.Duration
	value   float64
	unit    string
}

func (r result) good() bool { return r.outcome == passed || r.outcome == warned }

// reason is what may be shown of a result that is not a pass.
func (r result) reason(showErrors bool) string {
	switch r.outcome {
	case passed:
		return ""
	case warned, failed:
		if showErrors {
			return r.err.Error()
		}
		if p, ok := errors.AsType[*publicError](r.err); ok {
			return p.msg
		}
		if r.outcome == warned {
			return "degraded"
		}
		return "error"
	case overran:
		return "overrun: running for " + seconds(r.took)
	case panicked, timedOut, canceled:
		if showErrors && r.err != nil {
			first, _, _ := strings.Cut(r.err.Error(), "\n")
			return first
		}
	}
	return outcomeNames[r.outcome]
}

// seconds renders d for people.
func seconds(d time.Duration) string { return d.Truncate(time.Second).String() }
