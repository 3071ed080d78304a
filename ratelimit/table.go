package ratelimit

import (
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

// A table holds the buckets of many keys: for each, the hash of the key and
// one due time per rate, side by side in flat arrays without pointers. The
// due time is GCRA's "theoretical arrival time": the tick at which the bucket
// is full again. A bucket whose due times are all past is full, so it is the
// same as no bucket, and only such buckets are ever forgotten.
//
// The table is cut into shards by the top bits of the hash. Each shard is a
// small open-addressing array, linear probing, at most four fifths full, that
// grows by rehashing itself alone: a few thousand slots, tens of microseconds.
// Probing starts at the beginning of a line of the processor's cache, so that
// a decision about one key among millions fetches one line from memory, seldom
// two: with one rate, four slots fill a line.
//
// Writing goes by these rules:
//
//   - Whoever adds, moves or forgets a slot holds the shard's mu.
//   - Where there is one rate (memory.atomic), the due time of a slot that is
//     already there moves by compare-and-swap without mu. To take a slot away
//     from such writers, its due time is first swapped to frozen, on which
//     they fall back to mu. A slot is given to another key only when its due
//     time is past, and with one that is not: a writer that looked before
//     cannot succeed after.
//   - Otherwise every writer holds mu.
type table struct {
	width   int // words per slot: the hash, then the due times
	shift   uint
	max     int64 // slots in use over all shards
	shards  []shard
	_       [64]byte
	used    atomic.Int64
	flooded atomic.Int64 // due time of the latest debt in an overflow bucket
	stats   struct{ forgotten, overflowed atomic.Uint64 }
}

type shard struct {
	mu       sync.Mutex
	slots    atomic.Pointer[slots]
	used     int     // slots that have a hash, full buckets included
	turned   int     // keys turned to overflow since the last sweep
	swept    int64   // tick of the last sweep
	overflow []int64 // due times that the keys without a slot share
}

// slots is one shard's array: n slots of width words. An empty slot's hash is
// 0; there is always one, so that probing ends.
type slots struct {
	words []atomic.Uint64
	n     int
	width int
	mask  int // slots to a cache line, less one; 0 where they do not fit evenly
}

const (
	frozen    = ^uint64(0)
	shardKeys = 4096 // about how many keys a shard holds when the table is full
	maxShards = 1 << 14
	minSlots  = 8
	lineWords = 64 / 8 // of a cache line, on most processors
)

func newTable(rates, maxKeys int) *table {
	t := &table{width: 1 + rates, max: int64(maxKeys), shift: 64}
	n := 1
	for n < maxShards && n*shardKeys*2 <= maxKeys {
		n *= 2
		t.shift--
	}
	t.shards = make([]shard, n)
	return t
}

func (t *table) shard(h uint64) *shard { return &t.shards[h>>t.shift] }

// find returns the word index of h's first due time, or -1.
func (s *slots) find(h uint64) int {
	if s == nil {
		return -1
	}
	i := s.home(h)
	for {
		switch s.words[i].Load() {
		case h:
			return i + 1
		case 0:
			return -1
		}
		if i += s.width; i >= len(s.words) {
			i = 0
		}
	}
}

// home returns the word index of the slot where probing for h starts, the first
// of a cache line. It spreads the low half of h; the high bits chose the shard.
func (s *slots) home(h uint64) int {
	return int(uint64(uint32(h))*uint64(s.n)>>32) &^ s.mask * s.width
}

// past reports whether the n due times from word index i are over.
func (s *slots) past(i, n int, now int64) bool {
	for j := i; j < i+n; j++ {
		if int64(s.words[j].Load())-now >= 0 {
			return false
		}
	}
	return true
}

// take moves h's due time by n tokens of lim if that leaves it within lim's
// room. It returns how far ahead of now that is, or if it is refused, how far
// it was, and how long to wait, which is positive. It works without a lock on a
// slot that exists; ok is false when there is none and the caller must go
// through mu.
func (t *table) take(h uint64, now int64, n int, lim *limit) (debt, wait int64, ok bool) {
	s := t.shard(h).slots.Load()
	i := s.find(h)
	if i < 0 {
		return 0, 0, false
	}
	for {
		old := s.words[i].Load()
		if old == frozen || s.words[i-1].Load() != h {
			return 0, 0, false
		}
		due := max(int64(old), now)
		next := due + int64(n)*lim.every
		if !lim.exact {
			next = due + lim.cost(due, n)
		}
		if wait = next - now - lim.room; wait > 0 {
			return due - now, wait, true
		}
		if s.words[i].CompareAndSwap(old, uint64(next)) {
			return next - now, wait, true
		}
	}
}

// openLocked fills debts with how far h's due times are ahead of now: those
// of its slot, or those of the overflow bucket, which a key without a slot may
// have drawn from. It returns the index of the slot's first due time, which
// is frozen until closeLocked, or -1.
func (t *table) openLocked(sh *shard, h uint64, now int64, debts []int64) int {
	s := sh.slots.Load()
	i := s.find(h)
	for j := range debts {
		switch {
		case i >= 0 && j == 0:
			debts[j] = max(0, int64(s.words[i].Swap(frozen))-now)
		case i >= 0:
			debts[j] = max(0, int64(s.words[i+j].Load())-now)
		case sh.overflow != nil:
			debts[j] = max(0, sh.overflow[j]-now)
		default:
			debts[j] = 0
		}
	}
	return i
}

// closeLocked stores what openLocked opened; where there was no slot, it
// makes one if it can, and draws from the overflow bucket otherwise.
func (t *table) closeLocked(sh *shard, h uint64, i int, now int64, debts []int64) {
	if i < 0 {
		i = t.addLocked(sh, h, now)
	}
	if i < 0 {
		t.stats.overflowed.Add(1)
		if sh.overflow == nil {
			sh.overflow = make([]int64, t.width-1)
		}
		for j, debt := range debts { // nobody may pay back what others owe
			sh.overflow[j] = max(sh.overflow[j], now+debt)
		}
		t.flooded.Store(max(t.flooded.Load(), now+slices.Max(debts)))
		return
	}
	s := sh.slots.Load()
	for j := len(debts) - 1; j >= 0; j-- {
		s.words[i+j].Store(uint64(now + debts[j]))
	}
	s.words[i-1].Store(h)
}

// addLocked finds a place for h, which has none, and returns the index of its
// first due time, or -1 when the table is full of debts. The place has
// whatever hash it had before.
func (t *table) addLocked(sh *shard, h uint64, now int64) int {
	s := sh.slots.Load()
	if i := s.reclaim(h, now); i >= 0 {
		t.stats.forgotten.Add(1)
		return i
	}
	if t.used.Add(1) > t.max {
		t.used.Add(-1)
		// A sweep costs a pass over the shard, some microseconds, so it is
		// done once in so many keys turned away, or once in a millisecond.
		sh.turned++
		if s == nil || sh.turned <= s.n/16 && now-sh.swept < 1e6*ticksPerNano {
			return -1
		}
		sh.turned, sh.swept = 0, now
		if s.count(now) == sh.used {
			return -1
		}
		t.rehashLocked(sh, now)
		if t.used.Add(1) > t.max {
			t.used.Add(-1)
			return -1
		}
		s = sh.slots.Load()
	}
	if s == nil || (sh.used+1)*19 > s.n*15 {
		t.rehashLocked(sh, now)
		s = sh.slots.Load()
	}
	sh.used++
	return s.free(h) + 1
}

// free returns the word index of the first empty slot on h's path.
func (s *slots) free(h uint64) int {
	i := s.home(h)
	for s.words[i].Load() != 0 {
		if i += s.width; i >= len(s.words) {
			i = 0
		}
	}
	return i
}

// reclaim takes over the first slot on h's path whose bucket is full again.
func (s *slots) reclaim(h uint64, now int64) int {
	if s == nil {
		return -1
	}
	for i := s.home(h); s.words[i].Load() != 0; {
		old := s.words[i+1].Load()
		if s.past(i+1, s.width-1, now) && s.words[i+1].CompareAndSwap(old, frozen) {
			// Between this and the new due time, readers of the old key and
			// of the new one find the slot frozen and wait for mu.
			s.words[i].Store(h)
			return i + 1
		}
		if i += s.width; i >= len(s.words) {
			i = 0
		}
	}
	return -1
}

// count returns how many slots hold a debt.
func (s *slots) count(now int64) (n int) {
	for i := 0; i < len(s.words); i += s.width {
		if s.words[i].Load() != 0 && !s.past(i+1, s.width-1, now) {
			n++
		}
	}
	return n
}

// rehashLocked moves the debts of a shard to a new array with room for more,
// and leaves the full buckets behind.
func (t *table) rehashLocked(sh *shard, now int64) {
	old := sh.slots.Load()
	if old == nil {
		sh.slots.Store(newSlots(minSlots, t.width))
		return
	}
	// Freeze first and count then: until it is frozen, a full bucket may come
	// to life again.
	type debt struct {
		at  int
		due uint64
	}
	debts := make([]debt, 0, sh.used)
	for i := 0; i < len(old.words); i += t.width {
		if old.words[i].Load() == 0 {
			continue
		}
		due := old.words[i+1].Swap(frozen)
		if int64(due)-now >= 0 || t.width > 2 && !old.past(i+2, t.width-2, now) {
			debts = append(debts, debt{i, due})
		}
	}
	s := newSlots(max(minSlots, (len(debts)+1)*15/11), t.width)
	for _, d := range debts {
		h := old.words[d.at].Load()
		i := s.free(h)
		s.words[i].Store(h)
		s.words[i+1].Store(d.due)
		for j := 2; j < t.width; j++ {
			s.words[i+j].Store(old.words[d.at+j].Load())
		}
	}
	t.used.Add(int64(len(debts) - sh.used))
	t.stats.forgotten.Add(uint64(sh.used - len(debts)))
	sh.used = len(debts)
	sh.slots.Store(s)
}

// newSlots makes n slots, and as many more as fit into what the allocator
// hands out for them anyway. The first is at the start of a cache line.
func newSlots(n, width int) *slots {
	words := append([]atomic.Uint64(nil), make([]atomic.Uint64, n*width+lineWords-1)...)
	words = words[:cap(words)]
	words = words[-uintptr(unsafe.Pointer(&words[0]))/8%lineWords:]
	n = len(words) / width
	s := &slots{words: words[:n*width], n: n, width: width}
	if lineWords%width == 0 {
		s.mask = lineWords/width - 1
	}
	return s
}
