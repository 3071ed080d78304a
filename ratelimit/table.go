package ratelimit

import (
	"slices"
	"sync"
	"sync/atomic"
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
	width      int // words per slot: the hash, then the due times
	shift      uint
	max        int64 // slots in use over all shards
	shards     []shard
	_          [64]byte
	used       atomic.Int64
	flooded    atomic.Int64 // due time of the latest debt in an overflow bucket
	overflowed atomic.Uint64
}

type shard struct {
	mu       sync.Mutex
	slots    atomic.Pointer[slots]
	used     int32   // slots that have a hash, full buckets included
	turned   int32   // keys turned to overflow since the last sweep
	swept    int64   // tick of the last sweep
	overflow []int64 // due times that the keys without a slot share

	forgotten atomic.Uint64 // slots used again; written under mu
}

const (
	frozen    = ^uint64(0)
	shardKeys = 4096 // about how many keys a shard holds when the table is full
	maxShards = 1 << 14
	minSlots  = 8
)

func newTable(rates, maxKeys int) *table {
	t := &table{width: 1 + rates, max: int64(maxKeys), shift: 64}
	n := 1
	for n < maxShards && n*shardKeys*2 <= maxKeys {
		n *= 2
		t.shift--
	}
	t.shards = make([]shard, n)
	none := noSlots(t.width)
	for i := range t.shards {
		t.shards[i].slots.Store(none)
	}
	return t
}

func (t *table) shard(h uint64) *shard { return &t.shards[h>>t.shift] }

// path returns where to look for h. It is apart from take so that the clock can
// be read in between: a processor reads its clock only when all before is done,
// such as this short chain of fetches, and meanwhile begins with what comes
// after, such as fetching the slot from memory.
func (t *table) path(h uint64) (s *slots, home int) {
	s = t.shard(h).slots.Load()
	return s, s.home(h)
}

// take moves h's due time by n tokens of lim, if that leaves it within lim's
// room. It returns how far ahead of now that is, or if it is refused, how far
// it was, and how long to wait, which is positive. It is for tables with one
// rate, and takes no lock for a slot that exists.
func (t *table) take(s *slots, home int, h uint64, now int64, n int, lim *limit) (debt, wait int64) {
	i := s.findFrom(home, h)
	if i < 0 {
		return t.takeLocked(h, now, n, lim)
	}
	for {
		old := s.words[i].Load()
		if old == frozen || s.words[i-1].Load() != h {
			return t.takeLocked(h, now, n, lim)
		}
		ahead := max(int64(old)-now, 0) // by this, since ticks wrap after years
		cost := int64(n) * lim.every
		if !lim.exact {
			cost = lim.cost(now+ahead, n)
		}
		next := ahead + cost
		if wait = next - lim.room; wait > 0 {
			return ahead, wait
		}
		if s.words[i].CompareAndSwap(old, uint64(now+next)) {
			return next, wait
		}
	}
}

// takeLocked is take for a key that has no slot, or one that somebody holds.
// Where many keys have paid their debts before they come again, that is no
// exception.
func (t *table) takeLocked(h uint64, now int64, n int, lim *limit) (debt, wait int64) {
	sh := t.shard(h)
	sh.mu.Lock()
	debts := []int64{0}
	i := t.openLocked(sh, h, now, debts)
	next := debts[0] + lim.cost(now+debts[0], n)
	if wait = next - lim.room; wait <= 0 {
		debts[0] = next
	}
	if i >= 0 || wait <= 0 {
		t.closeLocked(sh, h, i, now, debts)
	}
	sh.mu.Unlock()
	return debts[0], wait
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
		t.overflowed.Add(1)
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
		sh.forgotten.Add(1)
		return i
	}
	if t.used.Add(1) > t.max {
		t.used.Add(-1)
		// A sweep costs a pass over the shard, some ten microseconds, so it is
		// done once in so many keys turned away, or once in a microsecond for
		// each bucket of the table: a hundredth of one core, for all shards.
		// Meanwhile reclaim finds the room that is on a key's path.
		sh.turned++
		if int(sh.turned) <= s.n/16 && now-sh.swept < max(1e6, 1e3*t.max)*ticksPerNano {
			return -1
		}
		sh.turned, sh.swept = 0, now
		if s.count(now) == int(sh.used) {
			return -1
		}
		t.rehashLocked(sh, now)
		if t.used.Add(1) > t.max {
			t.used.Add(-1)
			return -1
		}
		s = sh.slots.Load()
	}
	if (int(sh.used)+1)*19 > s.n*15 {
		t.rehashLocked(sh, now)
		s = sh.slots.Load()
	}
	sh.used++
	return s.free(h) + 1
}

// rehashLocked moves the debts of a shard to a new array with room for more,
// and leaves the full buckets behind.
func (t *table) rehashLocked(sh *shard, now int64) {
	old := sh.slots.Load()
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
	left := int(sh.used) - len(debts)
	t.used.Add(-int64(left))
	sh.forgotten.Add(uint64(left))
	sh.used = int32(len(debts))
	sh.slots.Store(s)
}
