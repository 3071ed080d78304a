package cache

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// bypass passes on a request that must not touch the cache.
func (h *handler) bypass(w http.ResponseWriter, r *http.Request, why reason) {
	ww := &watcher{ResponseWriter: w, c: h.c, r: r, job: jobNone, result: Bypass, why: why, fwd: "bypass"}
	ww.pass(h.next)
}

// other passes on a request with a method that the cache does not answer. One
// that is not known to be safe invalidates what it may have changed.
func (h *handler) other(w http.ResponseWriter, r *http.Request) {
	ww := &watcher{ResponseWriter: w, c: h.c, r: r, job: jobNone, result: Bypass, why: reasonMethod, fwd: "method"}
	if !safeMethod(r.Method) && r.Method != http.MethodConnect {
		ww.job, ww.call = jobUnsafe, h.c.unsafeCall(r, realmHandler)
		ww.outer.note(w.Header())
	}
	ww.pass(h.next)
}

// An unsafeCall is a request that may change what is stored, as it was before
// next saw it, who may change it.
type unsafeCall struct {
	realm   byte
	target  *url.URL
	started time.Duration

	// How the answer can be stored as one to GET: only to a POST is it ever.
	key   string // "" if it can't be
	asker asker
}

func (c *Cache) unsafeCall(r *http.Request, realm byte) *unsafeCall {
	u := &unsafeCall{realm: realm, target: requestTarget(r, realm), started: c.now()}
	if r.Method == http.MethodPost && r.Header["Range"] == nil {
		var l lookup
		get := &http.Request{Method: http.MethodGet, URL: r.URL, Host: r.Host, TLS: r.TLS, Header: r.Header}
		l.read(get, true)
		if l.bypass == reasonNone || l.bypass == reasonRequestBody {
			u.key = string(c.keys.appendKey(nil, get, realm, &l.guard))
			u.asker = l.asker(realm != realmPrivate)
		}
	}
	return u
}

// unsafeDone invalidates what u has changed, now that the answer to it, r, says
// so. It returns a flight if that is to be stored.
func (c *Cache) unsafeDone(u *unsafeCall, r *http.Request, status int, h http.Header, outer *outerFields) *flight {
	f := c.postFlight(u, r, status, h)
	c.invalidate(r.Context(), u, h, f)
	if f == nil {
		return nil
	}
	if act, e, _, _ := f.respond(status, h, outer); act != actKeep || e.rules.heuristic || e.life <= 0 {
		f.end(errAborted, nil)
		return nil
	}
	return f
}

// postFlight returns a flight that can store the answer to a POST as one to
// GET, or nil if the answer does not say that it is what GET would get (RFC 9110
// §9.3.3), or something was purged after the request came.
func (c *Cache) postFlight(u *unsafeCall, r *http.Request, status int, h http.Header) *flight {
	location := h["Content-Location"]
	if u.key == "" || status != http.StatusOK || len(location) != 1 || location[0] == "" {
		return nil
	}
	at, err := u.target.Parse(location[0])
	if err != nil || c.keys.url(at) != c.keys.url(u.target) {
		return nil
	}
	if u.realm == realmHandler && len(h["Vary"]) > 0 {
		return nil // what it varies by may not be in the request any more
	}
	f := c.newFlight(r.Context(), u.asker, u.key, c.keys.hash([]byte(u.key)), r.Header.Clone(), nil)
	f.started = u.started
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	if f.shard.purged >= u.started {
		return nil
	}
	f.shard.boardLocked(f)
	return f
}

// head passes a HEAD request on, and updates the stored answers to GET from
// what it says (RFC 9111 §4.3.5).
func (h *handler) head(w http.ResponseWriter, r *http.Request, l *lookup, e *entry, key string, hash uint64, now time.Duration) {
	ww := &watcher{ResponseWriter: w, c: h.c, r: r, job: jobHead, result: Miss, fwd: h.c.missed(l, e, key, hash), hash: hash, key: key, started: now, asker: l.asker(true)}
	ww.outer.note(w.Header())
	ww.pass(h.next)
}

// missed says why a HEAD request that finds e goes to the origin.
func (c *Cache) missed(l *lookup, e *entry, key string, hash uint64) string {
	switch {
	case e != nil && l.strict():
		return "request"
	case e != nil:
		return "stale"
	case c.known(key, hash):
		return "vary-miss"
	}
	return "uri-miss"
}

// updateFromHead puts the header of an answer to HEAD over the stored answer
// to GET, if they are about the same representation. Otherwise that counts as
// stale.
func (c *Cache) updateFromHead(r *http.Request, a asker, h http.Header, outer *outerFields, key string, hash uint64, started time.Duration) {
	e := c.find([]byte(key), hash, r.Header, true)
	if e == nil || e.requested > started || time.Duration(e.softened.Load()) > started {
		return // or it is older than what it would update
	}
	d := responseDirectives(h, c.targetsFor(a.shared))
	switch c.refuse(a, http.StatusOK, h, &d) {
	case reasonAuthorization, reasonSetCookie:
		return // it is for its own client
	}
	now := c.now()
	same := sameValue(h, "Etag", e) && sameValue(h, "Last-Modified", e)
	if v := h["Content-Length"]; len(v) > 0 && contentLength(h, http.StatusOK) != e.size && !e.part {
		same = false
	}
	if !same {
		e.softened.CompareAndSwap(0, max(1, int64(now)))
		return
	}
	switch updated, fit := c.update(e, h, outer, now, started, r.Header, a); fit {
	case updateKeep:
		c.swap(e, updated)
	case updateDiscard:
		c.discard(e)
	}
}

// sameValue reports whether a validator of h, if it is there, is that of e.
func sameValue(h http.Header, name string, e *entry) bool {
	v := h[name]
	return len(v) == 0 || slices.Equal(v, e.field(name))
}

// invalidate removes what an unsafe request may have changed: its own target,
// and what Location and Content-Location name, if they are of the same origin
// (RFC 9111 §4.4). Its own answer is spared.
func (c *Cache) invalidate(ctx context.Context, u *unsafeCall, h http.Header, own *flight) {
	ctx = context.WithoutCancel(ctx) // whoever hangs up has changed it all the same
	target := u.target
	purge := func(at *url.URL) {
		c.mark(ctx, "url", c.keys.url(at))
		c.purgeURL(at, u.realm, false, own)
	}
	purge(target)
	for _, name := range []string{"Location", "Content-Location"} {
		for _, v := range h[name] {
			at, err := target.Parse(v)
			if err == nil && at.Scheme == target.Scheme && strings.EqualFold(hostOf(at.Host, at.Scheme), hostOf(target.Host, target.Scheme)) {
				purge(at)
			}
		}
	}
}

// requestTarget returns the URL that r asks for.
func requestTarget(r *http.Request, realm byte) *url.URL {
	scheme, host := requestOrigin(r, realm)
	return &url.URL{
		Scheme: scheme, Host: host, Path: r.URL.Path, RawPath: r.URL.RawPath,
		RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery,
	}
}

func hostOf(host, scheme string) string { return string(appendHost(nil, host, scheme)) }
