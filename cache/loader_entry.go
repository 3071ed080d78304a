package cache

import (
	"sync/atomic"
)

// loaderEntry is one answer of the source, kept in memory. What a reader looks
// at without the mutex of the shard is immutable or atomic. A new answer is a
// new entry. Times are nanoseconds since the Loader was made.
type loaderEntry[K comparable, V any] struct {
	// What a hit looks at comes first and is, for strings and slices, one cache
	// line: on a large cache a hit costs what its cache misses cost.
	next  atomic.Pointer[loaderEntry[K, V]] // in the bucket of the index
	key   K
	value V
	early atomic.Int64  // until then a hit needs no second thought
	heat  atomic.Uint32 // how often it was asked for, see touch
	kind  loaderKind

	place    loaderPlace // under the mutex: the list that it is in
	failures uint8       // under the mutex: reloads failed in a row

	hash    uint64
	more    *loaderMore  // nil for most
	born    int64        // when its load began
	expires int64        // fresh until then
	dies    int64        // of no use from then on
	retryAt atomic.Int64 // until then no reload is tried, because one failed
	cost    int64
	took    uint32        // microseconds that its load took, for XFetch
	state   atomic.Uint32 // loaderReloading, loaderUnsure
}

const (
	loaderReloading = 1 << iota // a reload runs
	loaderUnsure                // messages were lost, of which one may have invalidated it
)

// loaderMore is what few entries have.
type loaderMore struct {
	err  error    // what is returned with a zero value, if kind isn't loaderValue
	tags []string // under which the entry can be deleted
}

// tags returns the tags of e.
func (e *loaderEntry[K, V]) tags() []string {
	if e.more == nil {
		return nil
	}
	return e.more.tags
}

// answer returns what Get does.
func (e *loaderEntry[K, V]) answer() (V, error) {
	if e.kind != loaderValue {
		return e.value, e.more.err
	}
	return e.value, nil
}

// loaderKind is what an entry is an answer of.
type loaderKind uint8

const (
	loaderValue    loaderKind = iota // a value
	loaderNegative                   // the source has no such thing
	loaderFailure                    // the source failed; kept so as not to ask at once again
)

// The heat of an entry is one word, so that a hit costs at most one store and,
// once the entry is as hot as can be counted, none: the epoch of the shard in
// which it was last counted, a bit that says "asked for since it was last
// looked at for eviction", and a count from 0 to loaderMaxFreq. The count is
// halved for every epoch that has passed since. Two hits at the same time may
// count as one; eviction is a guess anyway.
const (
	loaderHeatCount = 0x0f
	loaderHeatAsked = 0x80
	loaderHeatEpoch = 8 // shift
)

// touch counts one hit.
func (e *loaderEntry[K, V]) touch(epoch uint32) {
	heat := e.heat.Load()
	count := loaderFreq(heat, epoch)
	next := epoch<<loaderHeatEpoch | loaderHeatAsked | min(count+1, loaderMaxFreq)
	if next != heat {
		e.heat.Store(next)
	}
}

// freq returns how often e was asked for, faded by the epochs since.
func (e *loaderEntry[K, V]) freq(epoch uint32) uint32 {
	return loaderFreq(e.heat.Load(), epoch)
}

func loaderFreq(heat, epoch uint32) uint32 {
	passed := (epoch - heat>>loaderHeatEpoch) & (1<<(32-loaderHeatEpoch) - 1)
	return heat & loaderHeatCount >> passed
}

// asked reports whether e was asked for since the last call of asked.
func (e *loaderEntry[K, V]) asked() bool {
	heat := e.heat.Load()
	if heat&loaderHeatAsked == 0 {
		return false
	}
	e.heat.Store(heat &^ loaderHeatAsked)
	return true
}
