package balancer

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A Budget bounds how much is sent on top of the requests themselves. Over any
// ten seconds it allows a share of the requests of that time plus a number per
// second. Retries and hedges take from it when they are decided, so those that
// still wait out their backoff are counted. It is safe for concurrent use, and
// can be shared by several Balancers.
type Budget struct {
	share     float64
	perSecond float64
	requests  [shards]struct {
		atomic.Uint64
		_ [56]byte // a cache line each
	}

	mu    sync.Mutex // protects what follows
	base  time.Time  // of the first take
	seen  uint64     // requests up to last
	last  time.Duration
	slots [budgetSlots]struct {
		turn     int64
		requests float64
		taken    float64
	}
}

const (
	shards      = 8
	budgetSlots = 10 // of a second
)

// NewBudget returns a Budget of a share of the requests, and a number per
// second on top, so that a quiet client can retry too. Negative numbers and
// NaN count as zero; a Budget of zero and zero allows nothing. What it allows it
// allows at once, too: up to nine times perSecond to a client that was quiet.
func NewBudget(share, perSecond float64) *Budget {
	clean := func(x float64) float64 {
		if !(x > 0) {
			return 0
		}
		return min(x, math.MaxInt32)
	}
	return &Budget{share: clean(share), perSecond: clean(perSecond)}
}

// deposit counts a request. It takes a few nanoseconds: the rest is left to
// take, which is rare.
func (b *Budget) deposit(rnd uint64) { b.requests[rnd%shards].Add(1) }

// take reports whether one more is allowed, and counts it if so.
func (b *Budget) take(at time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.base.IsZero() {
		b.base = at
	}
	now := max(0, at.Sub(b.base))
	b.roll(now)
	var requests, taken float64
	oldest := int64(now/time.Second) - budgetSlots
	for i := range b.slots {
		if s := &b.slots[i]; s.turn > oldest {
			requests += s.requests
			taken += s.taken
		}
	}
	// The slots are nine whole seconds and what has passed of this one.
	if taken+1 > b.share*requests+b.perSecond*(budgetSlots-1+(now%time.Second).Seconds()) {
		return false
	}
	b.slot(int64(now/time.Second)).taken++
	return true
}

// roll distributes the requests since the last call evenly over the time
// since, as far as it is still in the window.
func (b *Budget) roll(now time.Duration) {
	var n uint64
	for i := range b.requests {
		n += b.requests[i].Load()
	}
	fresh, from := float64(n-b.seen), b.last
	if now < from {
		from = now // several clocks, if it is shared
	}
	b.seen, b.last = n, max(now, b.last)
	for turn := max(int64(from/time.Second), int64(now/time.Second)-budgetSlots+1); turn <= int64(now/time.Second); turn++ {
		share := 1.0
		if now > from {
			begin, end := max(from, time.Duration(turn)*time.Second), min(now, time.Duration(turn+1)*time.Second)
			share = float64(end-begin) / float64(now-from)
		}
		b.slot(turn).requests += fresh * share
	}
}

func (b *Budget) slot(turn int64) *struct {
	turn     int64
	requests float64
	taken    float64
} {
	s := &b.slots[turn%budgetSlots]
	if s.turn != turn {
		s.turn, s.requests, s.taken = turn, 0, 0
	}
	return s
}
