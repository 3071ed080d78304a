package balancer

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Hedge says when an idempotent request without a body is sent to a second
// backend because the first takes long. The first good answer wins; the other
// attempt is cancelled. The zero value does not hedge.
type Hedge struct {
	// Quantile of recent latency after which a request is hedged, for example
	// 0.95. Zero means not by quantile.
	Quantile float64

	// After is the least time after which a request is hedged. It is what
	// counts while too few latencies are known. Default 1 millisecond if
	// Quantile is set, and no hedging if it is not.
	After time.Duration

	// Share bounds the hedges to a share of the requests (and one per second).
	// Default 0.05. They are taken from Retry.Budget too.
	Share float64
}

func (c *Hedge) on() bool { return c.Quantile > 0 || c.After > 0 }

func (c *Hedge) check(bad func(string, ...any), period func(string, *time.Duration, time.Duration),
	share func(string, *float64, float64, float64)) {
	if !(c.Quantile >= 0 && c.Quantile < 1) {
		bad("Hedge.Quantile is %v, must be from 0 to below 1", c.Quantile)
		return
	}
	if c.Quantile > 0 {
		period("Hedge.After", &c.After, time.Millisecond)
	} else {
		period("Hedge.After", &c.After, 0)
	}
	share("Hedge.Share", &c.Share, 0.05, 1)
	if c.Share < 0 {
		bad("Hedge.Share is %v, must not be negative", c.Share)
	}
}

// hedgeDelay returns how long to wait for the first answer.
func (b *Balancer) hedgeDelay(now time.Duration) time.Duration {
	d := b.cfg.Hedge.After
	if q := b.cfg.Hedge.Quantile; q > 0 {
		d = max(d, b.recent.quantile(now, q))
	}
	return d
}

// mayHedge takes one from both budgets.
func (b *Balancer) mayHedge() bool {
	at := b.base.Add(b.now())
	if !b.hedges.take(at) || !b.budget.take(at) {
		b.overBudget.Add(1)
		return false
	}
	b.hedged.Add(1)
	return true
}

// latencies is a histogram of the last ten to twenty seconds: two halves that
// take turns. Its buckets are an eighth of an octave wide.
type latencies struct {
	halves [2]struct {
		turn  atomic.Int64
		total atomic.Int64
		count [8 * 40]atomic.Uint32
	}
	cached   atomic.Int64
	cachedAt atomic.Int64
}

const latencyHalf = 10 * time.Second

func (l *latencies) add(now, took time.Duration) {
	turn := int64(now/latencyHalf) + 2
	h := &l.halves[turn&1]
	if old := h.turn.Load(); old != turn && h.turn.CompareAndSwap(old, turn) {
		h.total.Store(0)
		for i := range h.count {
			h.count[i].Store(0)
		}
	}
	h.total.Add(1)
	h.count[bucketOf(took)].Add(1)
}

// quantile returns the latency that a share of q of the recent ones were below,
// or 0 if fewer than 20 are known. It is computed at most every 100 ms.
func (l *latencies) quantile(now time.Duration, q float64) time.Duration {
	at := l.cachedAt.Load()
	if at != 0 && int64(now)-at < int64(100*time.Millisecond) || !l.cachedAt.CompareAndSwap(at, max(1, int64(now))) {
		return time.Duration(l.cached.Load())
	}
	turn := int64(now/latencyHalf) + 2
	var total, below int64
	for i := range l.halves {
		if l.halves[i].turn.Load() >= turn-1 {
			total += l.halves[i].total.Load()
		}
	}
	if total < 20 {
		l.cached.Store(0)
		return 0
	}
	want := int64(q * float64(total))
	for k := range l.halves[0].count {
		for i := range l.halves {
			if l.halves[i].turn.Load() >= turn-1 {
				below += int64(l.halves[i].count[k].Load())
			}
		}
		if below > want {
			l.cached.Store(int64(bucketEnd(k)))
			break
		}
	}
	return time.Duration(l.cached.Load())
}

// bucketOf and bucketEnd number the buckets: octave times eight plus eighth,
// from about a microsecond up.
func bucketOf(d time.Duration) int {
	x := max(uint64(max(d, 0))>>10, 8) // at least 3 bits behind the leading one
	o := bits.Len64(x) - 4
	return min(o*8+int(x>>o)&7, 8*40-1)
}

func bucketEnd(k int) time.Duration {
	o, eighth := k/8, k%8
	return time.Duration(uint64(8+eighth+1) << o << 10)
}
