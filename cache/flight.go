package cache

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"
)

var (
	errNobodyLeft  = errors.New("cache: every client that waited for this response has gone")
	errFillTimeout = errors.New("cache: no response within Config.FillTimeout")

	// ErrClosed is why the context of a revalidation in the background ended
	// when the Cache was closed.
	ErrClosed = errors.New("cache: closed")
)

// A flight is one call of the origin, and those who wait for it. Its leader
// makes the call; followers wait for the header and then share the body, or
// are released to make calls of their own.
type flight struct {
	c          *Cache
	shard      *shard
	key        string
	hash       uint64
	shared     bool
	method     string
	header     http.Header // of the leader's request: what Vary selects by
	auth       bool        // the leader's request carries Authorization
	cookie     bool
	strict     bool // the leader does not take what is stale
	stale      *entry
	asked      bool // the request was made conditional on stale
	rest       bool // the request asks for what follows stale, a part
	unfit      bool // the last answers to this key could not be shared
	detached   bool // its context is not the client's
	known      bool // other variants are stored
	background bool // nobody waits for it

	ctx     context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	started time.Duration

	// Protected by the shard.
	joinable bool
	refs     int
	doomed   bool     // a purge came: keep nothing
	deadTags []string // tags purged meanwhile

	ready chan struct{} // closed when what follows is set
	share *entry        // what followers may answer from, if it suits them
	free  bool          // no answer for followers: call the origin yourselves; otherwise try again
	err   error         // what a client's call has failed with, for all who wait

	entry   *entry  // the response on its way, if it is kept
	trailer []field // set before its body ends
	why     reason  // why it isn't
}

// newFlight returns a flight for a request. If others may join, the call
// outlives ctx, as long as somebody waits for it.
func (c *Cache) newFlight(ctx context.Context, r *http.Request, l *lookup, key string, hash uint64, shared bool, stale *entry, others bool) *flight {
	f := &flight{
		c: c, shard: c.shard(hash), key: key, hash: hash, shared: shared, method: r.Method,
		header: r.Header, auth: l.authorized, cookie: len(r.Header["Cookie"]) > 0,
		strict: l.strict(),
		stale:  stale, started: c.now(), refs: 1, ready: make(chan struct{}), detached: others,
	}
	if !others {
		f.header = r.Header.Clone() // next gets r itself, and may change it
		f.ctx, f.cancel = ctx, func(error) {}
		return f
	}
	f.ctx, f.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if c.fillTimeout > 0 {
		f.timer = time.AfterFunc(c.fillTimeout, func() { f.cancel(errFillTimeout) })
	}
	return f
}

// join returns a flight that the request can follow, or starts f, which make
// returns, with the request as its leader.
func (c *Cache) join(hash uint64, key string, h http.Header, plain bool, make func(others bool) *flight) (f *flight, lead bool) {
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := plain && !c.cfg.NoCollapse
	unfit := false
	if until, ok := s.unfit.Peek(hash); ok {
		if unfit = c.now() < until; !unfit {
			s.unfit.Remove(hash)
		}
	}
	wait = wait && !unfit
	if wait {
		for _, f := range s.flights[hash] {
			if f.joinable && f.key == key && !f.doomed && f.suits(h) {
				f.refs++
				return f, false
			}
		}
	}
	f = make(wait)
	f.joinable, f.unfit = wait, unfit
	if e := s.entries[hash]; e != nil && e.key == key {
		f.known = true
	}
	s.flights[hash] = append(s.flights[hash], f)
	return f, true
}

// suits reports whether a request may have use of f's answer: as far as is
// known what differs does not matter. The shard is locked.
func (f *flight) suits(h http.Header) bool {
	e := f.entry
	if e == nil {
		e = f.stale
	}
	return e == nil || len(e.vary) == 0 || slices.EqualFunc(e.vary, e.vary, func(v, _ varyField) bool {
		return slices.Equal(h[v.name], f.header[v.name])
	})
}

// leave takes one that waits out. When nobody is left the call is cancelled.
func (f *flight) leave() {
	f.shard.mu.Lock()
	f.refs--
	last := f.refs == 0
	if last {
		f.joinable = false
	}
	f.shard.mu.Unlock()
	if last {
		f.cancel(errNobodyLeft)
	}
}

// watch makes the leader leave when its client does.
func (f *flight) watch(ctx context.Context) (stop func() bool) {
	if !f.detached {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, f.leave)
}

// wait waits for the header of f's response.
func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// An action says what the leader does with the header it got.
type action uint8

const (
	actPass  action = iota // hand the response on, keep nothing
	actKeep                // hand it on, and write its body to f.entry.live
	actReply               // forget it, and answer from the returned entry
	actRetry               // forget it, and start again
)

// abandoned reports whether the call has ended because nobody waits for it.
func (f *flight) abandoned() bool {
	if f.detached {
		return errors.Is(context.Cause(f.ctx), errNobodyLeft)
	}
	return errors.Is(f.ctx.Err(), context.Canceled)
}

// retry gives up what is stored, because it can't be completed.
func (f *flight) retry() (action, *entry, Result, reason) {
	f.c.discard(f.stale)
	f.settle(nil, false)
	return actRetry, nil, Miss, reasonPartial
}

// respond decides what becomes of the response that has begun. It is called
// once, by the leader.
func (f *flight) respond(status int, h, outer http.Header) (action, *entry, Result, reason) {
	if f.timer != nil && !f.background {
		f.timer.Stop()
	}
	c := f.c
	now := c.now()
	if f.abandoned() {
		f.settle(nil, false)
		return actPass, nil, Failed, reasonClientGone
	}
	if f.asked && status == http.StatusNotModified {
		e := f.freshen(h, outer, now)
		f.settle(e, e.staleness(now) > 0 || e.rules.noCache)
		return actReply, e, Revalidated, reasonNone
	}
	if f.stale != nil && !f.stale.part && serverError(status) && !f.strict && c.staleIfError(f.stale, status, now) {
		c.failedOver.Store(max(1, int64(now)))
		f.settle(f.stale, false)
		return actReply, f.stale, Stale, reasonNone
	}
	var e *entry
	var why reason
	switch {
	case f.rest && status == http.StatusPartialContent && f.stale.finishes(h):
		if e, why = f.complete(h, outer, now); why != reasonNone {
			return f.retry()
		}
	case f.rest && (status == http.StatusPartialContent || status == http.StatusRequestedRangeNotSatisfiable):
		return f.retry() // not what was asked for
	default:
		d := responseDirectives(h, c.targetsFor(f.shared))
		e, why = f.admit(status, h, outer, &d, now)
	}
	if why != reasonNone {
		f.why = why
		f.markUnfit(status, now)
		f.settle(nil, true)
		if f.stale != nil && status < 500 && len(f.header["Range"]) == 0 {
			c.discard(f.stale) // the origin has something else now
		}
		return actPass, nil, resultOf(why), why
	}
	f.shard.mu.Lock()
	f.entry = e
	f.shard.mu.Unlock()
	if e.staleness(now) > 0 || e.rules.noCache || e.part {
		f.markUnfit(status, now)
		f.settle(nil, true)
	} else {
		f.settle(e, false)
	}
	return actKeep, e, Miss, reasonNone
}

func resultOf(why reason) Result {
	switch why {
	case reasonNoFreshness, reasonTooLarge, reasonStatus:
		return Miss
	}
	return Bypass
}

func serverError(status int) bool {
	switch status {
	case 500, 502, 503, 504:
		return true
	}
	return false
}

// markUnfit remembers that waiting for this key's answers is in vain: for some
// seconds, or for one if the origin has failed.
func (f *flight) markUnfit(status int, now time.Duration) {
	d := f.c.hitForMiss
	if status >= 500 {
		d = min(d, time.Second)
	}
	if d > 0 && f.method == http.MethodGet {
		f.shard.setUnfit(f.hash, now+d)
	}
}

// settle tells the followers what they can do, and lets no more in unless they
// can share.
func (f *flight) settle(share *entry, free bool) {
	f.shard.mu.Lock()
	f.share, f.free = share, free
	if free || share == nil || share.live == nil {
		f.joinable = false
	}
	f.shard.mu.Unlock()
	close(f.ready)
}

// settled reports whether respond has been called.
func (f *flight) settled() bool {
	select {
	case <-f.ready:
		return true
	default:
		return false
	}
}

// end ends the flight. With a nil err the response is whole, and is stored if
// nothing speaks against it.
func (f *flight) end(err error, trailer []field) {
	if f.timer != nil {
		f.timer.Stop()
	}
	if !f.settled() {
		f.settle(nil, false)
	}
	f.trailer = trailer
	var kept *entry
	e := f.entry
	if e != nil {
		if err == nil && e.size >= 0 && e.live.length() != e.size {
			err = errAborted
		}
		if err == nil && !e.live.overflowed() {
			kept = f.sealed(e, trailer)
		}
	}
	f.shard.mu.Lock()
	f.dropLocked()
	if kept != nil && (f.doomed || kept.hasTag(f.deadTags)) {
		kept, f.why = nil, reasonPurged
	}
	var removed []*entry
	if kept != nil {
		if kept.part {
			kept = kept.joined(f.shard.partLocked(f.c, kept, f.header))
		}
		removed = f.shard.replaceLocked(f.c, kept, f.header)
	}
	f.shard.mu.Unlock()
	if kept != nil {
		f.c.account(kept, removed)
		if f.c.tier != nil {
			f.c.tier.set(kept, f.header)
		}
	}
	if e != nil {
		// Only now: who has seen the end may ask again at once, and must find
		// it stored.
		e.live.finish(err)
		e.live.release()
	}
}

func (f *flight) dropLocked() {
	f.joinable = false
	flights := f.shard.flights[f.hash]
	if i := slices.Index(flights, f); i >= 0 {
		flights = slices.Delete(flights, i, i+1)
	}
	if len(flights) == 0 {
		delete(f.shard.flights, f.hash)
	} else {
		f.shard.flights[f.hash] = flights
	}
}

// sealed returns e with its whole body, to be stored.
func (f *flight) sealed(e *entry, trailer []field) *entry {
	k := e.clone()
	k.live = nil
	k.data = e.live.sealed()
	k.size = e.live.length()
	k.trailer = trailer
	if f.sniff() && k.size > 0 && k.field("Content-Type") == nil && k.field("Content-Encoding") == nil {
		k.fields = setField(slices.Clone(k.fields), "Content-Type", http.DetectContentType(k.data[0]))
	}
	if k.field("Content-Length") == nil && len(trailer) == 0 && bodyAllowed(k.status) {
		k.fields = setField(slices.Clone(k.fields), "Content-Length", formatInt(k.size))
	}
	k.weigh()
	return k
}

// sniff reports whether the server would guess a missing Content-Type.
func (f *flight) sniff() bool { return f.key[0] == realmHandler }

func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}
