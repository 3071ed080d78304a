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

// Config configures a [Limiter]. Rate is required; the zero value of every
// other field is its default.
type Config struct {
	// Name labels the limiter's metrics and is the name of its policy in
	// header fields. Printable ASCII without quote and backslash. Default
	// "default".
	Name string

	// Rate is what each key is held to.
	Rate Rate

	// Also are further rates that hold for each key at the same time, three
	// at most: 10 per second and 5000 per day. A request passes all of them
	// or none, and one that is refused spends nothing.
	Also []Rate

	// Groups are further buckets that a request must pass at the same time,
	// four at most, each with a key of its own: a looser limit for a /48
	// beside the one for each /64, or one for the whole service. They hold in
	// Handler and Decide, where there is a request to find their keys in.
	Groups []Group

	// Key names the bucket that a request draws from. Nil means ClientIP():
	// the TCP peer.
	Key KeyFunc

	// RateOf gives the rate for a request, in place of Rate: by plan, by
	// route. Its zero value means Rate; one that is not valid is counted as
	// an error, and means Rate too.
	//
	// A debt is kept as the time until it is paid off, whatever the rate: who
	// changes from 100 per minute to 1000 per minute with an empty bucket
	// starts with an empty bucket that fills ten times as fast. Forget lets
	// such a key start afresh.
	RateOf func(*http.Request) Rate

	// Cost says how many tokens a request takes. Nil means 1. Zero passes
	// freely. A negative one is counted as an error and means 1. A request
	// that costs more than Burst is refused for good, without a Retry-After.
	Cost func(*http.Request) int

	// DryRun decides, counts and calls OnRefuse, but never refuses, and sends
	// no header fields.
	DryRun bool

	// MaxKeys bounds the memory: how many buckets may be in debt at once,
	// for the keys and for each of Groups. See the package comment for what
	// happens beyond. Default 1048576, for which at most 26 MB are used, as
	// they are needed.
	MaxKeys int

	// Fallback answers the requests that are refused, with Retry-After and
	// the other header fields already set; the status is its to choose. Nil
	// means 429 with a line of text, or problem+json if Accept asks for it.
	Fallback http.Handler

	// Headers says which header fields answers carry.
	Headers Headers

	// Settle says what a request has cost in the end, by its answer: 0 for a
	// login that succeeded, the tokens that a model used. The difference to
	// Cost is charged or given back, as by Charge; a negative cost is counted
	// as an error and changes nothing. A request that panicked, or whose
	// client left before the end, may be charged more but gets nothing back:
	// whoever could get tokens back by leaving would have no limit.
	Settle func(r *http.Request, o Outcome) int

	// MaxWait is how long a request may wait for its turn, in order, where it
	// would otherwise be refused at once. Zero means that Handler, Allow and
	// Decide do not wait, and that Transport waits as long as the request's
	// context allows. In a dry run nothing but Transport waits.
	MaxWait time.Duration

	// Store holds the buckets where several processes share them, such as
	// [NewRedisStore]. Nil means in this process.
	Store Store

	// StoreTimeout is how long a decision may wait for the Store. One that
	// waited in vain, or got an error, makes it an outage: from then on
	// decisions do not wait, and every 100 ms one of them has the Store
	// asked in the background whether it answers again. One whose own
	// deadline left the Store less than an eighth of that has it asked first.
	// Default 25ms.
	StoreTimeout time.Duration

	// Outage says how to decide meanwhile. Default DecideLocally.
	Outage Outage

	// LocalShare is the part of the rates and bursts that this process grants
	// by itself in an outage: with n processes, 1/n keeps the sum. More than
	// 0, at most 1. Default 0.5.
	LocalShare float64

	// Lease is how many tokens to take from the Store at once, for a key that
	// is asked for, to decide the next requests without it; and refusals are
	// remembered until they would end. Near the limit less is taken. Each
	// process may then hold back up to so many tokens of a key and use them
	// later: the most that n processes admit is n*Lease more than the bound.
	// Default 0: every decision asks the Store.
	Lease int

	// MaxPause bounds how long Transport obeys an upstream's answer. Default
	// a minute; negative means that it pays no heed to answers.
	MaxPause time.Duration

	// OnRefuse is called for each request that is refused (in a dry run, that
	// would have been), on its goroutine, before the answer. If it panics, that is
	// counted and the request goes on.
	OnRefuse func(r *http.Request, key string, d Decision)
}

// A Group is a wider bucket that requests draw from beside their own.
type Group struct {
	Name string  // of the policy, no other's. Required, as for Config.Name
	Key  KeyFunc // names the group of a request. Required
	Rate Rate    // what each group is held to. Required
}

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
