package cache

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An asker is what a request says that decides whether the answer to it may be
// stored.
type asker struct {
	shared bool // it comes to a shared cache
	auth   bool // it carries Authorization
	cookie bool // it carries Cookie
	ranged bool // it carries Range
}

// asker returns what l says of its request.
func (l *lookup) asker(shared bool) asker {
	return asker{shared: shared, auth: l.authorized, cookie: l.cookie, ranged: len(l.ranges) > 0}
}

// own reports whether an answer is for the client that asked alone, because it
// says nothing to a request with a cookie: too likely a page for one user.
func (a asker) own(explicit bool, d *directives) bool {
	return a.shared && a.cookie && !explicit && !d.public
}

// A verdict says for how long a response may be used.
type verdict struct {
	date     time.Time     // when it was made
	dated    bool          // it says so itself
	life     time.Duration // how long it is fresh, of which ttl is to come
	explicit bool          // as it says itself, or Config does
	ttl      time.Duration // what Config gives it, 0 if nothing
}

// judge decides whether a response may be stored (RFC 9111 §3), as far as that
// can be seen without taking it apart.
func (c *Cache) judge(a asker, status int, h http.Header, d *directives, wall time.Time) (v verdict, why reason) {
	if why := c.refuse(a, status, h, d); why != reasonNone {
		return v, why
	}
	if varyAny(h["Vary"]) {
		return v, reasonVary
	}
	if v.date, v.dated = singleDate(h["Date"], wall); !v.dated {
		v.date = wall.Truncate(time.Second) // RFC 9110 §6.6.1
	}
	v.life, v.explicit = lifetime(h, d, status, v.date, wall, a.shared)
	if a.own(v.explicit, d) {
		return v, reasonCookie
	}
	if !v.explicit {
		if ttl, ok := c.defaultTTL(status, h); ok {
			v.ttl, v.life, v.explicit = ttl, ttl, true
		}
	}
	hopeless := len(h["Etag"]) == 0 && len(h["Last-Modified"]) == 0 // nothing to validate it with
	switch {
	case !v.explicit && !d.public && !d.private && !heuristicStatus(status):
		return v, reasonStatus
	case hopeless && d.noCache, hopeless && v.life <= 0 && d.staleWhileRevalidate.value() <= 0 && d.staleIfEr.value() <= 0:
		return v, reasonNoFreshness
	case contentLength(h, status) > c.maxBody:
		return v, reasonTooLarge
	}
	return v, reasonNone
}

// admit returns the entry that a response would be, its body still to come, or
// why it may not be stored.
func (f *flight) admit(status int, h http.Header, outer *outerFields, d *directives, now time.Duration) (*entry, reason) {
	c := f.c
	wall := c.wall(now)
	v, why := c.judge(f.asker, status, h, d, wall)
	if why != reasonNone {
		return nil, why
	}
	names, _ := varyNames(h["Vary"])
	e := &entry{
		key: f.key, hash: f.hash, status: status, size: -1, total: -1,
		date: v.date.Unix(), requested: f.started, received: now,
		age0: initialAge(h, v.date, wall, now-f.started),
		vary: c.varyOf(names, f.header),
		life: v.life,
	}
	if v.ttl > 0 {
		e.life = v.ttl + e.age0
	}
	e.rules.heuristic = !v.explicit
	e.rules.shared, e.rules.authorized = f.shared, f.auth
	var room [moreValues]field
	f.withheld = d.withheld(f.shared)
	fields := c.newFields(room[:0], h, outer, f.withheld)
	if !v.dated {
		fields = setField(fields, "Date", c.dates.line(v.date)...)
	}
	e.fields = c.fieldSet(fields, nil)
	e.learn(d, wall)
	if e.tags, why = c.tagsOf(h); why != reasonNone {
		return nil, why
	}
	if !e.validates() && (e.rules.noCache || e.life <= 0 && e.swr <= 0 && e.sie <= 0) {
		return nil, reasonNoFreshness
	}
	limit := c.maxBody
	if status == http.StatusPartialContent {
		n, why := e.takeRange(h)
		if why != reasonNone {
			return nil, why
		}
		limit = min(limit, n)
	}
	e.size = contentLength(h, status)
	e.live = f.body.init(e.size, limit, &c.budget)
	return e, reasonNone
}

// refuse returns what forbids storing a response.
func (c *Cache) refuse(a asker, status int, h http.Header, d *directives) reason {
	switch {
	case status == http.StatusNotModified || status == http.StatusSwitchingProtocols || status < 200:
		return reasonStatus
	case status == http.StatusPartialContent && !a.ranged:
		return reasonPartial
	case status == http.StatusRequestedRangeNotSatisfiable:
		return reasonPartial
	case d.mustUnderstand && !understoodStatus(status):
		return reasonUnderstand
	case d.noStore && !d.mustUnderstand: // §5.2.2.3: must-understand lets no-store be ignored
		return reasonNoStore
	case d.private && a.shared:
		return reasonPrivate
	case a.auth && a.shared && !d.permitAuthorized():
		return reasonAuthorization
	case c.cfg.SetCookie == CookieRefuse && a.shared && (len(h["Set-Cookie"]) > 0 || len(h["Set-Cookie2"]) > 0):
		return reasonSetCookie
	case h["Content-Type"] != nil && strings.HasPrefix(strings.ToLower(strings.Join(h["Content-Type"], "")), "text/event-stream"):
		return reasonTooLarge // it never ends
	}
	return reasonNone
}

// learn sets what e takes from its own header fields and from directives.
func (e *entry) learn(d *directives, wall time.Time) {
	e.modified = noDate
	if t, ok := singleDate(e.field("Last-Modified"), wall); ok {
		e.modified = t.Unix()
	}
	e.rules.noCache, e.rules.saysStale = d.noCache, d.staleIfEr.set
	e.rules.mustRevalidate = d.mustRevalidate || e.rules.shared && d.proxyRevalidate
	e.swr, e.sie = d.staleWhileRevalidate.value(), d.staleIfEr.value()
	if e.rules.mustRevalidate || e.rules.noCache {
		e.swr, e.sie = 0, 0
	} else if e.rules.shared && d.sMaxAge.set {
		// s-maxage implies proxy-revalidate (§5.2.2.10). What the origin says
		// about stale responses in so many words goes before what is implied;
		// what the configuration says doesn't.
		e.rules.mustRevalidate = true
	}
}

// clone returns a copy of e that is not in the cache.
func (e *entry) clone() *entry {
	k := &entry{}
	e.copyTo(k)
	return k
}

// copyTo makes k, which is new, say what e does.
func (e *entry) copyTo(k *entry) {
	k.key, k.hash, k.status, k.fields, k.trailer = e.key, e.hash, e.status, e.fields, e.trailer
	k.data, k.size, k.live, k.part, k.start, k.total = e.data, e.size, e.live, e.part, e.start, e.total
	k.vary, k.tags, k.date = e.vary, e.tags, e.date
	k.modified, k.requested, k.received, k.age0 = e.modified, e.requested, e.received, e.age0
	k.life, k.swr, k.sie, k.rules = e.life, e.swr, e.sie, e.rules
}

// disconnectedStale is how long past its life a response that does not say
// may be used when the origin can't be reached.
const disconnectedStale = time.Hour

// staleIfError reports whether e may be used although it is stale, when the
// origin has answered with status, an error, or 0 if it could not even be
// asked (RFC 5861 §4, RFC 9111 §4.2.4).
func (c *Cache) staleIfError(e *entry, status int, now time.Duration) bool {
	past := e.staleness(now)
	switch {
	case e.rules.noCache:
		return false
	case past <= 0 || past <= e.sie:
		return true
	case e.rules.mustRevalidate:
		return false
	case c.cfg.StaleIfError != 0:
		return past <= c.cfg.StaleIfError
	}
	// §4.2.4 lets a cache that is disconnected do so, and §4.3.3 makes a 5xx
	// as good as no answer. But 500 is the origin's own word.
	return !e.rules.saysStale && status != http.StatusInternalServerError && past <= disconnectedStale
}

// staleWindow is how long past its life some entry may be of use.
func (c *Cache) staleWindow() time.Duration {
	d := c.cfg.StaleIfError
	if d == 0 {
		d = disconnectedStale
	}
	return max(d, c.cfg.StaleWhileRevalidate, time.Minute)
}

// staleWhileRevalidate reports whether e may be used although it is stale,
// while a new one is fetched (RFC 5861 §3).
func (c *Cache) staleWhileRevalidate(e *entry, now time.Duration) bool {
	past := e.staleness(now)
	if e.rules.noCache {
		return false
	}
	return past <= e.swr || !e.rules.mustRevalidate && past <= c.cfg.StaleWhileRevalidate
}

// defaultTTL is how long a response is fresh that does not say so itself.
func (c *Cache) defaultTTL(status int, h http.Header) (time.Duration, bool) {
	if c.cfg.TTLOf != nil {
		ttl := c.cfg.TTLOf(status, h)
		return min(ttl, forever), ttl > 0
	}
	return min(c.cfg.TTL, forever), c.cfg.TTL > 0 && heuristicStatus(status)
}

// tagsOf returns the tags of a response, or why it can't be found by them all.
func (c *Cache) tagsOf(h http.Header) (tags []string, why reason) {
	for _, name := range c.tagFields {
		more, ok := splitTags(h[name])
		if !ok {
			return nil, reasonTooLarge
		}
		tags = append(tags, more...)
	}
	slices.Sort(tags)
	return slices.Compact(tags), reasonNone
}

// contentLength returns the announced length of a body, -1 if there is none.
func contentLength(h http.Header, status int) int64 {
	if !bodyAllowed(status) {
		return 0
	}
	v := h["Content-Length"]
	if len(v) == 0 {
		return -1
	}
	n, err := strconv.ParseInt(strings.Trim(v[0], " \t"), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }
