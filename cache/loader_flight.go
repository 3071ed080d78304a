package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"time"
)

// loaderFlight is one load that is running, with everybody who waits for it.
//
// It isn't a call of x/sync/singleflight, for four reasons. The keys of that
// are strings. One call of LoadMany settles many keys, which a Group can't say.
// Looking the key up and joining the flight must be one step under one mutex,
// and so must be forgetting both. And a Group whose function ends its goroutine
// (a t.FailNow in a fake source) leaves those who wait on a channel waiting
// for ever.
type loaderFlight[K comparable, V any] struct {
	key    K
	hash   uint64
	shard  *loaderShard[K, V]
	ctx    context.Context
	cancel context.CancelFunc
	reload *loaderEntry[K, V] // what is served meanwhile; nil if callers wait
	placed bool               // has one of the MaxLoads places

	done  chan struct{} // closed when what follows is set
	value V
	err   error
}

// miss waits for the load of a key that isn't in memory, and starts it if it
// isn't running.
func (l *Loader[K, V]) miss(ctx context.Context, s *loaderShard[K, V], hash uint64, key K) (V, error) {
	e, f, first := l.board(ctx, s, hash, key)
	switch {
	case e != nil:
		return e.answer()
	case f == nil:
		var zero V
		return zero, ErrClosed
	case first:
		l.launch(f)
	}
	return l.wait(ctx, f)
}

// board returns what is known of key by now, or the flight that loads it, and
// whether this caller has to launch it. It returns neither after Close.
func (l *Loader[K, V]) board(ctx context.Context, s *loaderShard[K, V], hash uint64, key K) (*loaderEntry[K, V], *loaderFlight[K, V], bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.index.find(hash, key); e != nil && l.now() < e.dies {
		s.hits.Add(1) // loaded a moment ago
		return e, nil, false
	}
	s.policy.miss(hash, s.hits.Load()+s.stale.Load())
	if f := s.flights[key]; f != nil {
		l.counts.coalesced.Add(1)
		return nil, f, false
	}
	l.counts.misses.Add(1)
	return nil, l.takeOff(ctx, s, hash, key, nil), true
}

// reload starts a load in the background, unless one is running.
func (l *Loader[K, V]) reload(ctx context.Context, s *loaderShard[K, V], e *loaderEntry[K, V]) {
	if f := l.boardReload(ctx, s, e); f != nil {
		l.launch(f)
	}
}

// boardReload returns a flight to launch that reloads e, or nil if there is one
// already or no place for it.
func (l *Loader[K, V]) boardReload(ctx context.Context, s *loaderShard[K, V], e *loaderEntry[K, V]) *loaderFlight[K, V] {
	if l.loads != nil && !l.loads.TryAcquire(1) {
		return nil
	}
	s.mu.Lock()
	var f *loaderFlight[K, V]
	if s.flights[e.key] == nil && s.index.find(e.hash, e.key) == e && l.now() >= e.retryAt.Load() {
		f = l.takeOff(ctx, s, e.hash, e.key, e)
	}
	s.mu.Unlock()
	switch {
	case f != nil:
		f.placed = l.loads != nil
	case l.loads != nil:
		l.loads.Release(1)
	}
	return f
}

// takeOff registers a flight, for launch. It returns nil after Close. The mutex
// of the shard is held.
func (l *Loader[K, V]) takeOff(ctx context.Context, s *loaderShard[K, V], hash uint64, key K, reload *loaderEntry[K, V]) *loaderFlight[K, V] {
	if s.closed {
		return nil
	}
	l.running.Add(1)
	l.counts.inFlight.Add(1)
	f := &loaderFlight[K, V]{key: key, hash: hash, shard: s, reload: reload, done: make(chan struct{})}
	f.ctx, f.cancel = l.detach(ctx)
	if reload != nil {
		reload.state.Or(loaderReloading)
	}
	if key == key { // not a NaN, which no map would ever give back
		s.flights[key] = f
	}
	return f
}

// detach returns a context with the values of ctx, that ends after LoadTimeout
// and on Close.
func (l *Loader[K, V]) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(l.closing, func() { cancel(ErrClosed) })
	free := context.CancelFunc(func() {})
	if l.cfg.LoadTimeout > 0 {
		ctx, free = context.WithTimeoutCause(ctx, l.cfg.LoadTimeout, l.timeout)
	}
	return ctx, func() {
		stop()
		free()
		cancel(nil)
	}
}

// wait waits for f, as long as ctx and the load may take.
func (l *Loader[K, V]) wait(ctx context.Context, f *loaderFlight[K, V]) (V, error) {
	var zero V
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		return zero, ctx.Err()
	case <-f.ctx.Done():
		// Either it has just ended, or it pays no heed to its context.
		select {
		case <-f.done:
			return f.value, f.err
		default:
			return zero, context.Cause(f.ctx)
		}
	}
}

// launch starts the goroutine that loads the key of f.
func (l *Loader[K, V]) launch(f *loaderFlight[K, V]) {
	if l.cfg.Gather > 0 {
		l.gather(f)
	} else {
		go l.run(f)
	}
}

// loaderResult is how a load has ended.
type loaderResult[K comparable, V any] struct {
	value  V
	err    error
	entry  *loaderEntry[K, V] // what is to be kept; nil if nothing is
	took   time.Duration
	shared bool // found in the Store: nothing was loaded
}

// answered reports whether the source said something, if only that it has no
// such thing.
func (r *loaderResult[K, V]) answered() bool { return r.err == nil || errors.Is(r.err, ErrNotFound) }

// run loads the key of f and lands it.
func (l *Loader[K, V]) run(f *loaderFlight[K, V]) {
	defer l.running.Done()
	r := loaderResult[K, V]{err: loaderExited{}}
	unlock := func() {}
	defer func() { // also when the load ends the goroutine
		l.land(f, &r)
		l.store(f, &r)
		unlock()
	}()
	if l.tier != nil {
		var done bool
		if unlock, done = l.lookUp(f, &r); done {
			l.leave(f)
			return
		}
	}
	if err := l.enter(f); err != nil {
		r.err = err
		return
	}
	defer l.leave(f)
	l.call(f, &r)
}

// enter waits for one of the MaxLoads places.
func (l *Loader[K, V]) enter(f *loaderFlight[K, V]) error {
	if l.loads == nil || f.placed {
		return nil
	}
	l.counts.waiting.Add(1)
	defer l.counts.waiting.Add(-1)
	if l.loads.Acquire(f.ctx, 1) != nil {
		return fmt.Errorf("cache: %d loads are running, and none ended in time: %w", l.cfg.MaxLoads, context.Cause(f.ctx))
	}
	f.placed = true
	return nil
}

func (l *Loader[K, V]) leave(f *loaderFlight[K, V]) {
	if f.placed {
		f.placed = false
		l.loads.Release(1)
	}
}

// call calls Load and the functions of the configuration that look at its
// result. If one of them panics, that is the result.
func (l *Loader[K, V]) call(f *loaderFlight[K, V], r *loaderResult[K, V]) {
	born := l.now()
	defer func() {
		took := time.Duration(l.now() - born)
		if p := recover(); p != nil {
			*r = loaderResult[K, V]{err: l.panicked(p)}
		}
		r.took = took
	}()
	value, err := l.cfg.Load(f.ctx, f.key)
	l.judge(f, r, value, err, born)
}

func (l *Loader[K, V]) panicked(value any) error {
	l.counts.panics.Add(1)
	return &LoadPanicError{Value: value, Stack: debug.Stack()}
}

// judge says what callers are given and what is kept of what Load has returned.
func (l *Loader[K, V]) judge(f *loaderFlight[K, V], r *loaderResult[K, V], value V, err error, born int64) {
	if err == nil {
		entry := l.entry(f.key, f.hash, value, nil, born)
		r.value, r.err, r.entry = value, nil, entry
		return
	}
	if f.ctx.Err() != nil && errors.Is(err, f.ctx.Err()) {
		err = context.Cause(f.ctx) // which says whether it was LoadTimeout or Close
	} else if !errors.Is(err, ErrNotFound) && l.cfg.NotFound(err) {
		err = loaderNotFound{err}
	}
	r.err = err
	if r.answered() {
		r.entry = l.entry(f.key, f.hash, r.value, err, born)
	}
}

// land keeps the result of f, unless the key was invalidated meanwhile, and
// wakes those who wait.
func (l *Loader[K, V]) land(f *loaderFlight[K, V], r *loaderResult[K, V]) {
	s := f.shard
	s.mu.Lock()
	if s.flights[f.key] == f {
		delete(s.flights, f.key)
		if r.answered() {
			l.keep(s, f.key, f.hash, r.entry)
			if l.tier != nil && r.entry != nil && !r.shared {
				s.storing[f.key] = f
			}
		} else {
			l.backOff(s, f.key, f.hash, r.err)
		}
	}
	l.unlock(s)
	l.count(f, r)
	f.value, f.err = r.value, r.err
	close(f.done)
	f.cancel()
	if l.cfg.OnLoad != nil && !r.shared {
		l.guard(func() { l.cfg.OnLoad(LoadEvent[K]{Key: f.key, Took: r.took, Err: r.err, Reload: f.reload != nil}) })
	}
}

// backOff notes that the load of key has failed: a value that can still be
// served isn't reloaded for a while; otherwise the error itself may be kept.
// The mutex of the shard is held.
func (l *Loader[K, V]) backOff(s *loaderShard[K, V], key K, hash uint64, err error) {
	if errors.Is(err, ErrClosed) {
		return
	}
	now := l.now()
	old := s.index.find(hash, key)
	failures := uint8(0) // before this one
	if old != nil {
		failures = old.failures
	}
	if old != nil && old.kind != loaderFailure && now < old.dies {
		old.failures = min(failures+1, loaderMaxDoublings)
		old.retryAt.Store(loaderAfter(now, l.jitter(loaderPause(cmp.Or(l.cfg.ErrorTTL, time.Second), failures))))
		old.state.And(^uint32(loaderReloading))
		return
	}
	if l.cfg.ErrorTTL == 0 {
		return
	}
	e := &loaderEntry[K, V]{key: key, hash: hash, born: now, more: &loaderMore{err: err}, kind: loaderFailure, cost: 1}
	e.failures = min(failures+1, loaderMaxDoublings)
	e.expires = loaderAfter(now, l.jitter(loaderPause(l.cfg.ErrorTTL, failures)))
	e.dies = e.expires
	e.early.Store(e.expires)
	l.keep(s, key, hash, e)
}

// loaderPause doubles d for each failure there was before.
func loaderPause(d time.Duration, failures uint8) time.Duration {
	return min(d, math.MaxInt64>>loaderMaxDoublings) << failures
}

const loaderMaxDoublings = 5
