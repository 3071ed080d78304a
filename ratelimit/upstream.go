package ratelimit

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const maxUpstreams = 4096

// upstreams are the paces that a Limiter's Transports keep, at most
// maxUpstreams. One that is idle, which is the same as a new one, makes room;
// when none is, new ones share the one named "".
type upstreams struct {
	mu     sync.Mutex
	byName map[string]*upstream
}

// get returns the upstream of that name. The caller must put it back.
func (us *upstreams) get(name string) *upstream {
	us.mu.Lock()
	defer us.mu.Unlock()
	u := us.byName[name]
	if u == nil && len(us.byName) >= maxUpstreams {
		for other, u := range us.byName {
			if u.users == 0 && u.idle() {
				delete(us.byName, other)
			}
		}
		if len(us.byName) >= maxUpstreams {
			name = ""
			u = us.byName[name]
		}
	}
	if u == nil {
		if us.byName == nil {
			us.byName = make(map[string]*upstream)
		}
		u = &upstream{line: make(chan struct{}, 1), stop: make(chan struct{})}
		us.byName[name] = u
	}
	u.users++
	return u
}

func (us *upstreams) put(u *upstream) {
	us.mu.Lock()
	u.users--
	us.mu.Unlock()
}

// An upstream is one pace. Requests stand in line; the first one alone takes a
// reservation and sits it out, so that one which leaves gives its tokens back
// whole, and a pause holds up the line without mixing it.
type upstream struct {
	users int           // requests that hold it; guarded by upstreams.mu
	line  chan struct{} // who has sent to it is first; senders are served in order

	mu     sync.Mutex // guards what follows; the limiters' clock is read under it
	plan   *plan
	pace   []*rate.Limiter // one for each limit of plan
	queued int             // tokens that those in line will take
	paused time.Time       // no request before
	why    string
	slowed time.Time     // until when the pace is a learned one
	stop   chan struct{} // closed and replaced when who sits out a wait must think again
}

func perSecond(l *limit) rate.Limit {
	return rate.Limit(float64(l.rate.Requests) / l.rate.Per.Seconds())
}

// refreshLocked makes the pace that of p, unless a slower one was learned.
func (u *upstream) refreshLocked(p *plan, now time.Time) {
	if u.plan == p && (u.slowed.IsZero() || now.Before(u.slowed)) {
		return
	}
	for i, lim := range p.limits {
		if i == len(u.pace) {
			u.pace = append(u.pace, rate.NewLimiter(perSecond(lim), lim.rate.Burst))
			continue
		}
		u.pace[i].SetLimitAt(now, perSecond(lim))
		u.pace[i].SetBurstAt(now, lim.rate.Burst)
	}
	u.plan, u.slowed = p, time.Time{}
}

func (u *upstream) idle() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	for _, lim := range u.pace {
		if lim.TokensAt(now) < float64(lim.Burst()) {
			return false
		}
	}
	return now.After(u.paused) && now.After(u.slowed)
}

// wait returns when it is the turn of a request that takes n tokens, or an
// error when that would be too late. The plan may change meanwhile.
func (u *upstream) wait(ctx context.Context, p *atomic.Pointer[plan], n int, longest time.Duration) (waited time.Duration, err error) {
	start := time.Now()
	defer func() { waited = time.Since(start) }()
	if err := u.enter(ctx, p, n, longest); err != nil {
		return 0, err
	}
	defer func() {
		u.mu.Lock()
		u.queued -= n
		u.mu.Unlock()
	}()
	select {
	case u.line <- struct{}{}:
		defer func() { <-u.line }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	for {
		u.mu.Lock()
		now := time.Now()
		u.refreshLocked(p.Load(), now)
		if err := u.fitsLocked(n); err != nil {
			u.mu.Unlock()
			return 0, err
		}
		wait, cancel := u.paused.Sub(now), func() {}
		again := wait > 0
		if !again {
			wait, cancel = u.reserveLocked(now, n)
			if left := u.slowed.Sub(now); left > 0 && wait > left { // then the pace is our own again
				wait, again = left, true
			}
		}
		stop := u.stop
		u.mu.Unlock()
		if wait <= 0 {
			return 0, nil
		}
		if err := tooLong(ctx, time.Since(start)+wait, wait, longest); err != nil {
			cancel()
			return 0, err
		}
		stopped, err := sleep(ctx, wait, stop)
		if err != nil || stopped || again {
			cancel()
		}
		if err != nil {
			return 0, err
		}
		if !stopped && !again {
			return 0, nil
		}
	}
}

// enter puts n tokens in line, unless that line is too long.
func (u *upstream) enter(ctx context.Context, p *atomic.Pointer[plan], n int, longest time.Duration) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	u.refreshLocked(p.Load(), now)
	if err := u.fitsLocked(n); err != nil {
		return err
	}
	wait := max(0, u.paused.Sub(now))
	for i, lim := range u.pace {
		short := float64(u.queued+n) - lim.TokensAt(now)
		s := short / float64(lim.Limit())
		if slow := u.slowed.Sub(now).Seconds(); i == 0 && slow > 0 && s > slow {
			s = slow + (short-slow*float64(lim.Limit()))/float64(perSecond(u.plan.limits[0]))
		}
		if s > wait.Seconds() {
			wait = time.Duration(min(s*float64(time.Second), math.MaxInt64/2)) // MaxInt64 itself is no float64
		}
	}
	if err := tooLong(ctx, wait, wait, longest); err != nil {
		return err
	}
	u.queued += n
	return nil
}

// fitsLocked returns an error if a request for n tokens would wait for ever.
func (u *upstream) fitsLocked(n int) error {
	for i, lim := range u.pace {
		if n > lim.Burst() {
			return fmt.Errorf("%w: the request costs %d, policy %q holds %d", ErrWait, n, u.plan.limits[i].policy, lim.Burst())
		}
	}
	return nil
}

// reserveLocked takes n tokens from every pace, and returns how long the last
// of them will be in coming, and how to give them back.
func (u *upstream) reserveLocked(now time.Time, n int) (wait time.Duration, cancel func()) {
	taken := make([]*rate.Reservation, len(u.pace))
	for i, lim := range u.pace {
		taken[i] = lim.ReserveN(now, n)
		wait = max(wait, taken[i].DelayFrom(now))
	}
	return wait, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		for _, r := range taken {
			r.CancelAt(time.Now())
		}
	}
}

// tooLong returns an error if waiting for so long from now, or all, is more
// than the deadline or longest allow. A longest of 0 sets no bound.
func tooLong(ctx context.Context, all, fromNow, longest time.Duration) error {
	if longest > 0 && all > longest {
		return fmt.Errorf("%w: %v, MaxWait is %v", ErrWait, all, longest)
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < fromNow {
		return fmt.Errorf("%w: %v, which outlasts the deadline: %w", ErrWait, fromNow, context.DeadlineExceeded)
	}
	return nil
}

// obey does what the upstream has asked for.
func (u *upstream) obey(a advice, longest time.Duration) (pausedUntil time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if a.pause > 0 {
		until := now.Add(min(a.pause, longest))
		if !until.After(u.paused) {
			return time.Time{}
		}
		u.paused, u.why = until, a.why
		u.stopLocked()
		// Whatever tokens come in until then are not for a burst at the end.
		for _, lim := range u.pace {
			if have := int(lim.TokensAt(until)) - 1; have > 0 {
				lim.AllowN(until, have)
			}
		}
		return until
	}
	if lim := u.pace[0]; a.within > 0 {
		slow := min(perSecond(u.plan.limits[0]), rate.Limit(float64(a.left)/a.within.Seconds()))
		lim.SetLimitAt(now, slow)
		if extra := int(lim.TokensAt(now)) - a.left; extra > 0 {
			lim.AllowN(now, extra)
		}
		u.slowed = now.Add(min(a.within, longest))
	}
	return time.Time{}
}

// stopLocked ends the wait of the first in line, who then thinks again.
func (u *upstream) stopLocked() {
	close(u.stop)
	u.stop = make(chan struct{})
}

// follow makes the paces those of p at once: whoever waits for a slower rate of
// before waits no longer.
func (us *upstreams) follow(p *plan) {
	us.mu.Lock()
	defer us.mu.Unlock()
	for _, u := range us.byName {
		u.mu.Lock()
		u.refreshLocked(p, time.Now())
		u.stopLocked()
		u.mu.Unlock()
	}
}

// paused yields the upstreams that are.
func (us *upstreams) paused(yield func(string, string) bool) {
	us.mu.Lock()
	what := make(map[string]string)
	for name, u := range us.byName {
		u.mu.Lock()
		if time.Now().Before(u.paused) {
			what[name] = "paused until " + u.paused.UTC().Format("15:04:05Z") + ": it " + u.why
		}
		u.mu.Unlock()
	}
	us.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(what)) {
		if !yield(name, what[name]) {
			return
		}
	}
}
