package ratelimit

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	leaseShards = 64
	maxLeases   = 1 << 16 // over all shards
)

// leases are the tokens that this process has taken from the store ahead of
// the requests that will use them, and the refusals that it remembers. What is
// forgotten to make room are tokens paid for and not used, so a limit is at
// worst too strict.
type leases struct {
	size   int
	shards [leaseShards]struct {
		mu   sync.Mutex
		keys *simplelru.LRU[leaseKey, *lease]
	}
}

type leaseKey struct {
	hash uint64 // of all keys of the ask
	rate Rate   // a tier has leases of its own
}

// A lease is guarded by the mu of its shard, but for fetching.
type lease struct {
	left     int
	debts    [maxLimits]int64 // as of the last answer
	refused  time.Time        // until when the store would refuse one token
	fetching chan struct{}    // closed when the fetch under way is over; nil if none is
}

func newLeases(size int) *leases {
	ls := &leases{size: size}
	for i := range ls.shards {
		ls.shards[i].keys, _ = simplelru.NewLRU[leaseKey, *lease](maxLeases/leaseShards, nil) // fails for sizes below 1
	}
	return ls
}

// decideLeased answers a from the tokens at hand, and fetches more when they
// do not suffice: one fetch at a time for each key, the others wait for it.
func (l *Limiter) decideLeased(ctx context.Context, a *ask) {
	ls := l.shared.leases
	key := a.leaseKey(l.mem.Load().seed)
	sh := &ls.shards[key.hash%leaseShards]
	for {
		sh.mu.Lock()
		lease, ok := sh.keys.Get(key)
		if !ok {
			lease = newLease(sh.keys, key)
		}
		if lease.left >= a.n {
			lease.left -= a.n
			a.debts, a.allowed = lease.debts, true
			sh.mu.Unlock()
			a.least()
			return
		}
		if !lease.refused.IsZero() {
			if wait := time.Until(lease.refused); wait > 0 {
				a.debts = lease.debts
				sh.mu.Unlock()
				a.judge(0)
				a.allowed, a.wait = false, max(a.wait, int64(wait)*ticksPerNano)
				return
			}
			lease.refused = time.Time{}
		}
		if busy := lease.fetching; busy != nil {
			sh.mu.Unlock()
			select {
			case <-busy:
				if l.shared.down.Load() != nil {
					l.decideDown(ctx, a)
					return
				}
				continue
			case <-ctx.Done():
				l.decideDown(ctx, a)
				return
			}
		}
		done := make(chan struct{})
		lease.fetching = done
		sh.mu.Unlock()
		defer func() { // also if the store calls Goexit
			sh.mu.Lock()
			lease.fetching = nil
			sh.mu.Unlock()
			close(done)
		}()

		taken, debts, err := l.call(ctx, a, false, a.n, max(a.n, ls.size))
		l.settleCall(ctx, a, taken > 0, debts, err)
		if err == nil {
			sh.mu.Lock()
			lease.debts = a.debts
			if taken > 0 {
				lease.left += taken - a.n
			} else if a.n == 1 {
				lease.refused = time.Now().Add(ticksToDuration(a.wait))
			}
			sh.mu.Unlock()
		}
		return
	}
}

func (a *ask) leaseKey(s seed) leaseKey {
	key := leaseKey{rate: a.limits[0].rate}
	for _, k := range a.keys[:1+a.all-a.own] {
		key.hash = key.hash*31 + s.hash(k)
	}
	return key
}

// forgive forgets a refusal, since tokens were given back.
func (ls *leases) forgive(key leaseKey) {
	sh := &ls.shards[key.hash%leaseShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if lease, ok := sh.keys.Get(key); ok {
		lease.refused = time.Time{}
	}
}

func newLease(keys *simplelru.LRU[leaseKey, *lease], key leaseKey) *lease {
	n := new(lease)
	keys.Add(key, n)
	return n
}
