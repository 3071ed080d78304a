package cache

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// Handler returns a handler that answers from the cache, or else from next, as
// a shared cache (RFC 9111 §1.1). It calls next as RFC 9111 §4 demands, and to
// revalidate in the background.
//
// Several handlers may share a Cache if they answer for different hosts or
// paths. The result is safe for concurrent use if next is.
func (c *Cache) Handler(next http.Handler) http.Handler {
	if next == nil {
		panic("cache: Handler: next is nil")
	}
	return &handler{c, next}
}

type handler struct {
	c    *Cache
	next http.Handler
}

// keyRoom is what a key may need on the stack.
const keyRoom = 320

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := h.c
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.other(w, r)
		return
	}
	var l lookup
	l.read(r, c.cfg.IgnoreRequestDirectives)
	if l.bypass == reasonNone && c.cfg.Bypass != nil && c.cfg.Bypass(r) {
		l.bypass = reasonRule
	}
	if l.cc.noStore {
		l.bypass = reasonRequestNoStore
	}
	if l.bypass != reasonNone {
		h.bypass(w, r, l.bypass)
		return
	}
	var room [keyRoom]byte
	key := c.keys.appendKey(room[:0], r, realmHandler, &l.guard)
	hash := c.keys.hash(key)
	now := c.now()
	e := c.find(key, hash, r.Header, len(l.ranges) > 0)
	if e != nil && l.fresh(e, now) && h.hit(w, r, &l, e, now) {
		return
	}
	if e == nil && h.passUnfit(w, r, &l, key, hash, now) {
		return
	}
	h.miss(w, r, l, key, hash, e, now)
}

// fresh reports whether e can answer without asking the origin, and without
// being stale (RFC 9111 §4.2, §5.2.1).
func (l *lookup) fresh(e *entry, now time.Duration) bool {
	past := e.staleness(now)
	if past > 0 || e.rules.noCache {
		return false
	}
	if !l.asks {
		return true
	}
	return !l.cc.noCache && (l.cc.maxAge < 0 || e.age(now) <= l.cc.maxAge) && -past >= l.cc.minFresh
}

// takesStale reports whether the client takes e although it is stale
// (max-stale), and the origin does not forbid it.
func (l *lookup) takesStale(e *entry, now time.Duration) bool {
	past := e.staleness(now)
	return past > 0 && past <= l.cc.maxStale && !l.cc.noCache && l.cc.minFresh <= 0 &&
		(l.cc.maxAge < 0 || e.age(now) <= l.cc.maxAge+l.cc.maxStale) &&
		!e.rules.noCache && !e.rules.mustRevalidate
}

// hit answers from e. It does not allocate in the plain case.
func (h *handler) hit(w http.ResponseWriter, r *http.Request, l *lookup, e *entry, now time.Duration) bool {
	c := h.c
	rep, ok := l.replyFor(e, c.wall(now))
	if !ok {
		return false
	}
	c.policy.touch(e)
	rep.write(w, c.stampAt(e, now))
	c.done(r, e.hash, Hit, reasonNone)
	return true
}

// miss answers a request that the cache alone can't: it finds out whether what
// is stale will do, whether to wait for another request's answer, or calls
// next. What was found is e, if anything was.
func (h *handler) miss(w http.ResponseWriter, r *http.Request, l lookup, room []byte, hash uint64, e *entry, now time.Duration) {
	c := h.c
	key := string(room)
	for plain := l.plain(); ; {
		if e != nil && h.stale(w, r, &l, e, key, now) {
			return
		}
		if l.cc.onlyIfCached {
			gatewayTimeout(w, notCachedText) // §5.2.1.7
			c.done(r, hash, Failed, reasonNone)
			return
		}
		if l.head {
			h.head(w, r, &l, e, key, hash, now)
			return
		}
		if e == nil && plain {
			if p := c.find(room, hash, r.Header, true); p != nil && p.completes() {
				e = p
			}
		}
		f, lead := c.join(r, &l, key, hash, true, plain, e)
		if lead {
			if h.lead(w, r, &l, f) {
				return
			}
		} else {
			if h.follow(w, r, &l, f) {
				return
			}
			plain = plain && !f.free // released: now call next, whoever else does
		}
		now = c.now()
		e = c.find(room, hash, r.Header, len(l.ranges) > 0)
		if e != nil && l.fresh(e, now) && h.hit(w, r, &l, e, now) {
			return
		}
	}
}

// stale answers from e if that is allowed although it is stale.
func (h *handler) stale(w http.ResponseWriter, r *http.Request, l *lookup, e *entry, key string, now time.Duration) bool {
	c := h.c
	background := !l.strict() && c.staleWhileRevalidate(e, now)
	if !background && !l.takesStale(e, now) {
		return false
	}
	rep, ok := l.replyFor(e, c.wall(now))
	if !ok {
		return false
	}
	if background {
		own := *l
		c.refresh(r, &own, key, e, func(f *flight, out *http.Request) { h.fill(f, out, &own) })
	}
	c.policy.touch(e)
	rep.write(w, c.stampAt(e, now))
	c.done(r, e.hash, Stale, reasonNone)
	return true
}

// lead calls next for everyone who waits, and answers w with what it says. It
// reports false if that was of no use, and has to be done again.
func (h *handler) lead(w http.ResponseWriter, r *http.Request, l *lookup, f *flight) bool {
	c := h.c
	rec := newRecorder(f, w, r, l)
	returned := false
	defer func() {
		c.fillTime.since(c, f.started)
		if !returned { // a panic or runtime.Goexit, which goes on
			rec.abort()
			c.done(r, f.hash, Failed, reasonAborted)
		}
		f.cancel(nil)
	}()
	if e := f.fromTier(r.Context(), l); e != nil {
		returned = true
		if rep, ok := l.replyFor(e, c.wall(c.now())); ok {
			rep.write(w, c.stampAt(e, c.now()))
			c.done(r, f.hash, Hit, reasonNone)
			return true
		}
		return false
	}
	h.next.ServeHTTP(rec, f.request(r, l))
	returned = true
	rec.finish()
	if rec.act == actRetry {
		return false
	}
	c.done(r, f.hash, rec.result, rec.why)
	return true
}

// fill calls next in the background.
func (h *handler) fill(f *flight, out *http.Request, l *lookup) {
	rec := newRecorder(f, nil, out, l)
	returned := false
	defer func() {
		if !returned {
			rec.abort()
		}
	}()
	h.next.ServeHTTP(rec, out)
	returned = true
	rec.finish()
}

// follow answers from what f's leader gets. It reports false if the request
// has to find its own way.
func (h *handler) follow(w http.ResponseWriter, r *http.Request, l *lookup, f *flight) bool {
	c := h.c
	defer f.leave()
	var e *entry
	switch err := f.wait(r.Context()); {
	case err == errFillTimeout:
		if e = f.standIn(); e == nil {
			gatewayTimeout(w, "the answer takes too long")
			c.done(r, f.hash, Failed, reasonTimeout)
			return true
		}
	case err != nil:
		c.done(r, f.hash, Failed, reasonClientGone)
		return true
	default:
		e = f.share
	}
	if e == nil || !c.normal.matches(e, r.Header) {
		return false
	}
	now := c.now()
	rep, ok := l.replyFor(e, c.wall(now))
	if !ok {
		return false
	}
	fw := f.forward()
	fw.collapsed = true
	result := Collapsed
	if e == f.stale {
		result, fw.detail = Stale, "stale-if-error"
	}
	st := c.stampOf(e, now, fw.line(c.statusName))
	if e.live == nil || rep.bare {
		rep.write(w, st)
		c.done(r, f.hash, result, reasonNone)
		return true
	}
	rd := e.live.reader()
	if rd == nil {
		return false
	}
	defer rd.close()
	return h.stream(w, r, f, rd, &rep, st)
}

// stream sends a body that is still growing. It reports false if that broke
// off before anything was sent.
func (h *handler) stream(w http.ResponseWriter, r *http.Request, f *flight, rd *bodyReader, rep *reply, st stamp) bool {
	c := h.c
	rc := http.NewResponseController(w)
	started := false
	for {
		if started && rd.caughtUp() {
			rc.Flush()
		}
		p, err := rd.next(r.Context())
		switch {
		case errors.Is(err, io.EOF):
			if !started {
				rep.putHeader(w.Header(), st)
				w.WriteHeader(rep.status)
			}
			for _, t := range f.trailer { // not announced: nobody knew
				w.Header()[http.TrailerPrefix+t.name] = t.values
			}
			c.done(r, f.hash, Collapsed, reasonNone)
			return true
		case r.Context().Err() != nil:
			c.done(r, f.hash, Failed, reasonClientGone)
			return true
		case err != nil && !started:
			return false
		case err != nil:
			c.done(r, f.hash, Failed, reasonAborted)
			panic(http.ErrAbortHandler)
		}
		if !started {
			rep.putHeader(w.Header(), st)
			w.WriteHeader(rep.status)
			started = true
		}
		if _, err := w.Write(p); err != nil {
			c.done(r, f.hash, Failed, reasonClientGone)
			return true
		}
	}
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
	switch {
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
	f := c.newFlight(r.Context(), l.asker(e.rules.shared), key, e.hash, r.Header, e)
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
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				c.panics.Add(1)
				c.changed("a revalidation in the background panicked")
			}
			f.cancel(nil)
		}()
		fill(f, out)
		c.fillTime.since(c, f.started)
	}()
}

const notCachedText = "not in the cache, and only-if-cached"

// gatewayTimeout answers a request for which there is nothing.
func gatewayTimeout(w http.ResponseWriter, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusGatewayTimeout)
	io.WriteString(w, text+"\n")
}

// done counts a request and tells the hook.
func (c *Cache) done(r *http.Request, hash uint64, result Result, why reason) {
	c.shard(hash).count(result, why)
	if c.cfg.OnResult != nil {
		c.hook(r, result)
	}
}

func (c *Cache) hook(r *http.Request, result Result) {
	returned := false
	defer func() {
		if !returned && recover() != nil {
			c.panics.Add(1)
		}
	}()
	c.cfg.OnResult(r, result)
	returned = true
}
