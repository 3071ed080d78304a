package ratelimit

import (
	"context"
	"fmt"
	"math"
)

// SetRate changes Config.Rate while serving, and Config.Also if also is given,
// which must then have as many rates. No key loses its debt: it is kept as the
// time until it is paid off, cut to the time that the new rate takes to fill
// an empty bucket, so that nobody waits for an old, slower rate. (It is not
// cut if Config.RateOf is set, since that may give still slower rates, nor in a
// Store. There, a rate of Also that gets another Per, and so another name, has
// buckets of its own, full at first.) The error is not nil if a rate is not
// valid, and then nothing changes.
func (l *Limiter) SetRate(rate Rate, also ...Rate) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(also) != 0 && len(also) != len(l.cfg.Also) {
		return fmt.Errorf("ratelimit: SetRate: also has %d rates, must have %d as Config.Also", len(also), len(l.cfg.Also))
	}
	old := l.plan.Load()
	if len(also) == 0 {
		for _, lim := range old.limits[1:] {
			also = append(also, lim.rate)
		}
	}
	p, err := l.newPlan("SetRate: ", rate, also)
	if err != nil {
		return err
	}
	l.plan.Store(p)
	l.tiers.Store(nil) // they hold the old Also
	l.upstreams.follow(p)
	if l.cfg.RateOf == nil {
		l.mem.Load().cut(p.limits)
	}
	for i, lim := range p.limits {
		if was := old.limits[i].rate; was != lim.rate {
			l.journal.add("%s: rate changed from %v to %v", lim.policy, was, lim.rate)
		}
	}
	return nil
}

// cut shortens the debts of the keys to what limits take to fill a bucket.
func (m *memory) cut(limits []*limit) {
	t := m.tables[0]
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		now := m.now()
		s := sh.slots.Load()
		for at := 0; at < len(s.words); at += s.width {
			if s.words[at].Load() == 0 {
				continue
			}
			for j, lim := range limits {
				word := &s.words[at+1+j]
				for {
					due := word.Load()
					if int64(due)-now <= lim.room || word.CompareAndSwap(due, uint64(now+lim.room)) {
						break
					}
				}
			}
		}
		for j := range sh.overflow {
			sh.overflow[j] = min(sh.overflow[j], now+limits[j].room)
		}
		sh.mu.Unlock()
	}
}

// Peek reports what Allow(ctx, key, 1) would answer now without waiting, and
// spends and counts nothing.
func (l *Limiter) Peek(ctx context.Context, key string) Decision {
	a := l.askKey(key, 0)
	l.chargeAsk(ctx, a)
	if l.shared != nil && l.shared.down.Load() != nil {
		if l.answerDown(ctx, a); l.cfg.Outage != DecideLocally {
			return l.decision(a)
		}
	}
	debts := a.debts
	a.n = 1
	if a.judge(0); a.allowed {
		a.debts = debts
	}
	return l.decision(a)
}

// Charge takes n tokens from key's buckets whether or not they are there: the
// way to settle what a request turned out to cost. With n negative it gives
// tokens back, as many as the buckets have room for. A bucket can be
// overdrawn until it is two years from full; requests are refused until it has
// their tokens again. Groups are left alone.
//
// While a Store is out, it charges the buckets in this process, at the price
// that Allow then takes.
func (l *Limiter) Charge(ctx context.Context, key string, n int) {
	a := l.askKey(key, n)
	if l.shared != nil && l.shared.down.Load() != nil {
		l.probe(a)
		a.localize()
		l.mem.Load().charge(a)
		return
	}
	l.chargeAsk(ctx, a)
}

// Forget fills key's buckets. What the requests that run meanwhile are given
// back when they end (Config.Settle) comes on top, no further than full: nobody
// remembers which of their debts were forgiven.
func (l *Limiter) Forget(ctx context.Context, key string) { l.Charge(ctx, key, math.MinInt) }

func (l *Limiter) askKey(key string, n int) *ask {
	a := &ask{n: n}
	a.keys[0] = key
	l.fill(a, l.plan.Load())
	return a
}

func (l *Limiter) chargeAsk(ctx context.Context, a *ask) {
	if l.shared != nil {
		l.chargeShared(ctx, a)
		return
	}
	l.mem.Load().charge(a)
}
