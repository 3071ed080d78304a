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

	done  chan struct{} // closed when what follows is set
	value V
	err   error
}

// A LoadPanicError is what the callers of a load are given that panicked.
type LoadPanicError struct {
	Value any    // what it panicked with
	Stack []byte // where
}

// Error returns the value and the stack.
func (e *LoadPanicError) Error() string {
	return fmt.Sprintf("cache: load panicked: %v\n\n%s", e.Value, e.Stack)
}

// Unwrap returns the value if it is an error.
func (e *LoadPanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// miss waits for the load of a key that isn't in memory, and starts it if it
// isn't running.
func (l *Loader[K, V]) miss(ctx context.Context, s *loaderShard[K, V], hash uint64, key K) (V, error) {
	s.mu.Lock()
	if e := s.index.find(hash, key); e != nil && l.now() < e.dies {
		s.mu.Unlock() // loaded a moment ago
		s.hits.Add(1)
		return e.value, e.err
	}
	s.policy.miss(hash, s.hits.Load()+s.stale.Load())
	f := s.flights[key]
	joined := f != nil
	if !joined {
		if f = l.takeOff(ctx, s, hash, key, nil); f == nil {
			s.mu.Unlock()
			var zero V
			return zero, ErrLoaderClosed
		}
	}
	s.mu.Unlock()
	if joined {
		l.counts.coalesced.Add(1)
	} else {
		l.counts.misses.Add(1)
		go l.run(f)
	}
	return l.wait(ctx, f)
}

// reload starts a load in the background, unless one is running.
func (l *Loader[K, V]) reload(ctx context.Context, s *loaderShard[K, V], e *loaderEntry[K, V]) {
	if l.loads != nil && !l.loads.TryAcquire(1) {
		return
	}
	s.mu.Lock()
	var f *loaderFlight[K, V]
	if s.flights[e.key] == nil && s.index.find(e.hash, e.key) == e && l.now() >= e.retryAt.Load() {
		f = l.takeOff(ctx, s, e.hash, e.key, e)
	}
	s.mu.Unlock()
	if f == nil {
		if l.loads != nil {
			l.loads.Release(1)
		}
		return
	}
	go l.run(f)
}

// takeOff registers a flight, for run. It returns nil after Close. The mutex of
// the shard is held.
func (l *Loader[K, V]) takeOff(ctx context.Context, s *loaderShard[K, V], hash uint64, key K, reload *loaderEntry[K, V]) *loaderFlight[K, V] {
	if s.closed {
		return nil
	}
	l.running.Add(1)
	l.counts.inFlight.Add(1)
	f := &loaderFlight[K, V]{key: key, hash: hash, shard: s, reload: reload, done: make(chan struct{})}
	f.ctx, f.cancel = l.detach(ctx)
	if reload != nil {
		reload.reloading.Store(true)
	}
	s.flights[key] = f
	return f
}

// detach returns a context with the values of ctx, that ends after LoadTimeout
// and on Close.
func (l *Loader[K, V]) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(l.closing, func() { cancel(ErrLoaderClosed) })
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

// loaderResult is how a load has ended.
type loaderResult[K comparable, V any] struct {
	value V
	err   error
	entry *loaderEntry[K, V] // what is to be kept; nil if nothing is
	took  time.Duration
}

// answered reports whether the source said something, if only that it has no
// such thing.
func (r *loaderResult[K, V]) answered() bool { return r.err == nil || errors.Is(r.err, ErrNotFound) }

// run loads the key of f and lands it.
func (l *Loader[K, V]) run(f *loaderFlight[K, V]) {
	defer l.running.Done()
	result := loaderResult[K, V]{err: loaderExited{}}
	defer func() { l.land(f, &result) }() // also when the load ends the goroutine
	if l.loads != nil {
		// The place of a reload was taken before it started.
		if f.reload == nil && l.loads.Acquire(f.ctx, 1) != nil {
			result.err = fmt.Errorf("cache: %d loads are running, and none ended in time: %w", l.cfg.MaxLoads, context.Cause(f.ctx))
			return
		}
		defer l.loads.Release(1)
	}
	l.call(f, &result)
}

// call calls Load and the functions of the configuration that look at its
// result. If one of them panics, that is the result.
func (l *Loader[K, V]) call(f *loaderFlight[K, V], result *loaderResult[K, V]) {
	from := l.now()
	defer func() {
		result.took = time.Duration(l.now() - from)
		if r := recover(); r != nil {
			l.counts.panics.Add(1)
			*result = loaderResult[K, V]{err: &LoadPanicError{Value: r, Stack: debug.Stack()}, took: result.took}
		}
	}()
	value, err := l.cfg.Load(f.ctx, f.key)
	took := time.Duration(l.now() - from)
	if err == nil {
		result.value, result.err = value, nil
		result.entry = l.entry(f.key, f.hash, value, nil, took)
		return
	}
	if !errors.Is(err, ErrNotFound) && l.cfg.NotFound(err) {
		err = loaderNotFound{err}
	}
	result.err = err
	if result.answered() {
		result.entry = l.entry(f.key, f.hash, result.value, err, took)
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
		} else {
			l.backOff(s, f.key, f.hash, r.err)
		}
	}
	l.unlock(s)
	l.count(f, r)
	f.value, f.err = r.value, r.err
	close(f.done)
	f.cancel()
	if l.cfg.OnLoad != nil {
		l.guard(func() { l.cfg.OnLoad(LoadEvent[K]{Key: f.key, Took: r.took, Err: r.err, Reload: f.reload != nil}) })
	}
}

// backOff notes that the load of key has failed: a value that can still be
// served isn't reloaded for a while; otherwise the error itself may be kept.
// The mutex of the shard is held.
func (l *Loader[K, V]) backOff(s *loaderShard[K, V], key K, hash uint64, err error) {
	if errors.Is(err, ErrLoaderClosed) {
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
		old.reloading.Store(false)
		return
	}
	if l.cfg.ErrorTTL == 0 {
		return
	}
	e := &loaderEntry[K, V]{key: key, hash: hash, err: err, kind: loaderFailure, cost: 1}
	e.failures = min(failures+1, loaderMaxDoublings)
	l.date(e, loaderPause(l.cfg.ErrorTTL, failures), 0)
	l.keep(s, key, hash, e)
}

// loaderPause doubles d for each failure there was before.
func loaderPause(d time.Duration, failures uint8) time.Duration {
	return min(d, math.MaxInt64>>loaderMaxDoublings) << failures
}

const loaderMaxDoublings = 5

// loaderNotFound is an error that is an answer, by what LoaderConfig.NotFound
// says. It is ErrNotFound too, so that callers need to know only that.
type loaderNotFound struct{ error }

func (e loaderNotFound) Is(target error) bool { return target == ErrNotFound }
func (e loaderNotFound) Unwrap() error        { return e.error }

// loaderExited is what callers are given whose load called runtime.Goexit.
type loaderExited struct{}

func (loaderExited) Error() string { return "cache: load ended its goroutine (runtime.Goexit)" }

// loaderNever is a time that doesn't come.
const loaderNever = math.MaxInt64

// loaderAfter returns now + d, or never if that is too far away.
func loaderAfter(now int64, d time.Duration) int64 {
	if now > loaderNever-int64(d) {
		return loaderNever
	}
	return now + int64(d)
}
