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
	// mu protects what follows, and the chain of every entry in it.
	mu      sync.Mutex
	entries map[uint64]*entry
	tags    map[string]map[*entry]struct{}
	flights map[uint64]*flight // and those after it
	unfit   *simplelru.LRU[uint64, *unfitKey]
	purges  uint64 // how often something was purged

	counts [outcomeCount]atomic.Uint64
	_      [64]byte
}

func newShard() *shard {
	unfit, err := simplelru.NewLRU[uint64, *unfitKey](unfitPerShard, nil)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &shard{
		entries: map[uint64]*entry{},
		tags:    map[string]map[*entry]struct{}{},
		flights: map[uint64]*flight{},
		unfit:   unfit,
	}
}

func (c *Cache) shard(hash uint64) *shard { return c.shards[hash%shardCount] }

// find returns the entry to answer a request with header h from, or nil. It
// prefers one with a Vary field, and then the newest (RFC 9111 §4.1). part
// says that an entry that holds a part of the representation will do.
func (c *Cache) find(key []byte, hash uint64, h http.Header, part bool) *entry {
	s := c.shard(hash)
	s.mu.Lock()
	e := s.entries[hash]
	if e == nil || e.key != string(key) {
		s.mu.Unlock()
		return nil
	}
	if e.chain == nil {
		s.mu.Unlock()
		if (e.part && !part) || !c.normal.matches(e, h) {
			return nil
		}
		return e
	}
	var buf [32]*entry
	variants := buf[:0]
	for ; e != nil; e = e.chain {
		variants = append(variants, e)
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
	e := s.entries[hash]
	return e != nil && e.key == key
}

// better reports whether to choose e over f when both match.
func (e *entry) better(f *entry) bool {
	switch {
	case e.part != f.part:
		return f.part
	case (len(e.vary) > 0) != (len(f.vary) > 0):
		return len(e.vary) > 0
	case !e.date.Equal(f.date):
		return e.date.After(f.date)
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
	for old := s.entries[e.hash]; old != nil; old = old.chain {
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
	e.chain = nil
	for i := len(kept) - 1; i >= 0; i-- {
		kept[i].chain, e.chain = e.chain, kept[i]
	}
	s.entries[e.hash] = e
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
	for old := s.entries[e.hash]; old != nil; old = old.chain {
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
	head := s.entries[e.hash]
	var before *entry
	for x := head; x != nil; before, x = x, x.chain {
		if x != e {
			continue
		}
		switch {
		case before != nil:
			before.chain = e.chain
		case e.chain != nil:
			s.entries[e.hash] = e.chain
		default:
			delete(s.entries, e.hash)
		}
		e.chain = nil
		e.gone.Store(true)
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

// purgeKey removes the entries of one key, and dooms its flights: what was
// asked for before this moment will not be kept.
func (c *Cache) purgeKey(key string, soft bool) int {
	hash := c.keys.hash([]byte(key))
	s := c.shard(hash)
	s.mu.Lock()
	var found []*entry
	for e := s.entries[hash]; e != nil; e = e.chain {
		if e.key == key {
			found = append(found, e)
		}
	}
	for f := s.flights[hash]; f != nil; f = f.next {
		f.doomed = f.doomed || f.key == key
	}
	s.purges++
	s.unfit.Remove(hash)
	c.purgeLocked(s, found, soft)
	s.mu.Unlock()
	return c.purged(found, soft)
}

// purgeAll removes every entry that match accepts.
func (c *Cache) purgeAll(match func(key string) bool, soft bool) (n int) {
	for _, s := range c.shards {
		s.mu.Lock()
		var found []*entry
		for _, head := range s.entries {
			for e := head; e != nil; e = e.chain {
				if match(e.key) {
					found = append(found, e)
				}
			}
		}
		for _, f := range s.flights {
			for ; f != nil; f = f.next {
				f.doomed = f.doomed || match(f.key)
			}
		}
		s.purges++
		s.unfit.Purge()
		c.purgeLocked(s, found, soft)
		s.mu.Unlock()
		n += c.purged(found, soft)
	}
	return n
}

// purgeTag removes every entry that carries tag, exactly.
func (c *Cache) purgeTag(tag string, soft bool) (n int) {
	for _, s := range c.shards {
		s.mu.Lock()
		found := make([]*entry, 0, len(s.tags[tag]))
		for e := range s.tags[tag] {
			found = append(found, e)
		}
		for _, f := range s.flights {
			for ; f != nil; f = f.next {
				f.deadTags = append(f.deadTags, tag) // its tags may not be known yet
			}
		}
		s.purges++
		c.purgeLocked(s, found, soft)
		s.mu.Unlock()
		n += c.purged(found, soft)
	}
	return n
}

func (c *Cache) purgeLocked(s *shard, found []*entry, soft bool) {
	now := c.now()
	for _, e := range found {
		if soft {
			e.softened.CompareAndSwap(0, max(1, int64(now)))
		} else {
			s.unlinkLocked(e)
		}
	}
}

func (c *Cache) purged(found []*entry, soft bool) int {
	if !soft {
		for _, e := range found {
			c.policy.remove(e)
		}
	}
	return len(found)
}

// An unfitKey is a key whose answers are not shared, so that nobody waits for
// another's in vain (hit-for-miss).
type unfitKey struct {
	key   string
	until atomic.Int64 // a time since Cache.base
}

// setUnfit remembers that the answers to a key are not shared.
func (s *shard) setUnfit(key string, hash uint64, until time.Duration) {
	u := &unfitKey{key: key}
	u.until.Store(int64(until))
	s.mu.Lock()
	s.unfit.Add(hash, u)
	s.mu.Unlock()
}

// extend makes u unfit for d from now. It is called for every answer, so it
// leaves alone what is long enough.
func (u *unfitKey) extend(now, d time.Duration) {
	if until := time.Duration(u.until.Load()); until < now+d-d/8 || until > now+d {
		u.until.Store(int64(now + d))
	}
}

// unfitLocked returns the key with this hash whose answers are not shared, or
// nil.
func (s *shard) unfitLocked(hash uint64, now time.Duration) *unfitKey {
	u, ok := s.unfit.Get(hash)
	if ok && int64(now) >= u.until.Load() {
		s.unfit.Remove(hash)
		return nil
	}
	return u
}

// splitTags splits the tags of a response: Surrogate-Key separates them with
// spaces, Cache-Tag with commas.
func splitTags(lines []string) []string {
	var tags []string
	for _, s := range lines {
		for _, t := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
			if len(tags) < maxTags && len(t) <= maxTagLength {
				tags = append(tags, t)
			}
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

const (
	maxTags      = 256
	maxTagLength = 1024
)
