package ratelimit

import (
	"context"
	"sync/atomic"
	"time"
)

// deadlines makes the contexts of a store's calls. A timer that is set and
// stopped for each costs as much as all else that a decision does on this side
// of the network, so the calls that begin in one eighth of the time share one,
// set for the first of them: each has at most the time, and at least seven
// eighths of it.
//
// The caller's leaving does not end a call: its answer is never far away, and
// clients throw away a connection on which they were interrupted.
type deadlines struct {
	within time.Duration
	last   atomic.Pointer[window]
}

// A window is the calls that end by the same timer.
type window struct {
	opened, at time.Time
	done       chan struct{}
}

// call returns a context with ctx's values that ends in time.
func (d *deadlines) call(ctx context.Context) context.Context {
	now := time.Now()
	if sooner, ok := ctx.Deadline(); ok && sooner.Before(now.Add(d.within)) {
		return ctx
	}
	w := d.last.Load()
	if w == nil || now.Sub(w.opened) > d.within/8 {
		w = &window{now, now.Add(d.within), make(chan struct{})}
		time.AfterFunc(d.within, func() { close(w.done) })
		d.last.Store(w)
	}
	return call{ctx, w}
}

type call struct {
	context.Context // the caller's, for its values
	window          *window
}

func (c call) Deadline() (time.Time, bool) { return c.window.at, true }
func (c call) Done() <-chan struct{}       { return c.window.done }

func (c call) Err() error {
	select {
	case <-c.window.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}
