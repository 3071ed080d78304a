package cache

import (
	"net/http"
	"time"
)

// An action says what the leader does with the header it got.
type action uint8

const (
	actPass  action = iota // hand the response on, keep nothing
	actKeep                // hand it on, and write its body to f.entry.live
	actReply               // forget it, and answer from the returned entry
	actRetry               // forget it, and start again
)

// retry gives up what is stored, because what came does not go with it.
func (f *flight) retry() (action, *entry, Result, reason) {
	f.c.discard(f.stale)
	f.settle(nil, false)
	return actRetry, nil, Miss, reasonPartial
}

// respond decides what becomes of the response that has begun. It is called
// once, by the leader.
func (f *flight) respond(status int, h http.Header, outer *outerFields) (action, *entry, Result, reason) {
	if f.detached() && !f.background {
		f.fill.begin()
	}
	c := f.c
	now := c.now()
	if f.abandoned() {
		f.settle(nil, false)
		return actPass, nil, Failed, reasonClientGone
	}
	if f.asked && status == http.StatusNotModified {
		if len(h["Etag"]) > 0 && !f.stale.identifiedBy(h) {
			// The origin has something else, and says that it is what we have:
			// that confirms nothing, and must not update anything (RFC 9111 §4.3.4).
			return f.retry()
		}
		return actReply, f.freshen(h, outer, now), Revalidated, reasonNone
	}
	if f.stale != nil && !f.stale.part && serverError(status) && !f.strict && !f.stalePurged() && c.staleIfError(f.stale, status, now) {
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
		if f.stale != nil && status < 500 && !f.ranged {
			c.discard(f.stale) // the origin has something else now
		}
		return actPass, nil, resultOf(why), why
	}
	if f.asked && e.part && !f.stale.identifiedBy(h) {
		c.discard(f.stale) // a whole would be preferred to a part, even one of an old version
	}
	f.shard.mu.Lock()
	f.entry = e
	purged := e.hasTag(f.deadTags) // some may have come to wait since
	f.doomed = f.doomed || purged
	f.shard.mu.Unlock()
	switch {
	case e.staleness(now) > 0 || e.rules.noCache || e.part:
		f.markUnfit(status, now)
		f.settle(nil, true)
	case purged:
		f.settle(nil, false)
	default:
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
	if d := f.c.unfitFor(status); d > 0 {
		f.shard.setUnfit(f.key, f.hash, now+d)
	}
}

// unfitFor is how long markUnfit remembers.
func (c *Cache) unfitFor(status int) time.Duration {
	if status >= 500 {
		return min(c.hitForMiss, time.Second)
	}
	return c.hitForMiss
}

// end ends the flight, once. With a nil err the response is whole, and is stored
// if nothing speaks against it.
func (f *flight) end(err error, trailer []field) {
	if f.ended {
		return
	}
	f.ended = true
	if !f.settled {
		f.settle(nil, false)
	}
	f.trailer, f.common = trailer, f.c.storableOf(trailer, f.withheld)
	var kept *entry
	e := f.entry
	if e != nil {
		if err == nil && (e.size >= 0 && e.live.length() != e.size || e.size < 0 && f.cutShort()) {
			err = errAborted
		}
		if err == nil && !e.live.overflowed() {
			kept = f.sealed(e)
		}
	}
	f.shard.mu.Lock()
	f.shard.dropLocked(f)
	if kept != nil && (f.doomed || kept.hasTag(f.deadTags)) {
		kept, f.why = nil, reasonPurged
	}
	var removed []*entry
	if kept != nil {
		if kept.part {
			kept = f.c.joined(kept, f.shard.partLocked(f.c, kept, f.header))
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

// sealed returns e with its whole body, to be stored.
func (f *flight) sealed(e *entry) *entry {
	var k entry
	e.copyTo(&k)
	k.live = nil
	k.data = e.live.sealed()
	k.size = e.live.length()
	k.trailer = f.common
	var room [moreValues]field
	fields := e.fields.list(room[:0])
	if f.sniff() && k.size > 0 && k.field("Content-Type") == nil && k.field("Content-Encoding") == nil {
		fields = setField(fields, "Content-Type", http.DetectContentType(k.data[0]))
	}
	if k.field("Content-Length") == nil && len(k.trailer) == 0 && bodyAllowed(k.status) {
		fields = setField(fields, "Content-Length", formatInt(k.size))
	}
	return k.pack(f.c, fields)
}

// sniff reports whether the server would guess a missing Content-Type.
func (f *flight) sniff() bool { return f.key[0] == realmHandler }

func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}
