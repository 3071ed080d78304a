package cache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A fillContext is the context of a call that others may wait for: it has the
// values of the request that led to the call, but ends only when nobody waits
// any more, or when Config.FillTimeout is over.
//
// Few handlers look whether it has ended, so what it takes to find out (a
// channel, a timer, an eye on the client) is made when one does.
type fillContext struct {
	context.Context         // the values
	f               *flight // whose call it is

	asked atomic.Pointer[fillEnd] // nil until somebody has looked

	// mu protects what follows, and orders it with asked.
	mu    sync.Mutex
	cause error // why it has ended
	begun bool  // the header has come: the timeout is past
}

// A fillEnd is how a fillContext ends for those who look.
type fillEnd struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  func() bool // stops the eye on the client
	timer  *time.Timer
}

func (c *fillContext) Done() <-chan struct{} { return c.end().ctx.Done() }

func (c *fillContext) Err() error {
	if c.asked.Load() == nil && c.goesOn() {
		return nil
	}
	return c.end().ctx.Err()
}

// goesOn reports whether there is nothing yet that could have ended c. Many ask
// once, when their work is done, and need nobody to wait for the end.
func (c *fillContext) goesOn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil || c.f.client != nil && c.f.client.Err() != nil {
		return false
	}
	d := c.f.c.fillTimeout
	return d <= 0 || c.begun || c.f.c.now()-c.f.started < d
}

// A flightKey is the key of the flight in the context of its call.
type flightKey struct{}

func (c *fillContext) Value(key any) any {
	if key == (flightKey{}) {
		return c.f
	}
	if e := c.asked.Load(); e != nil {
		return e.ctx.Value(key) // the context package looks for itself here
	}
	return c.Context.Value(key)
}

// end returns how c ends, and sees to it that it does.
func (c *fillContext) end() *fillEnd {
	if e := c.asked.Load(); e != nil {
		return e
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.asked.Load(); e != nil {
		return e
	}
	e := &fillEnd{}
	e.ctx, e.cancel = context.WithCancelCause(c.Context)
	if c.cause != nil {
		e.cancel(c.cause)
	} else {
		if c.f.client != nil {
			e.watch = context.AfterFunc(c.f.client, c.f.leaderLeaves)
		}
		if d := c.f.c.fillTimeout; d > 0 && !c.begun {
			e.timer = time.AfterFunc(d-(c.f.c.now()-c.f.started), func() { c.cancel(errFillTimeout) })
		}
	}
	c.asked.Store(e)
	return e
}

// cancel ends c. The first cause stays; nil stands for none in particular.
func (c *fillContext) cancel(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	c.mu.Lock()
	if c.cause != nil {
		c.mu.Unlock()
		return
	}
	c.cause = cause
	e := c.asked.Load()
	c.mu.Unlock()
	if e != nil {
		e.release()
		e.cancel(cause)
	}
}

// begin says that the header has come, which is what FillTimeout is for.
func (c *fillContext) begin() {
	c.mu.Lock()
	c.begun = true
	if e := c.asked.Load(); e != nil && e.timer != nil {
		e.timer.Stop()
	}
	c.mu.Unlock()
}

// ended returns why c has ended, or nil.
func (c *fillContext) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

func (e *fillEnd) release() {
	if e.timer != nil {
		e.timer.Stop()
	}
	if e.watch != nil {
		e.watch()
	}
}
