package cache

import (
	"iter"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Stats counts what a [Cache] has done since it was made.
type Stats struct {
	// Requests by how they were answered.
	Hits, Misses, Stale, Revalidated, Collapsed, Bypassed, Failed uint64

	// Reasons counts why requests did not go to the cache, or their answers
	// not into it, under the names that Cache-Status uses as detail.
	Reasons map[string]uint64

	Entries int    // stored now
	Bytes   int64  // that they take, all included
	Evicted uint64 // to make room
	Panics  uint64 // of hooks, a Normalizer or the Store, and of what is called in the background
}

// Stats returns the counts so far.
func (c *Cache) Stats() Stats {
	var n [outcomeCount]uint64
	for _, s := range c.shards {
		for i := range n {
			n[i] += s.counts[i].Load()
		}
	}
	st := Stats{
		Hits: n[Hit], Misses: n[Miss], Stale: n[Stale], Revalidated: n[Revalidated],
		Collapsed: n[Collapsed], Bypassed: n[Bypass], Failed: n[Failed],
		Reasons: map[string]uint64{}, Evicted: c.evicted.Load(), Panics: c.panics.Load(),
	}
	for why := reasonNone + 1; why < reasonCount; why++ {
		if k := n[int(resultCount)+int(why)]; k > 0 {
			st.Reasons[why.String()] = k
		}
	}
	st.Entries, st.Bytes = c.policy.size()
	return st
}

// Collect emits the metrics of c in a fixed order. kind is "counter", "gauge"
// or "histogram"; labels are names and values in turn.
func (c *Cache) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	s := c.Stats()
	name := c.cfg.Name
	for r, n := range []uint64{s.Misses, s.Hits, s.Stale, s.Revalidated, s.Collapsed, s.Bypassed, s.Failed} {
		emit("spillway_cache_requests_total", "Requests by how they were answered.", "counter",
			float64(n), "cache", name, "outcome", Result(r).String())
	}
	for why := reasonNone + 1; why < reasonCount; why++ {
		emit("spillway_cache_uncached_total", "Requests that were not answered from the cache or not stored, by reason.",
			"counter", float64(s.Reasons[why.String()]), "cache", name, "reason", why.String())
	}
	emit("spillway_cache_entries", "Stored responses.", "gauge", float64(s.Entries), "cache", name)
	emit("spillway_cache_size_bytes", "Memory that stored responses take.", "gauge", float64(s.Bytes), "cache", name)
	emit("spillway_cache_max_size_bytes", "Memory that stored responses may take.", "gauge", float64(c.cfg.MaxBytes), "cache", name)
	emit("spillway_cache_evictions_total", "Responses that went to make room.", "counter",
		float64(s.Evicted), "cache", name, "reason", "size")
	emit("spillway_cache_panics_total", "Panics of hooks, a Normalizer or the Store, and of what is called in the background.", "counter",
		float64(s.Panics), "cache", name)
	c.fillTime.collect(emit, "spillway_cache_fill_duration_seconds", "Time that calls of the handler took.", "cache", name)
}

// Changes yields the last changes of state, at most 64, oldest first: purges,
// and what went wrong in the background.
func (c *Cache) Changes() iter.Seq2[time.Time, string] {
	return func(yield func(time.Time, string) bool) {
		for _, ch := range c.log.all() {
			if !yield(ch.when, ch.what) {
				return
			}
		}
	}
}

// Conditions yields what is not normal now: subject and one sentence. It
// yields nothing when all is well.
func (c *Cache) Conditions() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if c.tier != nil && c.tier.failed.Load() >= breakAfter {
			if !yield(c.cfg.Name, "the store fails and is left alone; memory answers alone") {
				return
			}
		}
		if at := c.failedOver.Load(); at != 0 {
			if ago := c.now() - time.Duration(at); ago < failedOverFor {
				yield(c.cfg.Name, "answers with stale responses because the handler fails; last "+
					ago.Truncate(time.Second).String()+" ago")
			}
		}
	}
}

// failedOverFor is how long a stale answer to a failure counts as "now".
const failedOverFor = 10 * time.Second

func (c *Cache) changed(what string) { c.log.add(time.Now(), c.cfg.Name+": "+what) }

// A changeLog keeps the last 64 changes.
type changeLog struct {
	mu   sync.Mutex
	ring [64]change
	n    int
}

type change struct {
	when time.Time
	what string
}

func (l *changeLog) add(when time.Time, what string) {
	l.mu.Lock()
	l.ring[l.n%len(l.ring)] = change{when, what}
	l.n++
	l.mu.Unlock()
}

func (l *changeLog) all() []change {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []change
	for i := max(0, l.n-len(l.ring)); i < l.n; i++ {
		out = append(out, l.ring[i%len(l.ring)])
	}
	return out
}

// histogramBounds are the upper bounds of the buckets, in seconds.
var histogramBounds = [...]float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}

// A histogram counts durations, in stripes: cores that write to the same cache
// line wait for each other.
type histogram [8]struct {
	buckets [len(histogramBounds) + 1]atomic.Uint64
	nanos   atomic.Int64
	_       [64]byte
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(histogramBounds) && d.Seconds() > histogramBounds[i] {
		i++
	}
	// The address of a local variable tells the stacks of goroutines apart.
	var here byte
	mine := &h[uint64(uintptr(unsafe.Pointer(&here))>>10)*0x9e3779b97f4a7c15>>61]
	mine.buckets[i].Add(1)
	mine.nanos.Add(int64(d))
}

// since observes the time from started to now.
func (h *histogram) since(c *Cache, started time.Duration) { h.observe(c.now() - started) }

func (h *histogram) collect(emit func(name, help, kind string, value float64, labels ...string), name, help string, labels ...string) {
	total, nanos := uint64(0), int64(0)
	for i := range h {
		nanos += h[i].nanos.Load()
	}
	for i := range h[0].buckets {
		for j := range h {
			total += h[j].buckets[i].Load()
		}
		le := math.Inf(1)
		if i < len(histogramBounds) {
			le = histogramBounds[i]
		}
		emit(name+"_bucket", help, "histogram", float64(total), append(labels[:len(labels):len(labels)], "le", strconv.FormatFloat(le, 'g', -1, 64))...)
	}
	emit(name+"_sum", help, "histogram", time.Duration(nanos).Seconds(), labels...)
	emit(name+"_count", help, "histogram", float64(total), labels...)
}
