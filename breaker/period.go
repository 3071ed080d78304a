package breaker

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// A period is one run of gobreaker's state machine: it begins closed, or open,
// and ends when the circuit opens (again) or is reset, with a new period in its
// place. That is how each open time can have its own length, which gobreaker
// fixes when it is made, and how what belongs to an earlier state is told apart:
// a call keeps its period, and a period that is over takes no more outcomes.
//
// gobreaker is told of calls that have ended, in one Execute of a function that
// does nothing but return how: of each failure, of each probe, and of a success
// that comes after a failure (see take). So it never waits for anything, it holds
// nothing that could be lost, and nothing of the user's runs under its lock.
type period struct {
	// Read by every call, and hardly ever written: on a cache line of its own.
	cb      *gobreaker.CircuitBreaker[struct{}]
	fam     *family
	gate    atomic.Int64              // whether calls pass: see gatePass
	refusal atomic.Pointer[OpenError] // what calls get while they don't
	mark    int64                     // Config.SlowCall
	shift   uint                      // epochs of slow.flight are 1<<shift nanoseconds
	tripped atomic.Bool               // cb opened by itself; set under its lock
	told    atomic.Uint32             // failures that cb was told of; counted after it
	forgot  atomic.Uint32             // those that a success has ended since: see take
	_       [4]byte

	// Written by every call.
	good goodCalls
	slow slowCalls

	counts gobreaker.Counts // why cb opened; written before tripped is set

	// Guarded by Breaker.mu.
	state   State // Closed, HalfOpen or Open; what cb says
	opening bool  // cb is being opened on purpose
	probes  []probe
	passed  int32  // probes that succeeded
	nextID  uint32 // of a probe
	ramp    ramp   // written before the gate says gateRamp, and never again
}

// Values of a period's gate. Any other is the time, on the family's clock, when
// calls need no longer be refused unasked.
const (
	gatePass int64 = 0  // calls pass
	gateRamp int64 = -1 // some calls pass
	gateAsk  int64 = 1  // a time that is over: the next call may be a probe
)

// A probe is a call that went through while half-open.
type probe struct {
	id       uint32
	lease    int64 // when it is written off
	answered bool  // its header came in time; the body is being read
}

// A ramp says which share of calls passes after recovery.
type ramp struct{ from, to int64 }

var errFailed = errors.New("failed")

// What gobreaker is told to execute.
func succeed() (struct{}, error) { return struct{}{}, nil }
func fail() (struct{}, error)    { return struct{}{}, errFailed }

// newPeriod returns a closed period that would stay open for openFor.
func newPeriod(f *family, openFor time.Duration) *period {
	p := &period{fam: f, mark: int64(f.cfg.SlowCall), shift: flightShift(f.cfg.SlowCall)}
	p.cb = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         f.cfg.Name,
		Interval:     f.cfg.Window / steps * steps,
		BucketPeriod: f.cfg.Window / steps,
		// Its open state ends after Timeout has passed, ours when it has.
		Timeout:       openFor - time.Nanosecond,
		MaxRequests:   uint32(f.cfg.Probes),
		ReadyToTrip:   p.readyToTrip,
		OnStateChange: p.onStateChange,
	})
	p.good.reset(f.now(), int64(f.cfg.Window/steps))
	return p
}

// newOpenPeriod returns a period that is open from now on.
func newOpenPeriod(f *family, openFor time.Duration) *period {
	p := newPeriod(f, openFor)
	p.opening = true
	_, _ = p.cb.Execute(fail)
	p.opening = false
	return p
}

// readyToTrip is gobreaker's question after each failure. It runs under
// gobreaker's lock. The share is that of calls that ended, so Requests is left
// alone, and so are its successes, of which it was told only some.
func (p *period) readyToTrip(c gobreaker.Counts) bool {
	if p.opening {
		return true
	}
	cfg := &p.fam.cfg
	c.TotalSuccesses = p.good.sum(p.fam.now())
	ended := uint64(c.TotalSuccesses) + uint64(c.TotalFailures)
	switch {
	case cfg.ConsecutiveFailures > 0 && int64(c.ConsecutiveFailures) >= int64(cfg.ConsecutiveFailures):
	case cfg.FailureRatio > 0 && ended >= uint64(cfg.MinCalls) &&
		float64(c.TotalFailures)/float64(ended) >= cfg.FailureRatio:
	default:
		return false
	}
	p.counts = c
	return true
}

// onStateChange runs under gobreaker's lock.
func (p *period) onStateChange(_ string, from, to gobreaker.State) {
	if from == gobreaker.StateClosed && to == gobreaker.StateOpen && !p.opening {
		p.tripped.Store(true)
	}
}

// why says why gobreaker opened, once tripped is set.
func (p *period) why() string {
	c, n := p.counts, p.fam.cfg.ConsecutiveFailures
	switch {
	case n == 1:
		return "a call failed"
	case n > 0 && int64(c.ConsecutiveFailures) >= int64(n):
		return fmt.Sprintf("%d calls failed in a row", c.ConsecutiveFailures)
	}
	return fmt.Sprintf("%d of %d calls failed", c.TotalFailures, c.TotalFailures+c.TotalSuccesses)
}
