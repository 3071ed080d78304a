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
	p, _ := b.fam.permits.Get().(*permit)
	if p == nil {
		p = new(permit)
	}
	p.c, p.ctx = c, ctx
	use := p.use.Load()
	return func(err error) { p.done(use, err) }, nil
}

// A permit is a call that [Breaker.Allow] let through. It is used again when
// its call is done, so that Allow allocates no more than the function that it
// returns; one whose done is forgotten is garbage.
type permit struct {
	c   call
	ctx context.Context
	use atomic.Uint64 // how often it was used: a done of an earlier use does nothing
}

func (p *permit) done(use uint64, err error) {
	if !p.use.CompareAndSwap(use, use+1) { // done may be called twice, even at once
		return
	}
	f := p.c.b.fam
	p.c.finish(p.ctx, err)
	p.c, p.ctx = call{}, nil
	f.permits.Put(p)
}

// finish ends a call that returned err.
func (c *call) finish(ctx context.Context, err error) {
	if err == nil && c.b.fam.cfg.Judge == nil {
		c.end(Success, 0)
		return
	}
	c.finishJudged(ctx, err)
}

func (c *call) finishJudged(ctx context.Context, err error) {
	defer c.abandon(ctx) // a Judge may panic
	v := c.judge(ctx, Outcome{Err: err})
	c.end(v, c.askedBy(err))
}
