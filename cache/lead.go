package cache

import (
	"context"
	"net/http"
)

// lead calls next for everyone who waits, and answers w with what it says. It
// reports false if that was of no use, and has to be done again.
func (h *handler) lead(w http.ResponseWriter, r *http.Request, l *lookup, f *flight) bool {
	c := h.c
	rec := newRecorder(f, w, r, l)
	finished := false
	defer func() {
		c.fillTime.since(c, f.started)
		if !finished { // a panic or runtime.Goexit, which goes on
			rec.abort()
			c.done(r, f.hash, Failed, reasonAborted)
		}
		f.cancel(nil)
	}()
	if e := f.fromTier(r.Context(), l); e != nil {
		rep, ok := l.replyFor(c, e, c.now())
		if ok {
			rep.write(w, c.stampAt(e, c.now()))
			c.done(r, f.hash, Hit, reasonNone)
		}
		finished = true
		return ok
	}
	h.next.ServeHTTP(rec, f.request(r, l))
	rec.finish()
	finished = true
	if rec.act == actRetry {
		l.anew = true
		return false
	}
	c.done(r, f.hash, rec.result, rec.why)
	return true
}

// fill calls next in the background.
func (h *handler) fill(f *flight, out *http.Request, l *lookup) {
	rec := newRecorder(f, nil, out, l)
	h.next.ServeHTTP(rec, out)
	rec.finish()
}

// request returns the request that goes to next: the client's own, but for the
// conditions, which are the cache's. It outlives the client.
func (f *flight) request(r *http.Request, l *lookup) *http.Request {
	if f.stale == nil {
		if !f.detached() {
			return r
		}
		out := r.WithContext(f.ctx)
		out.Header = r.Header.Clone()
		if !f.unfit && len(l.ranges) == 0 {
			// What is not stored yet is fetched whole, if it is likely to be
			// stored; the client's own conditions are applied to it afterwards.
			delete(out.Header, "If-None-Match")
			delete(out.Header, "If-Modified-Since")
		}
		return out
	}
	out := r.Clone(f.ctx)
	if out.Header == nil {
		out.Header = http.Header{}
	}
	switch {
	case l.anew: // as if nothing were stored
		out.Header.Del("If-None-Match")
		out.Header.Del("If-Modified-Since")
	case f.stale.completes() && len(l.ranges) == 0:
		f.rest = true
		f.stale.askRest(out.Header)
	case !f.stale.part && f.stale.validates():
		f.asked = true
		f.stale.conditional(out.Header)
		if !l.rangeApplies(f.stale, f.c.wall(f.started)) {
			out.Header.Del("Range")
			out.Header.Del("If-Range")
		}
	case !f.unfit && len(l.ranges) == 0:
		out.Header.Del("If-None-Match")
		out.Header.Del("If-Modified-Since")
	}
	return out
}

// refresh fetches a new response in the background, once at a time for an
// entry. The call ends by itself, after Config.FillTimeout at the latest, or
// with Close.
func (c *Cache) refresh(r *http.Request, l *lookup, key string, e *entry, fill func(*flight, *http.Request)) {
	if !e.refreshing.CompareAndSwap(false, true) {
		return
	}
	if !c.start() {
		return
	}
	f := c.newFlight(r.Context(), l.asker(e.rules.shared), key, e.hash, r.Header.Clone(), e) // r is soon the client's again
	f.background = true
	f.detach(r.Context())
	f.client = nil // nobody's
	f.shard.board(f)
	out := f.request(r, l)
	out.Method, out.Body = http.MethodGet, http.NoBody // whatever r wants of it
	stop := context.AfterFunc(c.life, func() { f.cancel(ErrClosed) })
	go func() {
		defer c.background.Done()
		defer e.refreshing.Store(false)
		defer stop()
		defer f.cancel(nil)
		returned := false
		defer func() {
			if !returned { // a panic, which has nobody to go up to, or runtime.Goexit
				if c.panicked(recover()) {
					c.changed("a revalidation in the background panicked")
				}
				f.end(errAborted, nil)
			}
		}()
		fill(f, out)
		returned = true
		c.fillTime.since(c, f.started)
	}()
}

// panicked counts what next has panicked with, if nobody else gets to see it.
func (c *Cache) panicked(with any) bool {
	if with == nil || with == http.ErrAbortHandler {
		return false
	}
	c.panics.Add(1)
	return true
}
