package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A Locker is a [Store] that can lock a key for all processes. See rediscache.
type Locker interface {
	// Lock takes the lock of key, without waiting, for at most ttl. It returns
	// a function that gives it back, if it is still held, or nil if somebody
	// else holds it.
	Lock(ctx context.Context, key string, ttl time.Duration) (unlock func(context.Context) error, err error)
}

// loaderTier guards the Store: every call has a deadline, a panic is an error,
// and a Store that fails is left alone for a while.
type loaderTier struct {
	store    Store
	locker   Locker   // nil: can't lock
	notifier Notifier // nil: can't tell the others
	timeout  time.Duration
	log      *loaderLog
	name     string

	hits, misses, errors atomic.Uint64

	mu       sync.Mutex
	failures int       // in a row
	until    time.Time // it is left alone
	trying   time.Time // until then one call finds out whether it is back; zero: none
	last     error
}

const (
	// A Store that fails is left alone for so long, and then tried with one call.
	// That call costs one load StoreTimeout at most, so there is little reason to
	// wait longer, and good ones not to: what comes back is used at once.
	loaderStoreRest    = time.Second     // after the first failure
	loaderStoreMaxRest = 2 * time.Second // after each further one

	loaderStoreMaxTTL = 30 * 24 * time.Hour
)

func newLoaderTier(store Store, timeout time.Duration, log *loaderLog, name string) *loaderTier {
	t := &loaderTier{store: store, timeout: timeout, log: log, name: name}
	t.locker, _ = store.(Locker)
	t.notifier, _ = store.(Notifier)
	return t
}

// up reports whether the Store may be asked. When it has been left alone for
// long enough, one caller at a time is told so, to try it.
func (t *loaderTier) up() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failures == 0 {
		return true
	}
	now := time.Now()
	if now.Before(t.until) || now.Before(t.trying) {
		return false
	}
	t.trying = now.Add(2 * t.timeout)
	return true
}

// loaderCall calls the Store with the values of ctx and a deadline, and notes
// whether it works. A Store that pays no heed to its deadline is left behind.
func loaderCall[T any](ctx context.Context, t *loaderTier, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.timeout)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		r := result{err: loaderExited{}}
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("panic: %v", p)
			}
			done <- r
		}()
		r.value, r.err = call(ctx)
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		select {
		case r = <-done:
		default:
			r.err = ctx.Err()
		}
	}
	t.report(r.err)
	return r.value, r.err
}

// do is loaderCall for what returns only an error.
func (t *loaderTier) do(ctx context.Context, call func(context.Context) error) error {
	_, err := loaderCall(ctx, t, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) })
	return err
}

func (t *loaderTier) report(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		if t.failures > 0 {
			t.failures, t.last, t.trying = 0, nil, time.Time{}
			t.log.add(t.name + ": the store answers again")
		}
		return
	}
	t.errors.Add(1)
	if t.failures == 0 || !t.trying.IsZero() {
		// Calls that were under way together count as one failure.
		rest := loaderStoreMaxRest
		if t.failures == 0 {
			rest = loaderStoreRest
		}
		t.until, t.trying = time.Now().Add(rest-rand.N(rest/4)), time.Time{} // a fleet doesn't try in step
		if t.failures++; t.failures == 1 {
			t.log.add(fmt.Sprintf("%s: the store fails, going on without it: %s", t.name, loaderLine(err)))
		}
	}
	t.last = err
}

// condition says what is wrong with the Store, or "".
func (t *loaderTier) condition() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failures == 0 {
		return ""
	}
	return fmt.Sprintf("the store is left alone until %s: %s", t.until.UTC().Format(time.TimeOnly+"Z"), loaderLine(t.last))
}

// storeKey is under what the Store keeps key. It is an error if key doesn't
// survive being written down.
func (l *Loader[K, V]) storeKey(key K) (string, error) {
	text, err := l.keys.encode(key)
	return l.cfg.Name + ":" + text, err
}

// lookUp looks for the key of f in the Store, and if it isn't there takes its
// lock; while another process holds that, it waits for what comes. It reports
// whether f is done; if not, it is to be loaded, and unlock to be called then.
func (l *Loader[K, V]) lookUp(f *loaderFlight[K, V], r *loaderResult[K, V]) (unlock func(), done bool) {
	patience := time.Now().Add(l.cfg.LockTTL)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		unlock, taken := l.tryLookUp(f, r)
		if r.shared {
			return unlock, true
		}
		if !taken || time.Now().After(patience) {
			return unlock, false
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-f.ctx.Done():
			r.err = context.Cause(f.ctx)
			return unlock, true
		}
	}
}

// tryLookUp looks for the key of f in the Store once: r.shared says that it is
// there. Otherwise it takes the lock; taken says that somebody else has it.
func (l *Loader[K, V]) tryLookUp(f *loaderFlight[K, V], r *loaderResult[K, V]) (unlock func(), taken bool) {
	unlock = func() {}
	key, err := l.storeKey(f.key)
	if err != nil || !l.tier.up() {
		return unlock, false
	}
	if l.fetch(f, key, r) || l.tier.locker == nil || !l.tier.up() {
		return unlock, false
	}
	free, err := loaderCall(f.ctx, l.tier, func(ctx context.Context) (func(context.Context) error, error) {
		return l.tier.locker.Lock(ctx, key, l.cfg.LockTTL)
	})
	if err != nil {
		return unlock, false
	}
	if free == nil {
		return unlock, true
	}
	unlock = func() { _ = l.tier.do(f.ctx, free) }
	// The process that had the lock may have put the value there since.
	if l.fetch(f, key, r) {
		unlock()
		return func() {}, false
	}
	return unlock, false
}

// fetch gets the answer for f from the Store. It reports whether there is one
// that is of use: fresh, and newer than what is being reloaded.
func (l *Loader[K, V]) fetch(f *loaderFlight[K, V], key string, r *loaderResult[K, V]) bool {
	data, err := loaderCall(f.ctx, l.tier, func(ctx context.Context) ([]byte, error) { return l.tier.store.Get(ctx, key) })
	if err != nil {
		return false
	}
	e := l.unpack(f.key, f.hash, data)
	switch {
	case e == nil, l.now() >= e.expires:
	case f.reload != nil && f.reload.state.Load()&loaderUnsure == 0 && e.expires <= loaderAfter(f.reload.expires, 10*time.Millisecond):
		// The very answer that is to be reloaded, give or take the clocks.
	case l.deadByTag(f.ctx, e):
	default:
		l.tier.hits.Add(1)
		r.value, r.err = e.answer()
		r.entry, r.shared = e, true
		return true
	}
	l.tier.misses.Add(1)
	return false
}

// store writes what f has loaded to the Store, unless it was invalidated
// meanwhile.
func (l *Loader[K, V]) store(f *loaderFlight[K, V], r *loaderResult[K, V]) {
	s := f.shard
	current := func(end bool) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		is := s.storing[f.key] == f
		if is && end {
			delete(s.storing, f.key)
		}
		return is
	}
	if l.tier == nil || !current(false) {
		return
	}
	if l.tier.up() {
		_ = l.storeEntry(f.ctx, r.entry)
	}
	if !current(true) {
		// Deleted or set anew while it was being written: nobody can say which
		// came last, so it must go.
		_ = l.unstore(f.ctx, f.key)
	}
}

// storeEntry writes e to the Store.
func (l *Loader[K, V]) storeEntry(ctx context.Context, e *loaderEntry[K, V]) error {
	key, err := l.storeKey(e.key)
	if err != nil {
		return err
	}
	data, err := l.pack(e)
	if err != nil {
		return err
	}
	ttl := min(time.Duration(e.dies-l.now()), loaderStoreMaxTTL)
	if ttl <= 0 {
		return nil
	}
	return l.tier.do(ctx, func(ctx context.Context) error { return l.tier.store.Set(ctx, key, data, ttl) })
}

// unstore deletes key from the Store. It tries even while the Store is left
// alone: an old value that is there when it comes back would be served again.
func (l *Loader[K, V]) unstore(ctx context.Context, key K) error {
	text, err := l.storeKey(key)
	if err != nil {
		return nil // it was never stored
	}
	return l.tier.do(ctx, func(ctx context.Context) error { return l.tier.store.Delete(ctx, text) })
}
