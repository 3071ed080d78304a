package health

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"
)

// A check is one Check and what is known of it.
type check struct {
	name string
	cfg  Check         // with its defaults
	slot chan struct{} // holds a token while Probe runs: at most one call, ever
	stop chan struct{} // closed by Unregister
	wake chan struct{} // of capacity 1: traffic failed, so the next run is due sooner

	// What follows is guarded by Checker.mu.
	gone       bool
	status     Status // after Rise and Fall; Unknown before the first result
	last       result
	reason     string    // what may be shown of the last result
	since      time.Time // when status became what it is
	lastResult time.Time // or when the check was made
	lastRun    time.Time // when a call last returned in time
	lastPass   time.Time
	callStart  time.Time // of the call that holds the slot
	streak     int       // results in a row like the last one
	traffic    bool      // the last result came from Observe
	stale      bool      // as seen by the last render
	escalated  bool      // as seen by the last render
	runs       [outcomeCount]uint64
	changes    uint64
	took       histogram
}

func (c *check) compare(name string) int { return strings.Compare(c.name, name) }

// startLocked starts the loop of c. It requires that h.mu be held and that Run
// run.
func (h *Checker) startLocked(c *check) {
	ctx := h.runCtx
	h.loops.Go(func() { h.loop(ctx, c) })
}

// loop runs c on its schedule until ctx ends or c is unregistered.
func (h *Checker) loop(ctx context.Context, c *check) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.NewTimer(time.Duration(rand.Float64() * min(c.cfg.Jitter*float64(c.cfg.Every), float64(time.Second))))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.stop:
			return
		case <-c.wake:
		case <-timer.C:
		}
		wait, due := h.due(c)
		if due {
			if !h.run(ctx, c) {
				return
			}
			wait, _ = h.due(c)
		}
		timer.Reset(wait)
	}
}

// due reports whether c is to be run now, and if not, how long to wait. It is
// not while real traffic has shown what a run would show.
func (h *Checker) due(c *check) (wait time.Duration, due bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait = c.cfg.Every
	if c.status == Fail || !c.last.good() {
		wait = c.cfg.FailEvery
	}
	if c.traffic {
		// Traffic counts once per FailEvery at most, so it may be that late.
		if age := time.Since(c.lastResult); age < wait+c.cfg.FailEvery {
			return wait + c.cfg.FailEvery - age, false
		}
	}
	return max(1, time.Duration(float64(wait)*(1+c.cfg.Jitter*(2*rand.Float64()-1)))), true
}

// run calls the probe once, or finds that the last call has not returned. It
// reports whether c is to be run again.
func (h *Checker) run(ctx context.Context, c *check) bool {
	select {
	case c.slot <- struct{}{}:
	default:
		h.mu.Lock()
		took := time.Since(c.callStart)
		h.mu.Unlock()
		h.record(c, result{outcome: overran, took: took}, false)
		return true
	}
	h.mu.Lock()
	c.callStart = time.Now()
	start := c.callStart
	h.mu.Unlock()

	callCtx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	m := new(measurement)
	done := make(chan result, 1)
	go func() {
		// The token goes back before the result is seen, so that the next run
		// can't take a finished call for an overrun.
		res := result{outcome: panicked, err: errors.New("the probe ended its goroutine")}
		defer func() {
			if v := recover(); v != nil {
				res.err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			}
			res.took = time.Since(start)
			<-c.slot
			done <- res
		}()
		err := c.cfg.Probe(context.WithValue(callCtx, measureKey{}, m))
		res = classify(err)
	}()

	var res result
	select {
	case res = <-done:
	case <-callCtx.Done():
		if ctx.Err() != nil {
			// The end of Run says nothing about the thing. Give the call a
			// moment to end too, so that it doesn't outlive what it uses.
			select {
			case <-done:
			case <-time.After(time.Second):
			}
			return false
		}
		res = result{outcome: timedOut, err: context.DeadlineExceeded, took: time.Since(start)}
	}
	if ctx.Err() != nil {
		return false
	}
	if callCtx.Err() != nil && res.outcome != panicked {
		res.outcome = timedOut // also if the probe came back in the same instant
		if res.err == nil {
			res.err = context.DeadlineExceeded
		}
	}
	m.mu.Lock()
	if m.set {
		res.value, res.unit = m.value, m.unit
	}
	m.mu.Unlock()
	h.record(c, res, false)
	return c.cfg.Groups != Startup || !res.good()
}

// classify says how a call that returned err ended.
func classify(err error) result {
	switch {
	case err == nil:
		return result{outcome: passed}
	case errors.Is(err, context.Canceled):
		return result{outcome: canceled, err: err}
	}
	if _, ok := errors.AsType[*degradedError](err); ok {
		return result{outcome: warned, err: err}
	}
	return result{outcome: failed, err: err}
}

// record counts one result and tells who wants to know.
func (h *Checker) record(c *check, res result, traffic bool) {
	now := time.Now()
	h.mu.Lock()
	if !c.gone {
		h.recordLocked(c, res, traffic, now)
		h.renderLocked(now)
	}
	h.mu.Unlock()
	if traffic && !res.good() {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	h.deliver()
}

func (h *Checker) recordLocked(c *check, res result, traffic bool, now time.Time) {
	if c.runs == [outcomeCount]uint64{} || res.good() != c.last.good() {
		c.streak = 0
	}
	c.streak++
	c.runs[res.outcome]++
	c.last, c.traffic, c.lastResult = res, traffic, now
	if res.outcome != overran && res.outcome != timedOut {
		c.lastRun = now
	}
	if res.outcome != overran && !traffic {
		c.took.observe(res.took)
	}
	if res.good() {
		c.lastPass = now
	}

	reason := res.reason(h.cfg.ShowErrors)
	status := Fail
	switch res.outcome {
	case passed:
		status = Pass
	case warned:
		status = Warn
	}
	switch {
	case c.status == Unknown || c.stale: // the first result counts at once
	case c.status.ok() && status == Fail && c.streak < c.cfg.Fall:
		return
	case c.status == Fail && status.ok() && c.streak < c.cfg.Rise:
		return
	}
	c.reason = reason
	from := c.effective()
	if status == from {
		return
	}
	c.status, c.since, c.stale = status, now, false
	c.changes++
	h.changeLocked(Change{At: now, Subject: c.name, From: from.String(), To: status.String(), Reason: reason, Err: res.err})
}
