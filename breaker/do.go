package breaker

import (
	"context"
	"sync/atomic"
)

// Do calls fn if b lets it, and counts the error that it returns; otherwise it
// returns an [*OpenError] without a call. If fn panics that is a failure, and
// the panic goes on up.
//
// If ctx was cancelled while fn ran, its error counts as nothing; if ctx is past
// its deadline, as a failure. An error with a method RetryAfter() time.Duration
// is obeyed like an upstream's Retry-After.
//
// A loop that retries should stop, or wait for RetryAfter, when the error is
// [ErrOpen]: a refused call isn't counted as a failure, in whatever order Do,
// singleflight and the loop are nested.
func Do[T any](ctx context.Context, b *Breaker, fn func(context.Context) (T, error)) (T, error) {
	var c call
	if no := c.enter(b, 0); no != nil {
		var zero T
		return zero, no
	}
	defer c.abandon(ctx)
	v, err := fn(ctx)
	c.finish(ctx, err)
	return v, err
}

// DoOr is like [Do], but calls fallback for the answer when the call is
// refused. fallback isn't counted.
func DoOr[T any](ctx context.Context, b *Breaker, fn func(context.Context) (T, error), fallback func(context.Context, *OpenError) (T, error)) (T, error) {
	var c call
	if no := c.enter(b, 0); no != nil {
		return fallback(ctx, no)
	}
	defer c.abandon(ctx)
	v, err := fn(ctx)
	c.finish(ctx, err)
	return v, err
}

// Allow asks for one call. If err is nil the caller must call done, with the
// call's error, once it is known; further calls of done do nothing. A done that
// never comes is a slow call for one Window, and if it was a probe, a failed one
// when its lease is over; nothing else waits for it. Otherwise err is an
// [*OpenError]. ctx is the call's, and may be cancelled: see [Do].
func (b *Breaker) Allow(ctx context.Context) (done func(error), err error) {
	var c call
	if no := c.enter(b, 0); no != nil {
		return nil, no
	}
	a := &allowed{ctx: ctx, c: c}
	return a.done, nil
}

type allowed struct {
	ctx  context.Context
	c    call
	over atomic.Bool // done may be called twice, even at once
}

func (a *allowed) done(err error) {
	if a.over.CompareAndSwap(false, true) {
		a.c.finish(a.ctx, err)
	}
}

// finish ends a call that returned err.
func (c *call) finish(ctx context.Context, err error) {
	if err == nil && c.b.fam.cfg.Judge == nil {
		c.end(Success, 0)
		return
	}
	v := c.judge(ctx, Outcome{Err: err})
	c.end(v, c.askedBy(err))
}
