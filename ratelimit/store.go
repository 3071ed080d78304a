package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// A Store keeps buckets where several processes share them. [NewRedisStore]
// makes one. Its methods are called from many goroutines, with a context that
// ends when the decision has to be made without it. They need not heed it: a
// call that goes on is left behind. For that each runs in a goroutine of its
// own, which a Store can save by a method
//
//	HeedsContext() bool
//
// that returns true, if its calls do return as soon as their context ends. The
// context of such a call ends at most an eighth of StoreTimeout early, and
// goes on when the caller leaves, unless his own deadline is sooner: then it is
// his.
type Store interface {
	// Take takes tokens from each of the buckets: most, or as many fewer as
	// it sees fit, but at least least, and from all of them the same number;
	// or none, if one of them has not least tokens, and then it changes
	// nothing. It returns how many it took, and how long each bucket will
	// then need to be full.
	Take(ctx context.Context, buckets []Bucket, least, most int) (taken int, debts []time.Duration, err error)

	// Charge takes n tokens from each of the buckets whether or not they are
	// there. With n negative it gives them back, no further than full; with 0
	// it changes nothing. It returns how long each will need to be full.
	Charge(ctx context.Context, buckets []Bucket, n int) (debts []time.Duration, err error)
}

// A Bucket is what a [Store] keeps one number for: how long until it is full.
type Bucket struct {
	Key    string // what the KeyFunc named; any bytes, any length
	Policy string // the name of the rate; each has a bucket of its own
	Rate   Rate   // with Burst filled in
}

// Outage says what to do while the Store does not answer.
type Outage int

const (
	// DecideLocally decides by buckets in this process, each with LocalShare
	// of the rate, which have followed the shared ones until then.
	DecideLocally Outage = iota
	// LetPass lets all requests pass, but those whose context has ended.
	LetPass
	// RefuseAll refuses all requests, with 503 in Handler.
	RefuseAll
)

// shared is what a Limiter with a Store has more.
type shared struct {
	store     Store
	deadlines deadlines
	prompt    bool    // the store heeds contexts
	leases    *leases // nil without Config.Lease
	retry     atomic.Int64
	probing   atomic.Bool
	down      atomic.Pointer[outage] // nil while the store answers
	failed    atomic.Uint64          // calls that failed or were late
	degraded  atomic.Uint64          // decisions made without the store
}

type outage struct {
	since time.Time
	err   error
}

// recheck is how long a store that failed is left alone between probes.
const recheck = 100 * time.Millisecond

var errLate = errors.New("no answer in time")

// decideShared answers a by the store, or without it if it does not answer.
func (l *Limiter) decideShared(ctx context.Context, a *ask) {
	s := l.shared
	if s.down.Load() != nil {
		l.probe(a)
		l.decideDown(ctx, a)
		return
	}
	if s.leases != nil && a.n > 0 {
		l.decideLeased(ctx, a)
		return
	}
	taken, debts, err := l.call(ctx, a, a.n == 0, a.n, a.n)
	l.settleCall(ctx, a, taken > 0 || a.n == 0, debts, err)
}

// chargeShared is decideShared for Charge.
func (l *Limiter) chargeShared(ctx context.Context, a *ask) {
	if ls := l.shared.leases; ls != nil && a.n < 0 {
		defer ls.forgive(a.leaseKey(l.mem.Load().seed))
	}
	if l.shared.down.Load() != nil {
		l.probe(a)
		l.mem.Load().charge(a)
		return
	}
	_, debts, err := l.call(ctx, a, true, a.n, a.n)
	if err != nil {
		l.mem.Load().charge(a)
		return
	}
	l.settleCall(ctx, a, true, debts, nil)
}

// settleCall makes a store's reply the answer to a.
func (l *Limiter) settleCall(ctx context.Context, a *ask, allowed bool, debts []time.Duration, err error) {
	if err != nil {
		l.decideDown(ctx, a)
		return
	}
	a.answer(allowed, debts)
	if l.cfg.Outage == DecideLocally {
		l.mem.Load().locked(a, l.mem.Load().now(), follow)
	}
}

// answer makes debts, as a Store tells them, the answer to a.
func (a *ask) answer(allowed bool, debts []time.Duration) {
	for i := range a.all {
		a.debts[i] = min(int64(debts[i]), maxDebt/ticksPerNano) * ticksPerNano
	}
	a.allowed, a.wait, a.by = allowed, 0, 0
	if allowed {
		for i := range a.all { // a store may count in coarser time, and round up
			a.debts[i] = max(0, a.debts[i]-min(int64(time.Microsecond)*ticksPerNano, a.limits[i].every/2))
		}
		a.least()
		return
	}
	if a.judge(0); a.allowed { // by a clock a little ahead of ours
		a.allowed, a.wait = false, 1
	}
}

// A reply is what a store answers.
type reply struct {
	taken int
	debts []time.Duration
	err   error
}

// call asks the store, for no longer than its timeout. An answer that comes too
// late is lost, and so are the tokens it brings.
func (l *Limiter) call(ctx context.Context, a *ask, charge bool, least, most int) (taken int, debts []time.Duration, err error) {
	s := l.shared
	buckets := a.buckets()
	own, ok := ctx.Deadline()
	hurried := ok && time.Until(own) < s.deadlines.within/8
	var r reply
	if s.prompt {
		r = s.ask(s.deadlines.call(ctx), buckets, charge, least, most)
	} else {
		ctx, cancel := context.WithTimeout(ctx, s.deadlines.within)
		defer cancel()
		answer := make(chan reply, 1)
		go func() { answer <- s.ask(ctx, buckets, charge, least, most) }()
		select {
		case r = <-answer:
		case <-ctx.Done():
			r.err = errLate
		}
	}
	switch {
	case r.err == nil || ctx.Err() == context.Canceled: // it was the caller who left
	case hurried && !time.Now().Before(own):
		// A deadline so short says little about the store. If it made an outage,
		// whoever may choose deadlines could have all others decided without it.
		l.probe(a)
	default:
		s.failed.Add(1)
		l.outage(r.err)
	}
	return r.taken, r.debts, r.err
}

// ask calls the store, and makes an error of whatever else it does wrong.
func (s *shared) ask(ctx context.Context, buckets []Bucket, charge bool, least, most int) (r reply) {
	defer func() {
		if p := recover(); p != nil {
			r.err = fmt.Errorf("the store panicked: %v", p)
		}
	}()
	if charge {
		r.debts, r.err = s.store.Charge(ctx, buckets, least)
	} else {
		r.taken, r.debts, r.err = s.store.Take(ctx, buckets, least, most)
	}
	if r.err == nil && (len(r.debts) != len(buckets) || r.taken < 0 || r.taken > max(most, 0) || r.taken > 0 && r.taken < least) {
		r.err = fmt.Errorf("the store answered %d with %d debts for %d buckets", r.taken, len(r.debts), len(buckets))
	}
	return r
}

// outage has decisions made without the store from now on.
func (l *Limiter) outage(err error) {
	s := l.shared
	s.retry.Store(int64(time.Since(l.start) + recheck))
	if s.down.CompareAndSwap(nil, &outage{time.Now(), err}) {
		l.journal.add("%s: the store does not answer: %v", l.cfg.Name, err)
	}
}

// probe asks the store, if it is time to, whether it answers. It does not wait
// for the answer: a later decision will find it.
func (l *Limiter) probe(a *ask) {
	s := l.shared
	if int64(time.Since(l.start)) < s.retry.Load() || !s.probing.CompareAndSwap(false, true) {
		return
	}
	buckets := a.buckets()
	go func() {
		defer s.probing.Store(false)
		s.retry.Store(int64(time.Since(l.start) + recheck))
		ctx, cancel := context.WithTimeout(context.Background(), max(s.deadlines.within, time.Second))
		defer cancel()
		defer context.AfterFunc(ctx, func() { l.outage(errLate) })() // it need not heed ctx
		if r := s.ask(ctx, buckets, true, 0, 0); r.err != nil {
			s.failed.Add(1)
			l.outage(r.err)
			return
		}
		if o := s.down.Swap(nil); o != nil {
			l.journal.add("%s: the store answers again, after %v", l.cfg.Name, time.Since(o.since).Round(time.Millisecond))
		}
	}()
}

// decideDown answers a without the store.
func (l *Limiter) decideDown(ctx context.Context, a *ask) {
	l.shared.degraded.Add(1)
	l.answerDown(ctx, a)
}

func (l *Limiter) answerDown(ctx context.Context, a *ask) {
	a.degraded = true
	switch {
	case l.cfg.Outage == LetPass && ctx.Err() == nil: // leaving must not be a way around the limit
		a.allowed = true
	case l.cfg.Outage != DecideLocally:
		a.allowed, a.wait = false, int64(time.Second)*ticksPerNano
	default:
		full, n := a.limits, a.n
		for i := range a.all {
			if n > full[i].rate.Burst {
				a.judge(0)
				return
			}
		}
		a.localize()
		for i := range a.all {
			a.n = min(a.n, a.limits[i].rate.Burst) // what is over comes at the price of the whole burst
		}
		if n > 0 {
			l.mem.Load().take(a)
		} else {
			l.mem.Load().charge(a)
		}
		a.n = n
	}
}

// localize makes a's limits those that hold while a store is out.
func (a *ask) localize() {
	for i := range a.all {
		a.limits[i] = a.limits[i].local
	}
}

// buckets returns what a store is to be asked for.
func (a *ask) buckets() []Bucket {
	b := make([]Bucket, a.all)
	for i := range b {
		key := a.keys[0]
		if i >= a.own {
			key = a.keys[1+i-a.own]
		}
		b[i] = Bucket{Key: key, Policy: a.limits[i].policy, Rate: a.limits[i].rate}
	}
	return b
}
