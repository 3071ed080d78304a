package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
)

// ErrForced is in the error of Serve when a second signal cut the drain short.
var ErrForced = errors.New("health: stopped by a second signal")

// ListenAndServe listens on srv.Addr, ":http" if empty, and calls
// [Checker.Serve]. If it can't listen, it returns that error at once.
func (h *Checker) ListenAndServe(ctx context.Context, srv *http.Server) error {
	addr := srv.Addr
	if addr == "" {
		addr = ":http"
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return h.Serve(ctx, srv, ln)
}

// Serve runs the checks, unless Run does so already, and serves ln with srv
// until ctx ends. Then it drains as [Drain] says and returns nil. It serves
// TLS if srv.TLSConfig has a certificate. The handler of srv should come from
// [Checker.Handler].
//
// Serve returns an error if srv fails, if requests had to be cut off, if a hook
// fails, and [ErrForced] if a second signal (interrupt or SIGTERM) cut the
// drain short. The hooks run in each of these cases; after a second signal they
// are not waited for. Requests never see the end of ctx; [DrainStarted] tells
// them.
//
// One Checker can serve several servers: call Serve for each, with one ctx. The
// hooks run when the last of them has stopped.
func (h *Checker) Serve(ctx context.Context, srv *http.Server, ln net.Listener) error {
	h.servers.Add(1)
	base := srv.BaseContext
	srv.BaseContext = func(ln net.Listener) context.Context {
		ctx := context.Background()
		if base != nil {
			ctx = base(ln)
		}
		return context.WithValue(ctx, drainingKey{}, h)
	}

	// The checks go on while requests do.
	runCtx, stopChecks := context.WithCancel(context.WithoutCancel(ctx))
	defer stopChecks()
	checks := make(chan struct{})
	go func() {
		defer close(checks)
		_ = h.Run(runCtx) // an error means that they are running already
	}()

	served := make(chan error, 1)
	go func() {
		if t := srv.TLSConfig; t != nil && (len(t.Certificates) > 0 || t.GetCertificate != nil || t.GetConfigForClient != nil) {
			served <- srv.ServeTLS(ln, "", "")
		} else {
			served <- srv.Serve(ln)
		}
	}()

	var err error
	select {
	case <-ctx.Done():
	case err = <-served:
		// The server failed, or the caller shut it down. Nothing comes in any
		// more, so there is no use in a delay.
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		served = nil
	}

	// The signal that ended ctx has been delivered; the next one is impatience.
	impatient := make(chan os.Signal, 1)
	signal.Notify(impatient, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(impatient)
	forced := make(chan struct{})
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-impatient:
			close(forced)
		case <-over:
		}
	}()

	h.setPhase(Draining)
	if served != nil {
		h.delay(forced)
	}
	h.setPhase(Closing)
	err = errors.Join(err, h.close(srv, forced))
	if served != nil {
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e) // it failed while it drained
		}
	}
	stopChecks()
	<-checks
	if h.servers.Add(-1) == 0 {
		h.setPhase(Stopping)
		err = errors.Join(err, h.stop(forced))
		h.setPhase(Stopped)
	}
	select {
	case <-forced:
		err = errors.Join(ErrForced, err)
	default:
	}
	return err
}

// Drain makes the service not ready, for good, and tells [DrainStarted]. It is
// for those who serve without Serve: call it, wait, and shut down then. With
// Serve, end its context instead.
func (h *Checker) Drain() { h.setPhase(Draining) }

// setPhase goes on to p, unless h is there already.
func (h *Checker) setPhase(p Phase) {
	h.mu.Lock()
	from := Phase(h.phase.Load())
	if p > from {
		h.phase.Store(int32(p))
		if from == Serving {
			close(h.draining)
		}
		now := time.Now()
		h.changeLocked(Change{At: now, Subject: "phase", From: from.String(), To: p.String()})
		h.renderLocked(now)
	}
	h.mu.Unlock()
	// A hook that hangs must not keep the process from stopping.
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		h.deliver()
	}()
	select {
	case <-delivered:
	case <-time.After(time.Second):
	}
}

// delay waits for Delay, or until the traffic has stopped or force is closed.
func (h *Checker) delay(force <-chan struct{}) {
	start := h.now()
	end := time.NewTimer(h.cfg.Drain.Delay)
	defer end.Stop()
	var poll <-chan time.Time
	quiet := h.cfg.Drain.Quiet
	if quiet > 0 {
		poll = time.After(quiet)
	}
	for {
		select {
		case <-force:
			return
		case <-end.C:
			return
		case <-poll:
			silent := time.Duration(h.now() - max(start, h.lastArrival.Load()))
			if silent >= quiet {
				return
			}
			poll = time.After(quiet - silent)
		}
	}
}

// close shuts srv down and waits for the requests in flight, hijacked ones
// included. What does not end in time is cut off.
func (h *Checker) close(srv *http.Server, force <-chan struct{}) error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), h.cfg.Drain.Timeout)
	defer cancel()
	go func() {
		select {
		case <-force:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := srv.Shutdown(ctx)
	if ctx.Err() == nil && h.waitIdle(ctx) {
		return err
	}
	n, waited := h.served.inflight(), time.Since(start)
	h.cutOff(n)
	srv.Close()
	select {
	case <-force:
	default:
		// Their contexts have ended now; let them unwind before the hooks take
		// away what they use.
		unwind, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		h.waitIdle(unwind)
	}
	if n <= 0 {
		return nil // connections without a request: nothing is lost
	}
	waited = waited.Round(time.Millisecond)
	if n == 1 {
		return fmt.Errorf("health: 1 request still ran %v after the listener closed and was cut off", waited)
	}
	return fmt.Errorf("health: %d requests still ran %v after the listener closed and were cut off", n, waited)
}

// cutOff counts n requests that are cut off. Several servers give up at the same
// time, and each finds the requests of all.
func (h *Checker) cutOff(n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.aborted.Load(); n > int64(known) {
		h.aborted.Store(uint64(n))
	}
}

// waitIdle waits until no request is in flight and reports whether that came
// before ctx ended.
func (h *Checker) waitIdle(ctx context.Context) bool {
	for h.served.inflight() > 0 {
		select {
		case <-h.idle:
		case <-ctx.Done():
			return false
		}
	}
	select {
	case h.idle <- struct{}{}: // another Serve may wait for the same
	default:
	}
	return true
}

// stop runs the hooks.
func (h *Checker) stop(force <-chan struct{}) error {
	if len(h.cfg.Drain.Hooks) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), h.cfg.Drain.HookTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		var errs []error
		for i, hook := range h.cfg.Drain.Hooks {
			if err := runHook(ctx, hook); err != nil {
				errs = append(errs, fmt.Errorf("health: Config.Drain.Hooks[%d]: %w", i, err))
			}
		}
		done <- errors.Join(errs...)
	}()
	select {
	case err := <-done:
		return err
	case <-force:
	case <-ctx.Done():
		// A hook that heeds its context is returning right now.
		select {
		case err := <-done:
			return err
		case <-force:
		case <-time.After(100 * time.Millisecond):
		}
	}
	return errors.New("health: Config.Drain.Hooks did not end in time")
}

// runHook calls one hook, in a goroutine of its own, which it may end.
func runHook(ctx context.Context, hook func(context.Context) error) error {
	ended := make(chan error)
	go func() {
		err := errors.New("ended its goroutine")
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			}
			ended <- err
		}()
		err = hook(ctx)
	}()
	return <-ended
}
