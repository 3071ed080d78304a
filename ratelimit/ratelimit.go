// Package ratelimit decides who may call how often, and answers 429 to the
// rest.
//
// A [Limiter] holds a token bucket for every key. Wrap a handler:
//
//	lim := ratelimit.MustNew(ratelimit.Config{
//		Rate: ratelimit.PerMinute(100),
//		Key:  ratelimit.ClientIP(netip.MustParsePrefix("10.0.0.0/8")), // our proxies
//	})
//	http.ListenAndServe(":8080", lim.Handler(mux))
//
// or a transport, to stay under somebody else's limit:
//
//	client := &http.Client{Transport: lim.Transport(nil)}
//
// Without HTTP, ask [Limiter.Allow].
//
// # How it decides
//
// By GCRA, the token bucket kept as one number per key: the time at which the
// bucket is full again. Over any time t no key is admitted more than
// Burst + Requests*t/Per times, at any concurrency; nothing is rounded in the
// caller's favour by more than the nanosecond that the clock can tell. The
// clock is monotonic: setting the system's time changes nothing.
//
// A bucket that is full again is the same as none and is forgotten; no other
// ever is, so sending fresh keys buys nobody a new burst. When MaxKeys buckets
// are in debt at once, keys without one share an overflow bucket.
//
// Several rates hold together or not at all: Also for the same key, Groups for
// wider ones. What is refused by one spends nothing of the others.
//
// # Defaults, and why
//
//   - Key is the TCP peer, IPv6 by its /64. No header field is believed until
//     Proxies are named, since a client can send what it likes.
//   - Burst is Requests: a browser loads a page at once. Who must not do that
//     gets a smaller one.
//   - MaxKeys is a million, 26 MB: a flood of keys must not take the memory.
//   - MaxWait is zero: a refusal at once tells a client more than a slow answer.
//   - StoreTimeout is 25 ms: a limit is not worth more of a request's time.
//   - Outage is DecideLocally at half of the rate: a limit that is off while
//     Redis is down is off when it is needed, and one that refuses all makes
//     two outages of one.
//
// # What it costs
//
// About 22 bytes a key, in flat arrays that the garbage collector does not look
// into, and that grow one small part at a time; there is no goroutine. A
// decision takes about as long as one time.Now when the key is in the
// processor's cache, and among a million keys that and one or two fetches from
// memory. A request with its header fields takes about 200 ns, and next to no
// allocation. With a Store a decision is one round trip; with a Lease, one in
// so many.
//
// # How it fails
//
// Never open by accident. A rate that makes no sense is an error of [New], of
// SetRate, or, when RateOf gives it, counted and answered with Rate. A request
// that names nobody shares a bucket with all who name nobody. A cost beyond
// Burst is refused for good. When MaxKeys debts are held, new clients are
// limited together, which Stats and Conditions tell. While a Store does not
// answer, Outage decides, and nobody waits. A panic in OnRefuse is counted; one
// in another hook, or in the handler, goes on up.
//
// # What it does not do
//
// It does not bound how much runs at once: that is package degrade. It does
// not keep a log of requests, so "never more than n in any window of w" holds
// for a Burst that is small against n, not exactly. It keeps no keys, only
// hashes of 64 bits: that two of a million keys share a bucket has a
// probability of three in a hundred million, and makes the limit stricter.
package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A Limiter holds a bucket for each key. Make it with [New]. It is safe for
// concurrent use.
type Limiter struct {
	cfg     Config
	groups  []*limit
	plan    atomic.Pointer[plan]
	tiers   atomic.Pointer[map[Rate]*plan]
	mu      sync.Mutex // guards writing plan and tiers
	mem     atomic.Pointer[memory]
	start   time.Time
	plain   bool    // one rate, no groups, in memory, nobody waits
	maxWait int64   // of Handler, Allow and Decide, in ticks
	shared  *shared // nil without a Store
	lines   lines

	fields    sync.Pool // *fields
	upstreams upstreams
	waits     histogram
	counts    counters
	refused   sketch
	journal   journal
}

// New returns a Limiter, or an error that names every field of cfg that is
// not valid.
func New(cfg Config) (*Limiter, error) {
	errs := cfg.check()
	l := &Limiter{start: time.Now()}
	for i, g := range cfg.Groups {
		lim, err := newPolicy(fmt.Sprintf("Config.Groups[%d].Rate", i), g.Name, g.Rate, cfg.LocalShare)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.groups = append(l.groups, lim)
	}
	l.cfg = cfg
	l.cfg.Also = append([]Rate(nil), cfg.Also...)
	p, err := l.newPlan("Config.", cfg.Rate, l.cfg.Also)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	if !cfg.DryRun {
		l.maxWait = int64(min(cfg.MaxWait, year)) * ticksPerNano
	}
	if cfg.Store != nil {
		h, ok := cfg.Store.(interface{ HeedsContext() bool })
		l.shared = &shared{store: cfg.Store, deadlines: deadlines{within: cfg.StoreTimeout}, prompt: ok && h.HeedsContext()}
		if cfg.Lease > 0 {
			l.shared.leases = newLeases(cfg.Lease)
		}
	}
	l.plain = len(p.limits) == 1 && len(l.groups) == 0 && cfg.Store == nil && l.maxWait == 0
	l.plan.Store(p)
	l.mem.Store(newMemory(len(p.limits), len(l.groups), l.cfg.MaxKeys))
	l.fields.New = func() any { return new(fields) }
	return l, nil
}

// MustNew is like [New] but panics if cfg is not valid. It is for
// configuration that is written in the source.
func MustNew(cfg Config) *Limiter {
	l, err := New(cfg)
	if err != nil {
		panic(err)
	}
	return l
}

// Allow takes n tokens from key's bucket, if it has them.
//
// The empty key is a bucket like any other: the one that all share who cannot
// be told apart. A key may have any length; it is not kept. If n is larger
// than the burst the answer is no, for ever. The error is not nil if n is not
// positive, or if ctx ended while waiting (Config.MaxWait), and then the answer
// is no too. An outage of the Store is not an error; see Config.Outage.
func (l *Limiter) Allow(ctx context.Context, key string, n int) (d Decision, err error) {
	if lim := l.plan.Load().first; l.plain && n > 0 && n <= lim.rate.Burst {
		m := l.mem.Load()
		h := m.seed.hash(key)
		s, home := m.first.path(h)
		debt, wait := m.first.take(s, home, h, m.now(), n, lim)
		if wait > 0 {
			return l.refusal(lim, debt, wait, key), nil
		}
		d.Allowed, d.Remaining, d.by, d.debt = true, lim.remaining(debt), lim, debt
		l.counts.mine().allowed.Add(1)
		return d, nil
	}
	return l.allow(ctx, key, n)
}

func (l *Limiter) refusal(lim *limit, debt, wait int64, key string) Decision {
	l.count(false, false, key)
	return l.verdict(lim, debt, wait, false)
}

// allow is Allow for every Config.
func (l *Limiter) allow(ctx context.Context, key string, n int) (Decision, error) {
	if n <= 0 {
		return Decision{}, fmt.Errorf("ratelimit: Allow: n is %d, must be positive", n)
	}
	a := l.askKey(key, n)
	if err := l.decide(ctx, a); err != nil {
		return Decision{}, fmt.Errorf("ratelimit: Allow: %w", err)
	}
	return l.decision(a), nil
}

// Decide is [Limiter.Allow] for a request: its key, rate and cost are found
// as Handler finds them, and Groups hold too.
func (l *Limiter) Decide(r *http.Request) (Decision, error) {
	var a ask
	l.askFor(r, &a)
	if err := l.decide(r.Context(), &a); err != nil {
		return Decision{}, fmt.Errorf("ratelimit: Decide: %w", err)
	}
	return l.decision(&a), nil
}

// fill puts the limits of p into a.
func (l *Limiter) fill(a *ask, p *plan) {
	a.own = copy(a.limits[:], p.limits)
	a.all = a.own
}

// askFor puts what r asks for into a.
func (l *Limiter) askFor(r *http.Request, a *ask) *plan {
	p := l.plan.Load()
	if l.cfg.RateOf != nil {
		p = l.tier(r, p)
	}
	l.fill(a, p)
	a.keys[0] = l.cfg.Key(r)
	for i, g := range l.groups {
		a.limits[a.all] = g
		a.all++
		a.keys[1+i] = l.cfg.Groups[i].Key(r)
	}
	a.n = l.cost(r)
	return p
}

func (l *Limiter) cost(r *http.Request) int {
	if l.cfg.Cost == nil {
		return 1
	}
	n := l.cfg.Cost(r)
	if n < 0 {
		l.counts.errors.Add(1)
		return 1
	}
	return n
}
