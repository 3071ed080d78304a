package cache

import (
	"iter"
	"sync/atomic"
)

// loaderIndex finds an entry by its key: a chained hash table that is read
// without a lock, so that hits on one hot key don't queue up behind each other.
// Writers hold the mutex of the shard.
//
// A reader may miss an entry that a writer is moving to a larger table just
// then. It never finds a wrong one. Whoever misses looks again under the mutex
// before it does anything dear, so the race costs nanoseconds.
type loaderIndex[K comparable, V any] struct {
	table atomic.Pointer[[]loaderBucket[K, V]] // its length is a power of two
	count int
}

type loaderBucket[K comparable, V any] = atomic.Pointer[loaderEntry[K, V]]

func (x *loaderIndex[K, V]) init() {
	table := make([]loaderBucket[K, V], 8)
	x.table.Store(&table)
}

// find returns the entry of key, or nil.
func (x *loaderIndex[K, V]) find(hash uint64, key K) *loaderEntry[K, V] {
	table := *x.table.Load()
	e := table[hash&uint64(len(table)-1)].Load()
	for e != nil && e.key != key {
		e = e.next.Load()
	}
	return e
}

// insert adds e, whose key must not be there. It goes to the end of its chain:
// what has stayed for long is asked for most, and then found first.
func (x *loaderIndex[K, V]) insert(e *loaderEntry[K, V]) {
	table := *x.table.Load()
	if 2*x.count >= len(table) { // most chains are of one entry: each is a cache miss
		table = x.grow(table)
	}
	link := &table[e.hash&uint64(len(table)-1)]
	for at := link.Load(); at != nil; at = link.Load() {
		link = &at.next
	}
	link.Store(e)
	x.count++
}

// link returns what points to e, which is there.
func (x *loaderIndex[K, V]) link(e *loaderEntry[K, V]) *loaderBucket[K, V] {
	table := *x.table.Load()
	link := &table[e.hash&uint64(len(table)-1)]
	for at := link.Load(); at != e; at = link.Load() {
		link = &at.next
	}
	return link
}

// remove takes e out. A reader that stands on e still finds its way on.
func (x *loaderIndex[K, V]) remove(e *loaderEntry[K, V]) {
	x.link(e).Store(e.next.Load())
	x.count--
}

// replace puts e in the place of old, an entry of the same key: a reader finds
// one of them.
func (x *loaderIndex[K, V]) replace(old, e *loaderEntry[K, V]) {
	e.next.Store(old.next.Load())
	x.link(old).Store(e)
}

// grow doubles the table. The entries of a bucket go to two new ones, in their
// order.
func (x *loaderIndex[K, V]) grow(old []loaderBucket[K, V]) []loaderBucket[K, V] {
	table := make([]loaderBucket[K, V], 2*len(old))
	for i := range old {
		ends := [2]*loaderBucket[K, V]{&table[i], &table[i+len(old)]}
		for e := old[i].Load(); e != nil; {
			following := e.next.Load()
			e.next.Store(nil)
			end := &ends[min(e.hash&uint64(len(old)), 1)]
			(*end).Store(e)
			*end = &e.next
			e = following
		}
	}
	x.table.Store(&table)
	return table
}

// all yields every entry. The mutex of the shard is held, and nothing is
// inserted or removed meanwhile.
func (x *loaderIndex[K, V]) all() iter.Seq[*loaderEntry[K, V]] {
	return func(yield func(*loaderEntry[K, V]) bool) {
		table := *x.table.Load()
		for i := range table {
			for e := table[i].Load(); e != nil; e = e.next.Load() {
				if !yield(e) {
					return
				}
			}
		}
	}
}
