package ratelimit

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
)

// A KeyCount is a key and about how often it was refused.
type KeyCount struct {
	Key     string // its first 64 bytes
	Refused uint64 // at most this often
	AtLeast uint64 // and at least this often
}

// A sketch finds the keys that are refused most, in fixed memory, by the
// Space-Saving algorithm (Metwally, Agrawal, El Abbadi 2005): a key that is
// not among the entries takes over the one with the lowest count, and that
// count with it, as the error it may have. Any key with more than a
// 64th of all refusals is among them.
//
// A refusal that finds the sketch busy is not recorded in it: under a flood a
// sample is enough, and nobody waits.
type sketch struct {
	mu      sync.Mutex
	seed    maphash.Seed
	n       int
	hashes  [64]uint64
	entries [64]entry
}

type entry struct {
	count, err uint64
	key        [64]byte
	size       int
}

func (s *sketch) add(key string) {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	if s.seed == (maphash.Seed{}) {
		s.seed = maphash.MakeSeed()
	}
	key = key[:min(len(key), 64)]
	h := maphash.String(s.seed, key)
	at := slices.Index(s.hashes[:s.n], h)
	if at >= 0 {
		s.entries[at].count++
		return
	}
	if s.n < len(s.entries) {
		at = s.n
		s.n++
	} else {
		at = 0
		for i := range s.entries {
			if s.entries[i].count < s.entries[at].count {
				at = i
			}
		}
	}
	e := &s.entries[at]
	s.hashes[at] = h
	e.err = e.count
	e.count++
	e.size = copy(e.key[:], key)
}

// top returns the entries, the most refused first.
func (s *sketch) top() []KeyCount {
	s.mu.Lock()
	counts := make([]KeyCount, 0, s.n)
	for i := range s.entries[:s.n] {
		e := &s.entries[i]
		counts = append(counts, KeyCount{string(e.key[:e.size]), e.count, e.count - e.err})
	}
	s.mu.Unlock()
	slices.SortFunc(counts, func(a, b KeyCount) int {
		return cmp.Or(cmp.Compare(b.Refused, a.Refused), strings.Compare(a.Key, b.Key))
	})
	return counts
}
