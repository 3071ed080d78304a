package balancer

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// ErrNoBackend matches, with [errors.Is], the error of a request that there
// was no backend for.
var ErrNoBackend = errors.New("balancer: no backend is available")

// A NoBackendError says that no backend is available, or that none is left
// that this request has not tried. It matches [ErrNoBackend].
type NoBackendError struct {
	Name  string // of the Balancer
	retry time.Duration
}

// RetryAfter is how long it takes until a backend may be back, at least a
// second.
func (e *NoBackendError) RetryAfter() time.Duration { return e.retry }

func (e *NoBackendError) Error() string {
	return fmt.Sprintf("balancer: %s: no backend is available", e.Name)
}

// Is reports whether target is [ErrNoBackend].
func (e *NoBackendError) Is(target error) bool { return target == ErrNoBackend }

// A Lease is one request on its way to one backend. It is made by
// [Balancer.Acquire], and must be ended with Done.
type Lease struct {
	b     *Balancer
	e     *Endpoint
	began time.Duration
	trial bool
	done  bool
	tried tried
}

// tried is what one request has tried. Max retries are few, so it is small and
// lives on the stack.
type tried struct {
	n    int
	list [maxTries]*Endpoint
}

const maxTries = 8

func (t *tried) has(e *Endpoint) bool {
	for _, x := range t.list[:t.n] {
		if x == e {
			return true
		}
	}
	return false
}

// Acquire picks a backend for a request and counts one in flight on it. It is
// for protocols other than HTTP: [Balancer.Transport] and [Balancer.Proxy] do
// all of this themselves. R may be nil; policies that hash need one.
//
// The caller must call Done on the Lease. The error is a
// [*NoBackendError].
func (b *Balancer) Acquire(r *http.Request) (Lease, error) {
	b.budget.deposit(1)
	return b.acquire(r, tried{}, true)
}

// Endpoint returns the backend to send the request to.
func (l *Lease) Endpoint() *Endpoint { return l.e }

// Done ends the request and says how it went. Called again, it does nothing.
func (l *Lease) Done(v Verdict) {
	if l.done {
		return
	}
	l.done = true
	defer l.b.ended(l.e) // also if a hook ends the goroutine
	l.b.answered(l, min(v, Ignored), false)
}

// Retry picks another backend for a request that failed, which the caller
// must have told Done about and must know to be safe to send again. It takes
// from the retry budget, and reports false if that is spent, if no other
// backend is left, or if Config.Retry.Max are made.
func (l *Lease) Retry(r *http.Request) (Lease, bool) {
	if l.tried.n > l.b.cfg.Retry.Max || !l.b.another(&l.tried) || !l.b.mayRetry() {
		return Lease{}, false
	}
	next, err := l.b.acquire(r, l.tried, true)
	return next, err == nil
}

// acquire picks an endpoint that is not in t, and begins a request on it.
// Safe is whether the request could be sent again if it failed.
func (b *Balancer) acquire(r *http.Request, t tried, safe bool) (Lease, error) {
	now := b.now()
	v := b.view.Load()
	if now >= v.wake {
		v = b.wakeUp(now)
	}
	e, isTrial := b.choose(v, r, now, &t, safe)
	if e == nil {
		b.unavailable.Add(1)
		return Lease{}, &NoBackendError{Name: b.cfg.Name, retry: b.nextChance(now)}
	}
	e.begin(now)
	t.list[t.n] = e
	t.n++
	return Lease{b: b, e: e, began: now, trial: isTrial, tried: t}, nil
}

// nextChance returns how long it takes until a backend may be there again.
func (b *Balancer) nextChance(now time.Duration) time.Duration {
	v := b.view.Load() // choose may just have left the last one out
	d := min(v.back-now, time.Minute)
	if b.cfg.Discover != nil {
		d = min(d, b.cfg.DiscoverEvery)
		if len(v.members) == 0 {
			d = time.Second
		}
	}
	return max(d, time.Second)
}

// choose returns the endpoint that a request goes to, or nil, and whether it
// is that endpoint's trial.
func (b *Balancer) choose(v *view, r *http.Request, now time.Duration, t *tried, safe bool) (*Endpoint, bool) {
	if v.byToken != nil && t.n == 0 {
		if e := v.byToken[b.cookie(r)]; e != nil {
			if b.usable(e, v.panics) {
				return e, false
			}
			b.leaveOut(e, now)
			v = b.view.Load()
		}
	}
	if len(v.trials) > 0 && t.n == 0 {
		// A trial may well fail. Give it to a request that can be retried, if
		// one comes along in time.
		for _, x := range v.trials {
			if !safe && now-x.since <= b.cfg.Eject.Base || x.e.trial.Load() {
				continue
			}
			if !b.usable(x.e, v.panics) {
				b.leaveOut(x.e, now)
			} else if x.e.trial.CompareAndSwap(false, true) {
				return x.e, true
			}
		}
	}
	if len(v.groups) == 0 {
		return nil, false
	}
	rnd := b.rand()
	g := &v.groups[0]
	if len(v.groups) > 1 {
		draw := mix(rnd) >> 32
		for i := range v.groups {
			if g = &v.groups[i]; draw < g.below {
				break
			}
		}
	}
	c := Call{Request: r, Now: now, Rand: rnd}
	for ; c.Try < 4; c.Try++ {
		e := g.pick(c)
		if e != nil && (t.n == 0 || !t.has(e) && now >= time.Duration(e.rest.Load())) &&
			(!g.ramp || e.admits(now, c.Rand, b.cfg.SlowStart)) {
			if b.usable(e, g.panics) {
				return e, false
			}
			b.leaveOut(e, now)
			if c.Try == 3 {
				return b.choose(b.view.Load(), r, now, t, safe)
			}
		}
		c.Rand = mix(c.Rand)
	}
	e := b.anyOf(v, g, c, t)
	if e != nil && !b.usable(e, v.panics) {
		b.leaveOut(e, now)
		return b.choose(b.view.Load(), r, now, t, safe)
	}
	return e, false
}

// usable asks Config.Healthy, unless health is not believed at the moment.
func (b *Balancer) usable(e *Endpoint, panics bool) bool {
	return b.cfg.Healthy == nil || panics || b.healthy(e)
}

// healthy asks Config.Healthy. A panic means no.
func (b *Balancer) healthy(e *Endpoint) (ok bool) {
	defer func() {
		if recover() != nil {
			b.hookPanics.Add(1)
		}
	}()
	return b.cfg.Healthy(e.Backend())
}

// admits reports whether e takes a request although it is warming: with a
// probability that grows from 0 to 1 over the slow start. (Making it look
// dearer instead would give it nothing at first, and then everything.)
func (e *Endpoint) admits(now time.Duration, r uint64, slowStart time.Duration) bool {
	warm := e.warm.Load()
	if warm == 0 {
		return true
	}
	return float64(mix(^r)>>11)/(1<<53) < float64(now-time.Duration(warm))/float64(slowStart)
}

// anyOf is for when the Picker did not come up with an endpoint that may be
// used: it takes the least costly of the group, or else of any group, that was
// not tried and does not rest; one that warms only if there is no other.
func (b *Balancer) anyOf(v *view, g *group, c Call, t *tried) *Endpoint {
	if e := leastCost(g.ready, c, t); e != nil {
		return e
	}
	for i := range v.groups {
		if e := leastCost(v.groups[i].ready, c, t); e != nil {
			return e
		}
	}
	return nil
}

func leastCost(ready []*Endpoint, c Call, t *tried) (best *Endpoint) {
	var least float64
	bestWarms := false
	from := scale(uint32(c.Rand), len(ready))
	for i := range ready {
		i += from
		if i >= len(ready) {
			i -= len(ready)
		}
		e := ready[i]
		if t.has(e) || t.n > 0 && c.Now < time.Duration(e.rest.Load()) {
			continue
		}
		warms, cost := e.warm.Load() != 0, e.cost(c.Now)
		if best == nil || !warms && bestWarms || warms == bestWarms && cost < least {
			best, least, bestWarms = e, cost, warms
		}
	}
	return best
}

// another reports whether a backend is left that is not in t.
func (b *Balancer) another(t *tried) bool {
	if t.n >= maxTries {
		return false
	}
	v, now := b.view.Load(), time.Duration(-1)
	for i := range v.groups {
		for _, e := range v.groups[i].ready {
			if t.has(e) {
				continue
			}
			if rest := time.Duration(e.rest.Load()); rest != 0 {
				if now < 0 {
					now = b.now()
				}
				if now < rest {
					continue
				}
			}
			return true
		}
	}
	return false
}
