package cache

import (
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
	now := c.now()
	var room [keyRoom]byte
	key := c.keys.begin(room[:0], r, realmHandler)
	hash := c.keys.hash(key)
	c.shard(hash).index.touch(hash) // comes while the header is read
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
	if whole := c.keys.complete(key, r, &l.guard); len(whole) > len(key) {
		key, hash = whole, c.keys.hash(whole)
	}
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
	rep, ok := l.replyFor(c, e, now)
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
			plain = plain && !f.freed() // released: now call next, whoever else does
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
	rep, ok := l.replyFor(c, e, now)
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
