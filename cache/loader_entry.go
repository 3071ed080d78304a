package cache

import (
	"sync/atomic"
)

// loaderEntry is one answer of the source, kept in memory. What a reader looks
// at without the mutex of the shard is immutable or atomic. A new answer is a
// new entry. Times are nanoseconds since the Loader was made.
type loaderEntry[K comparable, V any] struct {
	key   K
	value V
	err   error // a negative answer, or a failure that is kept for a moment
	hash  uint64
	next  atomic.Pointer[loaderEntry[K, V]] // in the bucket of the index

	early   atomic.Int64 // until then a hit needs no second thought
	retryAt atomic.Int64 // until then no reload is tried, because one failed
	expires int64        // fresh until then
	dies    int64        // of no use from then on

	heat      atomic.Uint32 // how often it was asked for, see touch
	place     loaderPlace   // under the mutex: the list that it is in
	failures  uint8         // under the mutex: reloads failed in a row
	kind      loaderKind
	reloading atomic.Bool

	took int64 // how long its load took
	cost int64
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
