package cache

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A watcher is the ResponseWriter of a request that the cache does not answer:
// it sees the header go by.
type watcher struct {
	http.ResponseWriter
	header func(status int, h http.Header) // called once, before the client sees it
	seen   bool
	keep   *flight // the answer to a POST that is also one to GET
}

func (w *watcher) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *watcher) WriteHeader(status int) {
	if !w.seen && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.seen = true
		w.header(status, w.ResponseWriter.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *watcher) Write(p []byte) (int, error) {
	if !w.seen {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	if w.keep != nil {
		if _, kerr := w.keep.entry.live.write(w.keep.ctx, p[:n]); kerr != nil || err != nil {
			w.keep.end(errAborted, nil)
			w.keep = nil
		}
	}
	return n, err
}

func (w *watcher) ReadFrom(src io.Reader) (int64, error) {
	if !w.seen {
		w.WriteHeader(http.StatusOK)
	}
	if w.keep != nil {
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	return io.Copy(w.ResponseWriter, src)
}

func (w *watcher) Flush() { w.FlushError() }

func (w *watcher) FlushError() error {
	if !w.seen {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *watcher) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.seen = true
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// bypass passes on a request that must not touch the cache.
func (h *handler) bypass(w http.ResponseWriter, r *http.Request, why reason) {
	h.watch(w, r, Bypass, why, "bypass", func(int, http.Header) {})
}

// watch passes r on, and has header see the answer first.
func (h *handler) watch(w http.ResponseWriter, r *http.Request, result Result, why reason, fwd string, header func(int, http.Header)) {
	c := h.c
	returned := false
	defer func() {
		if !returned {
			result = Failed
		}
		c.done(r, 0, result, why)
	}()
	if why == reasonUpgrade {
		h.next.ServeHTTP(w, r)
		returned = true
		return
	}
	ww := &watcher{ResponseWriter: w}
	ww.header = func(status int, hd http.Header) {
		header(status, hd)
		c.addStatus(hd, func() string {
			return (&forward{why: fwd, detail: why.String()}).line(c.statusName)
		})
	}
	h.next.ServeHTTP(ww, r)
	returned = true
	if !ww.seen {
		ww.WriteHeader(http.StatusOK)
	}
}

// other passes on a request with a method that the cache does not answer. One
// that is not known to be safe invalidates what it may have changed.
func (h *handler) other(w http.ResponseWriter, r *http.Request) {
	if safeMethod(r.Method) || r.Method == http.MethodConnect {
		h.watch(w, r, Bypass, reasonMethod, "method", func(int, http.Header) {})
		return
	}
	c := h.c
	started := c.now()
	var kept *flight
	var ww *watcher
	returned := false
	defer func() {
		if !returned {
			c.invalidate(r, realmHandler, nil) // who knows how far it came
		}
		if ww != nil && ww.keep != nil {
			if returned {
				kept.end(nil, nil)
			} else {
				kept.end(errAborted, nil)
			}
		}
		if kept != nil {
			kept.cancel(nil)
		}
		result := Bypass
		if !returned {
			result = Failed
		}
		c.done(r, 0, result, reasonMethod)
	}()
	ww = &watcher{ResponseWriter: w}
	outer := w.Header().Clone()
	ww.header = func(status int, hd http.Header) {
		if status < 400 {
			c.invalidate(r, realmHandler, hd)
			kept = h.keepPost(r, status, hd, outer, started)
			ww.keep = kept
		}
		c.addStatus(hd, func() string {
			return (&forward{why: "method", stored: kept != nil}).line(c.statusName)
		})
	}
	h.next.ServeHTTP(ww, r)
	returned = true
	if !ww.seen {
		ww.WriteHeader(http.StatusOK)
	}
}

// keepPost returns a flight that stores the answer to a POST as one to GET: if
// it says how long it is fresh, and that it is what GET would get (RFC 9110
// §9.3.3).
func (h *handler) keepPost(r *http.Request, status int, hd, outer http.Header, started time.Duration) *flight {
	c := h.c
	location := hd["Content-Location"]
	if r.Method != http.MethodPost || status != http.StatusOK || len(location) != 1 || location[0] == "" || r.Header["Range"] != nil {
		return nil
	}
	scheme, host := requestOrigin(r, realmHandler)
	target := &url.URL{Scheme: scheme, Host: host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	u, err := target.Parse(location[0])
	if err != nil || u.String() != target.String() {
		return nil
	}
	var l lookup
	get := &http.Request{Method: http.MethodGet, URL: r.URL, Host: r.Host, TLS: r.TLS, Header: r.Header}
	l.read(get, true)
	if l.bypass != reasonNone && l.bypass != reasonRequestBody {
		return nil
	}
	key := string(c.keys.appendKey(nil, get, realmHandler, &l.guard))
	f := c.newFlight(r.Context(), get, &l, key, c.keys.hash([]byte(key)), true, nil, false)
	f.started = started
	f.shard.mu.Lock()
	f.shard.flights[f.hash] = append(f.shard.flights[f.hash], f)
	f.shard.mu.Unlock()
	act, e, _, _ := f.respond(status, hd, outer)
	if act != actKeep || e.rules.heuristic || e.life <= 0 {
		f.end(errAborted, nil)
		f.cancel(nil)
		return nil
	}
	return f
}

// head passes a HEAD request on, and updates the stored answers to GET from
// what it says (RFC 9111 §4.3.5).
func (h *handler) head(w http.ResponseWriter, r *http.Request, l *lookup, e *entry, key string, hash uint64, now time.Duration) {
	outer := w.Header().Clone()
	h.watch(w, r, Miss, reasonNone, h.c.missed(l, e, key, hash), func(status int, hd http.Header) {
		if status == http.StatusOK {
			h.c.updateFromHead(r, hd, outer, key, hash, now, true)
		}
	})
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
func (c *Cache) updateFromHead(r *http.Request, h, outer http.Header, key string, hash uint64, started time.Duration, shared bool) {
	e := c.find([]byte(key), hash, r.Header, true)
	if e == nil {
		return
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
	updated, storable := c.update(e, h, outer, now, started, r.Header, shared)
	if !storable {
		c.discard(e)
		return
	}
	c.swap(e, updated)
}

// sameValue reports whether a validator of h, if it is there, is that of e.
func sameValue(h http.Header, name string, e *entry) bool {
	v := h[name]
	return len(v) == 0 || slices.Equal(v, e.field(name))
}

// invalidate removes what an unsafe request may have changed: its own target,
// and what Location and Content-Location name, if they are of the same origin
// (RFC 9111 §4.4).
func (c *Cache) invalidate(r *http.Request, realm byte, h http.Header) {
	scheme, host := requestOrigin(r, realm)
	target := &url.URL{Scheme: scheme, Host: host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}
	purge := func(u *url.URL) {
		c.purgeURL(u, realm, false)
		c.mark(r.Context(), "url", c.keys.url(u))
	}
	purge(target)
	for _, name := range []string{"Location", "Content-Location"} {
		for _, v := range h[name] {
			u, err := target.Parse(v)
			if err == nil && u.Scheme == target.Scheme && strings.EqualFold(hostOf(u.Host, u.Scheme), hostOf(target.Host, scheme)) {
				purge(u)
			}
		}
	}
}

func hostOf(host, scheme string) string { return string(appendHost(nil, host, scheme)) }
