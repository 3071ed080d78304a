package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"time"
)

// DeleteTags is [Loader.Delete] for every key whose value has one of the tags,
// by [LoaderConfig.Tags]. As the value that a load will bring is not known, no
// load that is running meanwhile is kept. It takes time for each key that it
// finds in memory, not for the others.
func (l *Loader[K, V]) DeleteTags(ctx context.Context, tags ...string) error {
	l.dropTags(tags)
	if l.tier == nil || len(tags) == 0 {
		return nil
	}
	var errs []error
	for _, tag := range tags {
		errs = append(errs, l.markTag(ctx, tag))
	}
	l.dropTags(tags)
	errs = append(errs, l.publish(ctx, loaderMessage{Tags: tags}))
	return errors.Join(errs...)
}

func (l *Loader[K, V]) dropTags(tags []string) {
	l.ground(nil)
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for _, tag := range tags {
			for e := range s.tagged[tag] {
				s.forget(e)
				s.policy.remove(e)
			}
		}
		s.mu.Unlock()
	}
}

// tag makes e known by its tags. The mutex is held.
func (s *loaderShard[K, V]) tag(e *loaderEntry[K, V]) {
	for _, tag := range e.tags() {
		if s.tagged == nil {
			s.tagged = make(map[string]map[*loaderEntry[K, V]]struct{})
		}
		if s.tagged[tag] == nil {
			s.tagged[tag] = make(map[*loaderEntry[K, V]]struct{})
		}
		s.tagged[tag][e] = struct{}{}
	}
}

func (s *loaderShard[K, V]) untag(e *loaderEntry[K, V]) {
	for _, tag := range e.tags() {
		if delete(s.tagged[tag], e); len(s.tagged[tag]) == 0 {
			delete(s.tagged, tag)
		}
	}
}

// A tag that was deleted leaves a mark in the Store, the time when: what the
// Store has under the tag and was loaded before then is dead. So nobody has to
// know which keys have it.

// loaderSkew is by how much the clocks of the processes may differ.
const loaderSkew = time.Second

func (l *Loader[K, V]) tagKey(tag string) string { return l.cfg.Name + "#" + tag }

// markTag notes in the Store that tag is deleted as of now.
func (l *Loader[K, V]) markTag(ctx context.Context, tag string) error {
	// A clock that was set back must not make this older than what was stored
	// before.
	at := l.now() + max(l.wall(), l.ahead.Load())
	mark := binary.BigEndian.AppendUint64(nil, uint64(at))
	return l.tier.do(ctx, func(ctx context.Context) error {
		return l.tier.store.Set(ctx, l.tagKey(tag), mark, 2*loaderStoreMaxTTL)
	})
}

// deadByTag reports whether e, from the Store, was loaded before one of its tags
// was deleted. If the Store can't say, it was.
func (l *Loader[K, V]) deadByTag(ctx context.Context, e *loaderEntry[K, V]) bool {
	wall := l.wall()
	for _, tag := range e.tags() {
		mark, err := loaderCall(ctx, l.tier, func(ctx context.Context) ([]byte, error) { return l.tier.store.Get(ctx, l.tagKey(tag)) })
		if err != nil {
			return true
		}
		if len(mark) == 8 && e.born+wall <= int64(binary.BigEndian.Uint64(mark))+int64(loaderSkew) {
			return true
		}
	}
	return false
}
