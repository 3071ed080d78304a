package balancer

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"time"
)

// checkBackends returns a copy of list with its defaults filled in.
func checkBackends(list []Backend, name string) ([]Backend, error) {
	list = slices.Clone(list)
	var errs []error
	seen := map[string]int{}
	for i := range list {
		d := &list[i]
		if err := d.normalize(); err != nil {
			errs = append(errs, fmt.Errorf("%s[%d].%w", name, i, err))
		} else if first, dup := seen[d.ID]; dup {
			errs = append(errs, fmt.Errorf("%s[%d].ID is %q, must differ from [%d]", name, i, d.ID, first))
		}
		seen[d.ID] = i
	}
	return list, errors.Join(errs...)
}

// SetBackends replaces the backends in one step. Those that stay keep their
// state, connections and place in turn. Those that leave get no new requests;
// their requests in flight end as if nothing had happened, and then their
// connections are closed. The new ones get a slow start, unless most are new.
// Setting what is set already does nothing.
//
// Two sets can be swapped back and forth (blue-green): one that comes back
// while its last requests still run has kept its state.
//
// The error names every backend that is not valid; nothing is changed then.
// With Config.Discover, the next discovery replaces the backends again.
func (b *Balancer) SetBackends(backends ...Backend) error {
	if len(backends) == 0 {
		return fmt.Errorf("balancer: SetBackends: backends is empty, must name a backend")
	}
	list, err := checkBackends(backends, "balancer: SetBackends: backends")
	if err != nil {
		return err
	}
	b.mu.Lock()
	gone := b.setMembers(list)
	b.mu.Unlock()
	for _, e := range gone {
		e.closeIdle()
	}
	b.tell()
	return nil
}

// setMembers makes list the members, and returns those that left.
// The caller holds b.mu.
func (b *Balancer) setMembers(list []Backend) (gone []*Endpoint) {
	now := b.now()
	list = b.subset(list)
	known := map[string]*Endpoint{}
	for _, e := range b.leaving {
		known[e.id] = e
	}
	for _, e := range b.members {
		known[e.id] = e // goes before one that is leaving
	}
	first := b.view.Load() == nil || len(b.members) == 0
	changed := first || len(list) != len(b.members)
	var sum float64
	next := make([]*Endpoint, len(list))
	stays := map[*Endpoint]bool{}
	for i, d := range list {
		e := known[d.ID]
		if e != nil && !e.sameAddress(d) {
			e = nil
		}
		switch {
		case e == nil:
			e = b.newEndpoint(d, now)
			changed = true
			if !first {
				e.startWarm(now, b.cfg.SlowStart)
				b.note(now, d.ID+": joined")
			}
			e.state, e.why = e.settle(now, b.cfg.SlowStart)
		case e.gone.Load():
			e.gone.Store(false)
			b.leaving = slices.DeleteFunc(b.leaving, func(x *Endpoint) bool { return x == e })
			b.note(now, d.ID+": joined again")
			changed = true
		}
		if e.Backend() != d {
			e.backend.Store(&d)
			changed = true
		}
		changed = changed || b.members[i] != e
		next[i] = e
		stays[e] = true
		sum += d.Weight
	}
	if !changed {
		return nil
	}
	for _, e := range b.members {
		if !stays[e] {
			e.gone.Store(true)
			e.trial.Store(false)
			b.note(now, e.id+": left")
			gone = append(gone, e)
		}
	}
	for _, e := range next {
		e.perLoad.Store(math.Float64bits(sum / float64(len(next)) / e.weight()))
	}
	b.leaving = append(b.leaving, gone...)
	b.forget()
	b.members = next
	b.pool.members.Store(&next)
	b.rebuild(now, true)
	return gone
}

// forget drops those that left and have nothing in flight; their counts stay.
// The caller holds b.mu.
func (b *Balancer) forget() {
	b.leaving = slices.DeleteFunc(b.leaving, func(e *Endpoint) bool {
		if e.InFlight() > 0 {
			return false
		}
		e.forgotten = true
		b.keepCounts(e)
		return true
	})
}

// keepCounts adds what e has counted to the past. The caller holds b.mu.
func (b *Balancer) keepCounts(e *Endpoint) {
	for v := range e.done {
		b.past[v] += e.done[v].Swap(0)
	}
}

// countLate is for an answer of an endpoint that has left: one that was picked
// just before may have been forgotten already.
func (b *Balancer) countLate(e *Endpoint) {
	b.mu.Lock()
	if e.forgotten {
		b.keepCounts(e)
	}
	b.mu.Unlock()
}

func (b *Balancer) newEndpoint(d Backend, now time.Duration) *Endpoint {
	u, _ := url.Parse(d.URL) // it was checked
	e := &Endpoint{url: u, id: d.ID, hash: hashString(d.ID), pool: &b.pool, health: health{since: now}}
	if u.Scheme == "h2c" {
		u.Scheme, e.h2c = "http", true
	}
	if b.cfg.Sticky.Cookie != "" {
		e.token = b.cfg.Sticky.token(d.ID)
	}
	e.backend.Store(&d)
	e.perLoad.Store(math.Float64bits(1))
	e.leaves.Store(new([]*leaf))
	return e
}

// sameAddress reports whether e can go on as d: not if what its connections
// were made for has changed.
func (e *Endpoint) sameAddress(d Backend) bool {
	old := e.backend.Load()
	return old.URL == d.URL && old.ServerName == d.ServerName
}

// subset returns the part of list that this process uses: by rendezvous
// hashing in each tier, so that a change of the set changes little here.
func (b *Balancer) subset(list []Backend) []Backend {
	n := b.cfg.Subset
	if n == 0 || len(list) <= n {
		return list
	}
	key := hashString(b.cfg.SubsetKey)
	rank := func(d *Backend) uint64 { return mix(hashString(d.ID) ^ key) }
	ranked := make([]*Backend, len(list))
	for i := range list {
		ranked[i] = &list[i]
	}
	slices.SortFunc(ranked, func(x, y *Backend) int {
		return cmp.Or(cmp.Compare(rank(y), rank(x)), cmp.Compare(x.ID, y.ID))
	})
	taken, keep := map[int]int{}, map[string]bool{}
	for _, d := range ranked {
		if taken[d.Tier] < n {
			taken[d.Tier]++
			keep[d.ID] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(d Backend) bool { return !keep[d.ID] })
}

// hashString is FNV-1a, finished so that all bits depend on all of s. It is the
// same in every process, so that all of them hash a key to the same backend.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

// markDraining takes e out because it said that it is leaving.
func (b *Balancer) markDraining(e *Endpoint) {
	now := b.now()
	b.mu.Lock()
	if e.drainedUntil <= now+drainFor-time.Second && !e.gone.Load() {
		e.drainedUntil = now + drainFor
		// It comes back, if it does, as one that has to show that it works.
		e.out, e.outUntil, e.outWhy = true, 0, "it was shutting down"
		e.warm.Store(0)
		b.rebuild(now, false)
	}
	b.mu.Unlock()
	b.tell()
}

// drainFor is how long a backend is left out after it has said that it is
// draining. If it is still there then, a single request finds out.
const drainFor = 10 * time.Second

// leaveOut notes that Config.Healthy said no to e.
func (b *Balancer) leaveOut(e *Endpoint, now time.Duration) {
	b.mu.Lock()
	if !e.outsideDown {
		e.outsideDown, e.outsideAt = true, now+time.Second
		b.rebuild(now, false)
	}
	b.mu.Unlock()
	b.tell()
}

// recheckOutside asks Config.Healthy again about those that it has said no to.
// It is called without locks: Healthy may call the Balancer.
func (b *Balancer) recheckOutside(now time.Duration) {
	if b.cfg.Healthy == nil {
		return
	}
	b.mu.Lock()
	var due []*Endpoint
	for _, e := range b.members {
		if e.outsideDown && e.outsideAt <= now {
			e.outsideAt = now + time.Second
			due = append(due, e)
		}
	}
	b.mu.Unlock()
	back := slices.DeleteFunc(due, func(e *Endpoint) bool { return !b.healthy(e) })
	b.mu.Lock()
	for _, e := range back {
		e.outsideDown = false
		e.startWarm(now, b.cfg.SlowStart)
	}
	b.mu.Unlock()
}
