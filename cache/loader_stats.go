package cache

import (
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// LoaderStats is what a [Loader] has done since it was made.
type LoaderStats struct {
	Hits      uint64 // answered from memory, fresh; kept negative answers and errors too
	Stale     uint64 // answered from memory, past the TTL
	Misses    uint64 // a load was started, and waited for
	Coalesced uint64 // a load was running already, and waited for

	Loads    uint64        // that have ended
	Reloads  uint64        // of them, in the background
	NotFound uint64        // of them, those that found nothing
	Failures uint64        // of them, those that failed
	Panics   uint64        // of these, by a panic
	InFlight int           // that are running or waiting for their turn
	LoadTime time.Duration // of all loads together

	StoreHits   uint64 // loads that the Store spared
	StoreMisses uint64 // answers that the Store did not have, or not fresh
	StoreErrors uint64 // calls of the Store that failed

	Entries   int    // in memory
	Cost      int64  // of the entries; their number without LoaderConfig.Cost
	Evictions uint64 // for want of room

	HookPanics uint64 // hooks that panicked
}

// Stats returns the counts so far. It looks at every shard, not at every entry.
func (l *Loader[K, V]) Stats() LoaderStats {
	c := &l.counts
	st := LoaderStats{
		Misses:     c.misses.Load(),
		Coalesced:  c.coalesced.Load(),
		Loads:      c.took.count(),
		Reloads:    c.reloads.Load(),
		NotFound:   c.notFound.Load(),
		Failures:   c.failures.Load(),
		Panics:     c.panics.Load(),
		InFlight:   int(c.inFlight.Load()),
		LoadTime:   time.Duration(c.took.sum.Load()),
		HookPanics: c.hookPanics.Load(),
	}
	if l.tier != nil {
		st.StoreHits, st.StoreMisses, st.StoreErrors = l.tier.hits.Load(), l.tier.misses.Load(), l.tier.errors.Load()
	}
	for i := range l.shards {
		s := &l.shards[i]
		st.Hits += s.hits.Load()
		st.Stale += s.stale.Load()
		s.mu.Lock()
		st.Entries += s.index.count
		st.Cost += s.policy.cost()
		st.Evictions += s.left
		s.mu.Unlock()
	}
	return st
}

// loaderCounts are what is counted off the path of a hit.
type loaderCounts struct {
	misses, coalesced                   atomic.Uint64
	reloads, notFound, failures, panics atomic.Uint64
	hookPanics                          atomic.Uint64
	inFlight                            atomic.Int64
	waiting                             atomic.Int64 // of them, for one of the MaxLoads places
	took                                loaderHistogram
}

// loaderHistogram counts durations in buckets from 1 ms to 10 s.
type loaderHistogram struct {
	buckets [len(loaderBuckets) + 1]atomic.Uint64
	sum     atomic.Int64 // nanoseconds
}

var loaderBuckets = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

func (h *loaderHistogram) observe(d time.Duration) {
	i := 0
	for i < len(loaderBuckets) && d > loaderBuckets[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *loaderHistogram) count() (n uint64) {
	for i := range h.buckets {
		n += h.buckets[i].Load()
	}
	return n
}

func (h *loaderHistogram) collect(emit func(name, help, kind string, value float64, labels ...string), name, help string, labels ...string) {
	n := uint64(0)
	for i := range h.buckets {
		n += h.buckets[i].Load()
		le := "+Inf"
		if i < len(loaderBuckets) {
			le = strconv.FormatFloat(loaderBuckets[i].Seconds(), 'g', -1, 64)
		}
		emit(name+"_bucket", help, "histogram", float64(n), append(labels[:len(labels):len(labels)], "le", le)...)
	}
	emit(name+"_sum", help, "histogram", time.Duration(h.sum.Load()).Seconds(), labels...)
	emit(name+"_count", help, "histogram", float64(n), labels...)
}

// Collect emits the counts as metrics, for example for health.Metrics. Every
// series is there from the start.
func (l *Loader[K, V]) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	st := l.Stats()
	name := l.cfg.Name
	one := func(metric, help, kind string, value float64, labels ...string) {
		emit("spillway_loader_"+metric, help, kind, value, append([]string{"loader", name}, labels...)...)
	}
	const requests = "Gets, by how they were answered."
	one("requests_total", requests, "counter", float64(st.Hits), "outcome", "hit")
	one("requests_total", requests, "counter", float64(st.Stale), "outcome", "stale")
	one("requests_total", requests, "counter", float64(st.Misses), "outcome", "miss")
	one("requests_total", requests, "counter", float64(st.Coalesced), "outcome", "coalesced")
	const loads = "Loads that have ended, by their result."
	one("loads_total", loads, "counter", float64(st.Loads-st.NotFound-st.Failures), "outcome", "success")
	one("loads_total", loads, "counter", float64(st.NotFound), "outcome", "not_found")
	one("loads_total", loads, "counter", float64(st.Failures), "outcome", "failure")
	one("reloads_total", "Loads in the background, while an old value was served.", "counter", float64(st.Reloads))
	l.counts.took.collect(emit, "spillway_loader_load_duration_seconds", "How long loads took.", "loader", name)
	const store = "Answers asked of the second tier, by what came."
	one("store_requests_total", store, "counter", float64(st.StoreHits), "outcome", "hit")
	one("store_requests_total", store, "counter", float64(st.StoreMisses), "outcome", "miss")
	one("store_errors_total", "Calls of the second tier that failed.", "counter", float64(st.StoreErrors))
	one("inflight", "Loads that are running or waiting for their turn.", "gauge", float64(st.InFlight))
	one("entries", "Answers in memory.", "gauge", float64(st.Entries))
	one("cost", "Cost of the answers in memory.", "gauge", float64(st.Cost))
	one("evictions_total", "Answers that left memory for want of room.", "counter", float64(st.Evictions))
	one("hook_panics_total", "Hooks that panicked.", "counter", float64(st.HookPanics))
}

// count counts a load that has ended.
func (l *Loader[K, V]) count(f *loaderFlight[K, V], r *loaderResult[K, V]) {
	c := &l.counts
	c.inFlight.Add(-1)
	if r.shared {
		return
	}
	c.took.observe(r.took)
	if f.reload != nil {
		c.reloads.Add(1)
	}
	switch {
	case r.err == nil:
	case r.answered():
		c.notFound.Add(1)
	default:
		c.failures.Add(1)
	}
	if !errors.Is(r.err, ErrClosed) {
		l.log.source(l.cfg.Name, r.err, r.answered())
	}
}

// loaderLog notes when the source begins to fail and when it is back.
type loaderLog struct {
	mu      sync.Mutex
	changes []loaderChange // at most loaderMaxChanges
	failed  int            // loads in a row
	since   time.Time      // the first of them
	last    error
}

type loaderChange struct {
	at   time.Time
	text string
}

const (
	loaderMaxChanges = 64
	loaderManyFailed = 5 // loads that fail in a row are worth saying so
)

func (g *loaderLog) source(name string, err error, answered bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if answered {
		if g.failed >= loaderManyFailed {
			g.note(fmt.Sprintf("%s: the source answers again, after %d failed loads", name, g.failed))
		}
		g.failed, g.last = 0, nil
		return
	}
	if g.failed == 0 {
		g.since = time.Now()
	}
	g.failed++
	g.last = err
	if g.failed == loaderManyFailed {
		g.note(fmt.Sprintf("%s: the source fails: %d loads in a row, the last with: %s", name, g.failed, loaderLine(err)))
	}
}

// add notes a change.
func (g *loaderLog) add(text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.note(text)
}

// note appends to the changes. The mutex is held.
func (g *loaderLog) note(text string) {
	if len(g.changes) == loaderMaxChanges {
		g.changes = append(g.changes[:0], g.changes[1:]...)
	}
	g.changes = append(g.changes, loaderChange{time.Now(), text})
}

// loaderLine returns the first line of an error, and not too much of it.
func loaderLine(err error) string {
	text := err.Error()
	for i, c := range text {
		if c == '\n' || i >= 200 {
			return text[:i]
		}
	}
	return text
}

// Changes yields the last changes of state, at most 64, oldest first: when the
// source or the Store began to fail and when it was back.
func (l *Loader[K, V]) Changes() iter.Seq2[time.Time, string] {
	return func(yield func(time.Time, string) bool) {
		l.log.mu.Lock()
		changes := append([]loaderChange(nil), l.log.changes...)
		l.log.mu.Unlock()
		for _, c := range changes {
			if !yield(c.at, c.text) {
				return
			}
		}
	}
}

// Conditions yields what is wrong right now: the name of the Loader and a
// sentence. It yields nothing when all is well.
func (l *Loader[K, V]) Conditions() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		l.log.mu.Lock()
		failed, since, last := l.log.failed, l.log.since, l.log.last
		l.log.mu.Unlock()
		if failed >= loaderManyFailed {
			if !yield(l.cfg.Name, fmt.Sprintf("the source fails since %s: %d loads in a row, the last with: %s",
				since.UTC().Format(time.TimeOnly+"Z"), failed, loaderLine(last))) {
				return
			}
		}
		if n := l.counts.waiting.Load(); n > 0 {
			if !yield(l.cfg.Name, fmt.Sprintf("all %d places for loads are taken, %d wait", l.cfg.MaxLoads, n)) {
				return
			}
		}
		if l.tier == nil {
			return
		}
		if text := l.tier.condition(); text != "" {
			yield(l.cfg.Name, text)
		}
	}
}
