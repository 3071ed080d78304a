package cache

import (
	"errors"
	"net/http"
	"time"
)

// Transport returns a RoundTripper that answers from the cache, or else
// through next. It is a private cache unless Config.Shared is set: it keeps
// what is meant for its one user. A nil next means [http.DefaultTransport].
//
// It is safe for concurrent use if next is. A response from the cache shares
// the values of its header with the others: change the map, not the values.
func (c *Cache) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	t := &transport{c: c, next: next, realm: realmPrivate}
	if c.cfg.Shared {
		t.realm = realmShared
	}
	return t
}

type transport struct {
	c     *Cache
	next  http.RoundTripper
	realm byte
}

func (t *transport) shared() bool { return t.realm == realmShared }

// CloseIdleConnections passes the call on.
func (t *transport) CloseIdleConnections() {
	if n, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		n.CloseIdleConnections()
	}
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	c := t.c
	if r.URL == nil || r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != "" {
		return t.other(r)
	}
	var l lookup
	l.read(r, c.cfg.IgnoreRequestDirectives)
	switch {
	case r.Body != nil && r.Body != http.NoBody:
		l.bypass = reasonRequestBody
	case l.cc.noStore:
		l.bypass = reasonRequestNoStore
	case l.bypass == reasonNone && c.cfg.Bypass != nil && c.cfg.Bypass(r):
		l.bypass = reasonRule
	}
	if l.bypass != reasonNone {
		return t.pass(r, Bypass, l.bypass, "bypass", func(*http.Response) bool { return false })
	}
	var room [keyRoom]byte
	key := string(c.keys.appendKey(room[:0], r, t.realm, &l.guard))
	hash := c.keys.hash([]byte(key))
	for plain := l.plain(); ; {
		now := c.now()
		e := c.find([]byte(key), hash, r.Header, len(l.ranges) > 0)
		if resp := t.stored(r, &l, key, e, now); resp != nil {
			return resp, nil
		}
		if l.cc.onlyIfCached {
			c.done(r, hash, Failed, reasonNone)
			return notCached(r), nil
		}
		if l.head {
			return t.pass(r, Miss, reasonNone, c.missed(&l, e, key, hash), func(resp *http.Response) bool {
				if resp.StatusCode == http.StatusOK {
					c.updateFromHead(r, l.asker(t.shared()), resp.Header, nil, key, hash, now)
				}
				return false
			})
		}
		if e == nil && plain {
			if p := c.find([]byte(key), hash, r.Header, true); p != nil && p.completes() {
				e = p
			}
		}
		f, lead := c.join(r, &l, key, hash, t.shared(), plain, e)
		if lead {
			resp, err := t.lead(r, &l, f)
			if resp == nil && err == nil {
				l.anew = true // what came was of no use
				continue
			}
			return resp, err
		}
		resp, err, ok := t.follow(r, &l, f)
		if ok {
			return resp, err
		}
		plain = plain && !f.freed()
	}
}

// errNoResponse is what a RoundTripper of no use has failed with.
var errNoResponse = errors.New("cache: the RoundTripper returned neither a response nor an error")

// send calls next, and makes its response as complete as http.Client would.
func (t *transport) send(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	switch {
	case err != nil:
		return nil, err
	case resp == nil:
		return nil, errNoResponse
	}
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	return resp, nil
}

// stored answers from e if that is fresh, or may be used although it isn't.
func (t *transport) stored(r *http.Request, l *lookup, key string, e *entry, now time.Duration) *http.Response {
	c := t.c
	if e == nil {
		return nil
	}
	result, background := Hit, false
	if !l.fresh(e, now) {
		background = !l.strict() && c.staleWhileRevalidate(e, now)
		if !background && !l.takesStale(e, now) {
			return nil
		}
		result = Stale
	}
	rep, ok := l.replyFor(c, e, now)
	if !ok {
		return nil
	}
	if background {
		c.refresh(r, l, key, e, func(f *flight, out *http.Request) {
			t.call(f, out, func(*http.Response, *entry, Result, reason, error) {})
		})
	}
	c.policy.touch(e)
	c.done(r, e.hash, result, reasonNone)
	return rep.response(r, c.stampAt(e, now))
}

// other sends a request that the cache does not answer.
func (t *transport) other(r *http.Request) (*http.Response, error) {
	if r.URL == nil || safeMethod(r.Method) {
		return t.pass(r, Bypass, reasonMethod, "method", func(*http.Response) bool { return false })
	}
	u := t.c.unsafeCall(r, t.realm)
	resp, err := t.pass(r, Bypass, reasonMethod, "method", func(resp *http.Response) (stored bool) {
		if resp.StatusCode >= 400 {
			return false
		}
		f := t.c.unsafeDone(u, r, resp.StatusCode, resp.Header, nil)
		if f != nil {
			resp.Body = &keptBody{ReadCloser: resp.Body, resp: resp, f: f}
		}
		return f != nil
	})
	if err != nil {
		t.c.invalidate(r.Context(), u, nil, nil) // who knows how far it came
	}
	return resp, err
}

// pass sends r on and has see look at the response, which reports whether it is
// stored as it is read.
func (t *transport) pass(r *http.Request, result Result, why reason, fwd string, see func(*http.Response) bool) (*http.Response, error) {
	c := t.c
	resp, err := t.send(r)
	if err != nil {
		c.done(r, 0, Failed, why)
		return nil, err
	}
	stored := see(resp)
	if why != reasonUpgrade {
		detail := why
		if why == reasonMethod {
			detail = reasonNone // fwd says so
		}
		c.addStatus(resp.Header, forward{why: fwd, stored: stored}, detail)
	}
	c.done(r, 0, result, why)
	return resp, nil
}
