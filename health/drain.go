package health

import (
	"context"
	"fmt"
	"time"
)

// Drain says how [Checker.Serve] stops. The zero value of every field is its
// default. In order:
//
//  1. draining: /readyz fails, everything is still served, and responses tell
//     clients to go elsewhere, for Delay or until the traffic has stopped;
//  2. closing: no new connections, requests in flight end, for at most Timeout;
//  3. stopping: the Hooks run, for at most HookTimeout;
//  4. stopped: Serve returns.
//
// A process that closes at once instead loses what balancers still send it.
type Drain struct {
	// Delay is how long to serve on after readiness has failed: longer than
	// balancers take to notice, which is their probe interval times their
	// failures, and a moment to act. Default 5 seconds, negative means none.
	Delay time.Duration

	// Quiet ends the Delay early, once no request but probes came for this
	// long. Zero means that the whole Delay is waited out. On a service with
	// little traffic silence comes by chance too, so make it several times the
	// usual gap between requests.
	Quiet time.Duration

	// Timeout is how long requests in flight may take to end. After it they
	// are cut off. Default 15 seconds, negative means that they are cut off
	// at once.
	Timeout time.Duration

	// Hooks are called one after the other when the last request has ended:
	// to stop workers, flush exporters, close pools. A hook that fails or
	// panics does not keep the next one from running.
	Hooks []func(context.Context) error

	// HookTimeout ends the context of the hooks. It is for all of them
	// together, and enforced from outside. Default 5 seconds.
	HookTimeout time.Duration

	// Grace is how long the platform waits before it kills the process, in
	// Kubernetes terminationGracePeriodSeconds. Default 30 seconds, which
	// is the default there; negative means that there is no such limit. If
	// Delay, Timeout and HookTimeout together exceed it, New returns an error.
	Grace time.Duration
}

// validate fills in the defaults of d, or says which field is not valid.
func (d *Drain) validate() (errs []error) {
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("health: Config.Drain."+format, args...))
	}
	if d.Quiet < 0 {
		bad("Quiet is %v, must not be negative", d.Quiet)
	}
	if d.HookTimeout < 0 {
		bad("HookTimeout is %v, must not be negative", d.HookTimeout)
	}
	for i, hook := range d.Hooks {
		if hook == nil {
			bad("Hooks[%d] is nil", i)
		}
	}
	def := func(v *time.Duration, to time.Duration) {
		switch {
		case *v == 0:
			*v = to
		case *v < 0:
			*v = 0
		}
	}
	def(&d.Delay, 5*time.Second)
	def(&d.Timeout, 15*time.Second)
	def(&d.HookTimeout, 5*time.Second)
	if d.Grace == 0 {
		d.Grace = 30 * time.Second
	}
	hooks := d.HookTimeout
	if len(d.Hooks) == 0 {
		hooks = 0
	}
	// In float64, so that three durations of a lifetime do not wrap around.
	if sum := float64(d.Delay) + float64(d.Timeout) + float64(hooks); d.Grace > 0 && sum > float64(d.Grace) {
		bad("Grace is %v, less than Delay %v, Timeout %v and hooks %v together: the platform would kill the process first",
			d.Grace, d.Delay, d.Timeout, hooks)
	}
	if d.Quiet > 0 && d.Quiet > d.Delay {
		bad("Quiet is %v, longer than Delay %v", d.Quiet, d.Delay)
	}
	return errs
}
