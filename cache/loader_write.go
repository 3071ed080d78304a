package cache

import (
	"context"
	"errors"
	"iter"

	"golang.org/x/sync/errgroup"
)

// Peek returns the value of key if it is in memory, fresh or stale. It loads
// nothing and counts nothing.
func (l *Loader[K, V]) Peek(key K) (V, bool) {
	hash := l.hash(key)
	e := l.shard(hash).index.find(hash, key)
	if e == nil || e.kind != loaderValue || l.now() >= e.dies {
		var zero V
		return zero, false
	}
	return e.value, true
}

// Range yields the keys and values in memory, fresh and stale, in no order. It
// counts nothing. The loop may call the Loader.
func (l *Loader[K, V]) Range() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for i := range l.shards {
			for _, e := range l.shards[i].values(l.now()) {
				if !yield(e.key, e.value) {
					return
				}
			}
		}
	}
}

// values returns the entries of the shard that have a value.
func (s *loaderShard[K, V]) values(now int64) []*loaderEntry[K, V] {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*loaderEntry[K, V], 0, s.index.count)
	for e := range s.index.all() {
		if e.kind == loaderValue && now < e.dies {
			all = append(all, e)
		}
	}
	return all
}

// Set keeps value for key, as if it had just been loaded, here and in the
// Store. A load of key that is running meanwhile is not kept. The error is that
// of the Store; memory is set all the same.
func (l *Loader[K, V]) Set(ctx context.Context, key K, value V) error {
	hash := l.hash(key)
	s := l.shard(hash)
	e := l.entry(key, hash, value, nil, l.now())
	l.put(s, key, hash, e)
	if l.tier == nil {
		return nil
	}
	if e == nil {
		return l.Delete(ctx, key)
	}
	err := l.storeEntry(ctx, e)
	return errors.Join(err, l.publish(ctx, loaderMessage{}, key))
}

// Delete forgets what is known of the keys, here, in the Store and, if that is
// a [Notifier], in the other processes. A load of one of them that is running
// meanwhile is not kept: whoever calls Get after Delete has returned gets what
// the source says after Delete was called. The error is that of the Store; the
// keys are then forgotten here, but perhaps not elsewhere.
func (l *Loader[K, V]) Delete(ctx context.Context, keys ...K) error {
	l.drop(keys)
	if l.tier == nil || len(keys) == 0 {
		return nil
	}
	group, failed := errgroup.WithContext(ctx)
	group.SetLimit(loaderCalls)
	for _, key := range keys {
		group.Go(func() error {
			if failed.Err() != nil && ctx.Err() == nil {
				return nil // a Store that hangs is not to be waited for key by key
			}
			return l.unstore(ctx, key)
		})
	}
	err := group.Wait()
	// What began after the first drop may have found the old value in the Store.
	l.drop(keys)
	return errors.Join(err, l.publish(ctx, loaderMessage{}, keys...))
}

// DeleteFunc is [Loader.Delete] for every key in memory for whose value match
// returns true; what only the Store or another process has isn't seen. Negative
// answers and kept errors are forgotten, and no load that is running meanwhile
// is kept. It returns how many values were deleted. It looks at all of them,
// and calls match without holding a lock.
func (l *Loader[K, V]) DeleteFunc(ctx context.Context, match func(key K, value V) bool) (int, error) {
	var keys []K
	l.ground(func(e *loaderEntry[K, V]) bool { return e.kind != loaderValue })
	for key, value := range l.Range() {
		if match(key, value) {
			keys = append(keys, key)
		}
	}
	return len(keys), l.Delete(ctx, keys...)
}

// put keeps e, or nothing, for key, whatever a load that is running may bring.
func (l *Loader[K, V]) put(s *loaderShard[K, V], key K, hash uint64, e *loaderEntry[K, V]) {
	s.mu.Lock()
	delete(s.flights, key)
	delete(s.storing, key)
	l.keep(s, key, hash, e)
	l.unlock(s)
}

func (l *Loader[K, V]) drop(keys []K) {
	for _, key := range keys {
		hash := l.hash(key)
		l.put(l.shard(hash), key, hash, nil)
	}
}

// ground sees to it that no load that is running is kept, and forgets the
// entries that drop, if not nil, says.
func (l *Loader[K, V]) ground(drop func(*loaderEntry[K, V]) bool) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for _, f := range s.flights {
			if f.reload != nil {
				f.reload.state.And(^uint32(loaderReloading))
			}
		}
		clear(s.flights)
		clear(s.storing)
		if drop != nil {
			var gone []*loaderEntry[K, V]
			for e := range s.index.all() {
				if drop(e) {
					gone = append(gone, e)
				}
			}
			for _, e := range gone {
				s.forget(e)
				s.policy.remove(e)
			}
		}
		s.mu.Unlock()
	}
}
