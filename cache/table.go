package cache

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	shardCount = 64

	// unfitPerShard bounds how many keys a shard remembers as not worth
	// waiting for.
	unfitPerShard = 256
)

// A shard holds the entries and the flights of a part of the keys.
type shard struct {
	// mu protects what follows, and the chain of every entry in it. To look
	// into index, or along a chain, it is not needed.
	mu      sync.Mutex
	index   index
	tags    map[string]map[*entry]struct{}
	flights map[uint64]*flight // and those after it
	unfit   *simplelru.LRU[uint64, *unfitKey]
	purged  time.Duration // when something last was; a time since Cache.base

	counts [outcomeCount]atomic.Uint64
	_      [64]byte
}

func newShard() *shard {
	unfit, err := simplelru.NewLRU[uint64, *unfitKey](unfitPerShard, nil)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	s := &shard{
		tags:    map[string]map[*entry]struct{}{},
		flights: map[uint64]*flight{},
		unfit:   unfit,
	}
	s.index.init(8)
	return s
}

// entries yields the first entry of every key. The shard must be locked.
func (s *shard) entries(yield func(hash uint64, first *entry) bool) {
	for e := range s.index.all {
		if !yield(e.hash, e) {
			return
		}
	}
}

func (c *Cache) shard(hash uint64) *shard { return c.shards[hash%shardCount] }

// find returns the entry to answer a request with header h from, or nil. It
// prefers one with a Vary field, and then the newest (RFC 9111 §4.1). part
// says that an entry that holds a part of the representation will do.
func (c *Cache) find(key []byte, hash uint64, h http.Header, part bool) *entry {
	s := c.shard(hash)
	e := s.index.get(hash)
	if e != nil && e.hasKey(key) && e.chain.Load() == nil {
		if (part || !e.part) && c.normal.matches(e, h) {
			return e
		}
		if !e.gone.Load() {
			return nil // it was the only one
		}
	}
	var buf [32]*entry
	variants := buf[:0]
	s.mu.Lock()
	if e = s.index.get(hash); e != nil && e.hasKey(key) {
		for ; e != nil; e = e.chain.Load() {
			variants = append(variants, e)
		}
	}
	s.mu.Unlock()
	var best *entry
	for _, e := range variants {
		if e.part && !part || !c.normal.matches(e, h) {
			continue
		}
		if best == nil || e.better(best) {
			best = e
		}
	}
	return best
}

// known reports whether anything is stored under a key.
func (c *Cache) known(key string, hash uint64) bool {
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.index.get(hash)
	return e != nil && e.key == key
}

// better reports whether to choose e over f when both match.
func (e *entry) better(f *entry) bool {
	switch {
	case e.part != f.part:
		return f.part
	case (e.vary != nil) != (f.vary != nil):
		return e.vary != nil
	case e.date != f.date:
		return e.date > f.date
	}
	return e.received > f.received
}

// insert stores e, an answer to a request with header h, in place of what that
// request would have been answered with before.
func (c *Cache) insert(e *entry, h http.Header) {
	s := c.shard(e.hash)
	s.mu.Lock()
	removed := s.replaceLocked(c, e, h)
	s.mu.Unlock()
	c.account(e, removed)
}

// swap puts e, an update of old, in its place.
func (c *Cache) swap(old, e *entry) {
	s := c.shard(e.hash)
	s.mu.Lock()
	if old.gone.Load() {
		s.mu.Unlock()
		return
	}
	removed := s.putLocked(c, e, func(x *entry) bool { return x == old })
	s.mu.Unlock()
	c.account(e, removed)
}

// account tells the policy what has come and gone, and makes room. No lock may
// be held.
func (c *Cache) account(e *entry, removed []*entry) {
	for _, old := range removed {
		c.policy.remove(old)
	}
	for _, victim := range c.policy.add(e) {
		c.shard(victim.hash).unlink(victim)
		c.evicted.Add(1)
	}
}

// replaceLocked puts e in the place of what a request with header h would have
// been answered with.
func (s *shard) replaceLocked(c *Cache, e *entry, h http.Header) (removed []*entry) {
	return s.putLocked(c, e, func(old *entry) bool {
		return (old.part || !e.part) && c.normal.matches(old, h)
	})
}

// putLocked puts e in the place of the entries of its key that out accepts, and
// of those that are too many.
func (s *shard) putLocked(c *Cache, e *entry, out func(*entry) bool) (removed []*entry) {
	var kept []*entry
	for old := s.index.get(e.hash); old != nil; old = old.chain.Load() {
		if old.key != e.key || out(old) {
			removed = append(removed, old)
			continue
		}
		kept = append(kept, old)
	}
	for len(kept) >= c.maxVariants { // the one that was received first goes
		i := 0
		for j, k := range kept {
			if k.received < kept[i].received {
				i = j
			}
		}
		removed = append(removed, kept[i])
		kept = slices.Delete(kept, i, i+1)
	}
	for _, old := range removed {
		old.gone.Store(true)
		s.untagLocked(old)
	}
	var next *entry
	for i := len(kept) - 1; i >= 0; i-- {
		kept[i].chain.Store(next)
		next = kept[i]
	}
	e.chain.Store(next)
	s.index.set(e.hash, e)
	e.eachTag(func(t string) {
		if s.tags[t] == nil {
			s.tags[t] = map[*entry]struct{}{}
		}
		s.tags[t][e] = struct{}{}
	})
	return removed
}

// partLocked returns the part that is stored for the request that e answers.
func (s *shard) partLocked(c *Cache, e *entry, h http.Header) *entry {
	for old := s.index.get(e.hash); old != nil; old = old.chain.Load() {
		if old.key == e.key && old.part && c.normal.matches(old, h) {
			return old
		}
	}
	return nil
}

// unlink takes e out of the shard, and reports whether it was there.
func (s *shard) unlink(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unlinkLocked(e)
}

func (s *shard) unlinkLocked(e *entry) bool {
	var before *entry
	for x := s.index.get(e.hash); x != nil; before, x = x, x.chain.Load() {
		if x != e {
			continue
		}
		e.gone.Store(true) // before its chain ends: see find
		switch next := e.chain.Load(); {
		case before != nil:
			before.chain.Store(next)
		case next != nil:
			s.index.set(e.hash, next)
		default:
			s.index.remove(e.hash)
		}
		e.chain.Store(nil)
		s.untagLocked(e)
		return true
	}
	return false
}

func (s *shard) untagLocked(e *entry) {
	e.eachTag(func(t string) {
		delete(s.tags[t], e)
		if len(s.tags[t]) == 0 {
			delete(s.tags, t)
		}
	})
}

// eachTag calls f for the tags of e. An entry whose key has more to it than
// the URL is found by the URL as if that were a tag; it ends with a zero byte,
// which no tag of a response can have.
func (e *entry) eachTag(f func(string)) {
	for _, t := range e.tags {
		f(t)
	}
	if t := urlTag(e.key); t != "" {
		f(t)
	}
}

// hasTag reports whether e carries one of tags.
func (e *entry) hasTag(tags []string) (found bool) {
	if len(tags) > 0 {
		e.eachTag(func(t string) { found = found || slices.Contains(tags, t) })
	}
	return found
}

// discard removes one entry.
func (c *Cache) discard(e *entry) {
	if c.shard(e.hash).unlink(e) {
		c.policy.remove(e)
	}
}

// splitTags splits the tags of a response: Surrogate-Key separates them with
// spaces, Cache-Tag with commas. ok is false if there are too many, or one is
// too long: what can't be purged must not be stored.
func splitTags(lines []string) (tags []string, ok bool) {
	for _, s := range lines {
		for _, t := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
			if len(tags) == maxTags || len(t) > maxTagLength {
				return nil, false
			}
			tags = append(tags, t)
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags), true
}

const (
	maxTags      = 256
	maxTagLength = 1024
)
