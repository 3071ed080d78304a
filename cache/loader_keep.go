package cache

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// keep puts e in the place of what is known of key. A nil e forgets it.
// The mutex of the shard is held.
func (l *Loader[K, V]) keep(s *loaderShard[K, V], key K, hash uint64, e *loaderEntry[K, V]) {
	old := s.index.find(hash, key)
	switch {
	case old != nil && e != nil:
		s.index.replace(old, e)
		s.untag(old)
		s.tag(e)
		s.policy.replace(old, e, l.now())
	case old != nil:
		s.forget(old)
		s.policy.remove(old)
	case e != nil:
		s.index.insert(e)
		s.tag(e)
		s.policy.add(e, l.now())
	}
}

// forget takes e out of the index. The mutex is held.
func (s *loaderShard[K, V]) forget(e *loaderEntry[K, V]) {
	s.index.remove(e)
	s.untag(e)
}

// entry returns what is to be kept of an answer to a load that began at born, or
// nil if nothing is.
func (l *Loader[K, V]) entry(key K, hash uint64, value V, err error, born int64) *loaderEntry[K, V] {
	e := &loaderEntry[K, V]{key: key, hash: hash, value: value, born: born, cost: 1}
	now := l.now()
	e.took = uint32(min((now-born)/1000, math.MaxUint32))
	ttl, stale := l.cfg.TTL, l.cfg.StaleFor
	if err != nil {
		ttl, stale = l.cfg.NotFoundTTL, 0
		if ttl < 0 {
			return nil
		}
		e.kind, e.more = loaderNegative, &loaderMore{err: err}
	} else {
		if l.cfg.TTLOf != nil {
			if own := l.cfg.TTLOf(key, value); own < 0 {
				return nil
			} else if own > 0 {
				ttl = own
			}
		}
		l.describe(e)
	}
	e.expires = loaderNever
	if ttl >= 0 {
		e.expires = loaderAfter(now, l.jitter(ttl))
	}
	e.dies = loaderAfter(e.expires, stale)
	l.setEarly(e)
	return e
}

// describe asks the configuration for the cost and the tags of a value.
func (l *Loader[K, V]) describe(e *loaderEntry[K, V]) {
	if l.cfg.Cost != nil {
		e.cost = max(1, l.cfg.Cost(e.key, e.value))
	}
	if l.cfg.Tags != nil {
		if tags := l.cfg.Tags(e.key, e.value); len(tags) > 0 {
			e.more = &loaderMore{tags: slices.Clone(tags)}
		}
	}
}

// setEarly says from when on a hit on e has to think of reloading it.
func (l *Loader[K, V]) setEarly(e *loaderEntry[K, V]) {
	early := e.expires
	if l.cfg.EarlyBeta > 0 && e.kind == loaderValue && e.expires != loaderNever {
		// Sooner than this, the probability of an early reload is less than
		// one in ten million: not worth a random number.
		early -= int64(min(16*l.cfg.EarlyBeta*float64(e.took)*1000, float64(max(early, 0))))
	}
	e.early.Store(early)
}

func (l *Loader[K, V]) jitter(d time.Duration) time.Duration {
	if l.cfg.Jitter <= 0 || d <= 0 {
		return d
	}
	return d - time.Duration(rand.Float64()*l.cfg.Jitter*float64(d))
}

// loaderAfter returns now + d, or never if that is too far away.
func loaderAfter(now int64, d time.Duration) int64 {
	if d > 0 && now > loaderNever-int64(d) {
		return loaderNever
	}
	return now + int64(d)
}
