package cache

import "sync/atomic"

// An index finds entries by the hashes of their keys. Who only looks needs no
// lock, and as a rule waits for one line of memory: the slots are tried in
// turn from where the hash says, four to a line. It replaces a map because of
// that: among a million entries a map has three lines to wait for, one after
// the other.
//
// Changes need the shard's lock. While one is under way others may not find
// what is there, so that nothing counts as absent until it was looked for
// under the lock. What they do find is there, or was a moment ago.
type index struct {
	slots atomic.Pointer[[]slot] // a power of two of them, some always free
	used  int
}

type slot struct {
	hash  atomic.Uint64
	entry atomic.Pointer[entry] // nil if the slot is free
}

func (x *index) init(n int) {
	slots := make([]slot, n)
	x.slots.Store(&slots)
}

// home is the number of the slot in which to look for a hash first. Its lowest
// bits have chosen the shard.
func home(hash uint64) int { return int(hash / shardCount) }

// touch begins to fetch the line that get will look at first.
func (x *index) touch(hash uint64) {
	slots := *x.slots.Load()
	slots[home(hash)&(len(slots)-1)].hash.Load()
}

// get returns the entry with this hash, or nil.
func (x *index) get(hash uint64) *entry {
	slots := *x.slots.Load()
	for i := range slots {
		s := &slots[(home(hash)+i)&(len(slots)-1)]
		e := s.entry.Load()
		if e == nil || s.hash.Load() == hash {
			return e
		}
	}
	return nil // only while others change it
}

// set makes e the entry with this hash. The shard must be locked.
func (x *index) set(hash uint64, e *entry) {
	slots := *x.slots.Load()
	if x.used >= len(slots)/4*3 {
		x.grow()
		slots = *x.slots.Load()
	}
	for i := home(hash); ; i++ {
		s := &slots[i&(len(slots)-1)]
		if s.entry.Load() == nil {
			x.used++
			s.hash.Store(hash)
		}
		if s.hash.Load() == hash {
			s.entry.Store(e)
			return
		}
	}
}

func (x *index) grow() {
	var more index
	more.init(2 * len(*x.slots.Load()))
	for e := range x.all {
		more.set(e.hash, e)
	}
	x.slots.Store(more.slots.Load())
}

// remove forgets the entry with this hash, which must be there. The shard must
// be locked. What follows moves up, so that it is found without a detour.
func (x *index) remove(hash uint64) {
	slots := *x.slots.Load()
	mask := len(slots) - 1
	i := home(hash)
	for slots[i&mask].hash.Load() != hash || slots[i&mask].entry.Load() == nil {
		i++
	}
	for j := i + 1; ; j++ {
		next := &slots[j&mask]
		e := next.entry.Load()
		if e == nil {
			break
		}
		if (j-home(next.hash.Load()))&mask >= j-i {
			free := &slots[i&mask]
			free.hash.Store(next.hash.Load())
			free.entry.Store(e)
			i = j
		}
	}
	slots[i&mask].entry.Store(nil)
	x.used--
}

// all calls f for the first entry of every hash. The shard must be locked.
func (x *index) all(f func(*entry) bool) {
	slots := *x.slots.Load()
	for i := range slots {
		if e := slots[i].entry.Load(); e != nil && !f(e) {
			return
		}
	}
}
