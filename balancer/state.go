package balancer

import (
	"fmt"
	"time"
)

// A State is what a backend is used for.
type State uint8

// The states of a backend, from best to worst.
const (
	Ready     State = iota // gets its share
	Warming                // new or back: its share grows over Config.SlowStart
	Probation              // after an ejection: one request at a time, until one succeeds
	Ejected                // left out for a while because of what it answered
	Unhealthy              // left out because its probe fails or Config.Healthy said so
	Draining               // left out because it said or was told to be leaving
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case Ready:
		return "ready"
	case Warming:
		return "warming"
	case Probation:
		return "probation"
	case Ejected:
		return "ejected"
	case Unhealthy:
		return "unhealthy"
	case Draining:
		return "draining"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// health is what decides the state of an endpoint. Balancer.mu protects it.
type health struct {
	state State
	why   string
	since time.Duration

	forgotten    bool // left, and no longer in Balancer.leaving
	probed       bool // at least once
	probeDown    bool
	probeStreak  int // probes in a row that contradict probeDown
	probeWhy     string
	probeAt      time.Duration // the next one
	probing      bool
	outsideDown  bool          // Config.Healthy
	outsideAt    time.Duration // if so, when it is asked again
	drainedUntil time.Duration

	out          bool          // ejected or on probation
	outUntil     time.Duration // then probation
	outFor       time.Duration
	outWhy       string
	ejections    uint64
	streak       int           // ejections without much health between them
	returned     time.Duration // from the last one
	checkedAgain time.Duration // when an ejection was last refused
}

// settle returns the state that follows from the rest, and why.
// The caller holds Balancer.mu.
func (e *Endpoint) settle(now, slowStart time.Duration) (State, string) {
	switch {
	case e.backend.Load().Drain:
		return Draining, "configured to drain"
	case e.drainedUntil > now:
		return Draining, "it said that it is shutting down"
	case e.outsideDown:
		return Unhealthy, "Config.Healthy says no"
	case e.probeDown:
		return Unhealthy, e.probeWhy
	case e.out && e.outUntil > now:
		return Ejected, e.outWhy
	case e.out:
		return Probation, e.outWhy
	}
	if warm := e.warm.Load(); warm != 0 {
		if now-time.Duration(warm) < slowStart {
			return Warming, ""
		}
		e.warm.Store(0)
	}
	return Ready, ""
}
