package cache

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// Responses that hold a part of a representation are stored too, put together
// with what is stored already, and completed (RFC 9111 §3.3, §3.4). All of
// that needs a strong validator, so that the parts are known to be of one
// whole.

// completes reports whether e, a part, can be made whole by asking for the
// rest.
func (e *entry) completes() bool {
	return e.part && e.start == 0 && e.size > 0 && e.size < e.total && e.strongValidator() != nil
}

// askRest makes a request ask for what follows e, on condition that it is
// still of the same whole.
func (e *entry) askRest(h http.Header) {
	h.Del("If-None-Match")
	h.Del("If-Modified-Since")
	h["Range"] = []string{"bytes=" + formatInt(e.size) + "-"}
	h["If-Range"] = e.strongValidator()
}

// finishes reports whether a 206 is the rest that askRest asked for.
func (e *entry) finishes(h http.Header) bool {
	start, end, total, ok := parseContentRange(h["Content-Range"])
	name := "Etag"
	if e.etag() == "" {
		name = "Last-Modified"
	}
	return ok && start == e.size && end == total-1 && total == e.total && slices.Equal(h[name], e.strongValidator())
}

// complete returns the whole of which f.stale is the start and the response
// with header h the rest: a 200 whose body begins with what is stored.
func (f *flight) complete(h http.Header, outer *outerFields, now time.Duration) (*entry, reason) {
	a := f.asker
	a.ranged = true
	d := responseDirectives(h, f.c.targetsFor(f.shared))
	if why := f.c.refuse(a, http.StatusPartialContent, h, &d); why != reasonNone {
		return nil, why
	}
	e, fit := f.c.update(f.stale, h, outer, now, f.started, f.header, a)
	if fit != updateKeep || e.total > f.c.maxBody {
		return nil, reasonTooLarge
	}
	merged := responseDirectives(e.header(), f.c.targetsFor(f.shared))
	f.withheld = merged.withheld(f.shared)
	e.status, e.part, e.start = http.StatusOK, false, 0
	e.size, e.total = e.total, -1
	e.fields = f.c.fieldSet(e.fieldsOfWhole(), nil)
	e.live = f.body.init(e.size, f.c.maxBody, &f.c.budget)
	e.data = nil
	for _, p := range f.stale.data {
		e.live.write(context.Background(), p) // once there is no room, it writes no more
	}
	if e.live.overflowed() {
		e.live.release()
		return nil, reasonTooLarge
	}
	return e, reasonNone
}

// fieldsOfWhole returns the fields of e, which has become the whole of what it
// was a part of.
func (e *entry) fieldsOfWhole() []field {
	return setField(dropField(e.fields.list(nil), "Content-Range"), "Content-Length", formatInt(e.size))
}

// joined returns e, a part that has just come, together with what is stored of
// the same whole. It returns e alone if they do not touch.
func (c *Cache) joined(e, old *entry) *entry {
	if old == nil || !old.part || old.total != e.total || e.total < 0 ||
		e.strongValidator() == nil || !slices.Equal(e.strongValidator(), old.strongValidator()) ||
		old.start > e.start+e.size || e.start > old.start+old.size {
		return e
	}
	k := e.clone()
	k.data = nil
	if old.start < e.start { // the new bytes win where both have them
		k.start = old.start
		k.data = old.cut(byteRange{old.start, e.start - old.start})
	}
	k.data = append(k.data, e.data...)
	end := e.start + e.size
	if oldEnd := old.start + old.size; oldEnd > end {
		k.data = append(k.data, old.cut(byteRange{end, oldEnd - end})...)
		end = oldEnd
	}
	k.size = end - k.start
	if k.start == 0 && k.size == k.total {
		k.status, k.part, k.total = http.StatusOK, false, -1
		return k.pack(c, k.fieldsOfWhole())
	}
	return k.pack(c, k.fields.list(nil))
}
