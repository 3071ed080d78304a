package ratelimit

import (
	"context"
	"sync"
)

// lines are where requests wait under Config.MaxWait: one line for each key
// that somebody waits for, in the order they came.
type lines struct {
	mu    sync.Mutex
	byKey map[string]*line
}

type line struct {
	users int           // guarded by lines.mu, as are the next two
	lim   *limit        // what the line waits for
	ready int64         // tick by which the tokens for all in line will have come
	turn  chan struct{} // who has sent to it is first; senders are served in order
}

// decideWaiting answers a when its turn has come, or at once when that would
// be too late. It returns an error when ctx ends before.
func (l *Limiter) decideWaiting(ctx context.Context, a *ask) error {
	key, start := a.keys[0], l.mem.Load().now()
	var ln, made *line
	if !a.tooMuch() {
		ln = l.lines.join(key, nil)
	}
	if ln == nil {
		if l.once(ctx, a); a.allowed || a.wait > l.maxWait {
			return nil
		}
		made = &line{lim: a.limits[a.by], ready: start + a.wait}
		ln = l.lines.join(key, made)
	}
	defer l.lines.leave(key, ln)

	cost, wait := ln.lim.cost(0, a.n), int64(0)
	if ln != made {
		wait = l.lines.extend(ln, start, cost, l.maxWait)
	}
	if wait > l.maxWait {
		a.outOfTurn(wait)
		return nil
	}
	served := false
	defer func() {
		if !served {
			l.lines.shorten(ln, cost)
		}
		l.waits.observe(ticksToDuration(l.mem.Load().now() - start))
	}()

	select {
	case ln.turn <- struct{}{}:
		defer func() { <-ln.turn }()
	case <-ctx.Done():
		if ln != made { // it has not asked yet
			a.outOfTurn(wait)
		}
		return context.Cause(ctx)
	}
	for {
		l.once(ctx, a)
		waited := l.mem.Load().now() - start
		if served = a.allowed; served || a.wait > l.maxWait-waited {
			return nil
		}
		if _, err := sleep(ctx, ticksToDuration(a.wait), nil); err != nil {
			return err
		}
	}
}

// outOfTurn refuses a, which was behind others: nothing is left for it.
func (a *ask) outOfTurn(wait int64) {
	a.allowed, a.wait, a.by = false, wait, 0
	for i := range a.all {
		a.debts[i] = a.limits[i].room
	}
}

// tooMuch reports whether a asks for more than a bucket holds.
func (a *ask) tooMuch() bool {
	for _, lim := range a.limits[:a.all] {
		if a.n > lim.rate.Burst {
			return true
		}
	}
	return false
}

// extend adds cost to the line, if that makes nobody wait longer than longest,
// and returns the wait.
func (ls *lines) extend(ln *line, now, cost, longest int64) (wait int64) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ready := max(ln.ready, now) + cost
	if ready-now <= longest {
		ln.ready = ready
	}
	return ready - now
}

func (ls *lines) shorten(ln *line, cost int64) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ln.ready -= cost
}

// join returns the line for key. If there is none, that is made, unless it is
// nil too.
func (ls *lines) join(key string, made *line) *line {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ln := ls.byKey[key]
	if ln == nil {
		if made == nil {
			return nil
		}
		if ls.byKey == nil {
			ls.byKey = make(map[string]*line)
		}
		ln = made
		ln.turn = make(chan struct{}, 1)
		ls.byKey[key] = ln
	}
	ln.users++
	return ln
}

func (ls *lines) leave(key string, ln *line) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ln.users--; ln.users == 0 {
		delete(ls.byKey, key)
	}
}
