package cache

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// freshen returns what a 304 makes of the stored response it confirms
// (RFC 9111 §4.3.4), stores it in the old one's place, and gives it to those who
// wait, if it may be shared.
func (f *flight) freshen(h http.Header, outer *outerFields, now time.Duration) *entry {
	old := f.stale
	if !old.identifiedBy(h) {
		// Its date is another's, so it must not update this. But nothing has
		// changed since the date that was asked about.
		f.settle(old, old.staleness(now) > 0 || old.rules.noCache)
		return old
	}
	e, fit := f.c.update(old, h, outer, now, f.started, f.header, f.asker)
	f.shard.mu.Lock()
	var removed []*entry
	purged := e.hasTag(f.deadTags)
	store := fit == updateKeep && !purged && !f.doomed && !old.gone.Load()
	if store {
		removed = f.shard.putLocked(f.c, e, func(x *entry) bool { return x == old })
	}
	f.shard.mu.Unlock()
	switch {
	case store:
		f.c.account(e, removed)
		if f.c.tier != nil {
			f.c.tier.set(e, f.header)
		}
	case fit == updateDiscard:
		f.c.discard(old)
	}
	if fit != updateKeep || purged {
		f.settle(nil, !purged)
	} else {
		f.settle(e, e.staleness(now) > 0 || e.rules.noCache)
	}
	return e
}

// An updateFit says what may become of an updated entry.
type updateFit uint8

const (
	updateKeep    updateFit = iota
	updateOwn               // it is for the client that asked alone; what is stored stays
	updateDiscard           // what is stored must go, too
)

// identifiedBy reports whether a 304 with header h is about e, as far as its
// validators say (RFC 9111 §4.3.4). One without any is: e is what was asked
// about.
func (e *entry) identifiedBy(h http.Header) bool {
	tag := e.etag()
	switch v := h["Etag"]; {
	case len(v) > 1:
		return false
	case len(v) == 1 && strongTag(v[0]) && strongTag(tag):
		return v[0] == tag
	case len(v) == 1 && tag != "":
		// Servers that compress weaken the tag of a 200, but not that of a 304.
		return strings.TrimPrefix(v[0], "W/") == strings.TrimPrefix(tag, "W/")
	}
	if len(h["Last-Modified"]) == 0 {
		return len(h["Etag"]) == 0
	}
	return slices.Equal(h["Last-Modified"], e.field("Last-Modified"))
}

// update returns old with the header fields of a newer response put over its
// own (RFC 9111 §3.2), and whether it may still be stored. a is what the
// request for that said.
func (c *Cache) update(old *entry, h http.Header, outer *outerFields, now, started time.Duration, request http.Header, a asker) (*entry, updateFit) {
	shared := a.shared
	wall := c.wall(now)
	e := old.clone()
	e.requested, e.received = started, now
	fields := old.fields.list(nil)
	for _, f := range c.newFields(nil, h, outer, nil) {
		switch {
		case f.name == "Content-Length":
		case f.name == "Etag" && old.etag() != "" && !strongTag(old.etag()) && strongTag(f.values[0]):
			// The body is known to be weakly the same, no more.
		default:
			fields = setField(fields, f.name, f.values...)
		}
	}
	date, ok := singleDate(h["Date"], wall)
	if !ok {
		date = wall.Truncate(time.Second)
		fields = setField(fields, "Date", date.UTC().Format(http.TimeFormat))
	}
	e.date = date.Unix()
	// What the directives forbid to keep may have come with this update.
	e.fields = c.fieldSet(fields, nil)
	merged := e.header()
	d := responseDirectives(merged, c.targetsFor(shared))
	withheld := d.withheld(shared)
	fields = slices.DeleteFunc(fields, func(f field) bool { return slices.Contains(withheld, f.name) })
	e.fields = c.fieldSet(fields, nil)
	e.trailer = c.storableOf(e.trailer, withheld)
	e.age0 = initialAge(h, date, wall, now-started)
	explicit := false
	e.life, explicit = lifetime(merged, &d, e.status, date, wall, shared)
	e.rules.heuristic = !explicit
	own := a.own(explicit, &d)
	if !explicit && !own {
		if ttl, ok := c.defaultTTL(e.status, merged); ok {
			e.life, e.rules.heuristic = ttl+e.age0, false
		}
	}
	e.learn(&d, wall)
	names, any := varyNames(merged["Vary"])
	if !sameNames(e.vary.list(), names) {
		e.vary = c.varyOf(names, request)
	}
	var why reason
	e.tags, why = c.tagsOf(merged)
	fit := updateKeep
	switch {
	case any, why != reasonNone, d.noStore, d.private && shared:
		fit = updateDiscard
	case own:
		fit = updateOwn
	case !shared, d.permitAuthorized():
	case old.rules.authorized:
		fit = updateDiscard
	case a.auth:
		fit = updateOwn
	}
	return e.pack(c, fields), fit
}

func sameNames(vary []varyField, names []string) bool {
	return slices.EqualFunc(vary, names, func(f varyField, name string) bool { return f.name == name })
}

// conditional puts the validators of e on a request (RFC 9111 §4.3.1).
func (e *entry) conditional(h http.Header) {
	h.Del("If-None-Match")
	h.Del("If-Modified-Since")
	if tag := e.etag(); tag != "" {
		h["If-None-Match"] = []string{tag}
	}
	if v := e.field("Last-Modified"); len(v) > 0 {
		h["If-Modified-Since"] = v[:1:1]
	}
}

// notModified reports whether the client's own conditions say that it has e
// already (RFC 9111 §4.3.2, RFC 9110 §13.2.2). If-None-Match goes first.
func (l *lookup) notModified(e *entry, now time.Time) bool {
	if e.status != http.StatusOK && e.status != http.StatusPartialContent {
		return false
	}
	if len(l.ifNoneMatch) > 0 {
		return matchesTag(l.ifNoneMatch, e.etag())
	}
	if len(l.ifModifiedSince) == 0 {
		return false
	}
	since, ok := singleDate(l.ifModifiedSince, now)
	if !ok {
		return false
	}
	last := e.modified
	if last == noDate {
		last = e.date
	}
	return last <= since.Unix()
}

// matchesTag reports whether a list of entity-tags holds one that is weakly
// equal to tag (RFC 9110 §8.8.3.2), or is "*".
func matchesTag(lines []string, tag string) bool {
	opaque := strings.TrimPrefix(tag, "W/")
	for _, s := range lines {
		if s = strings.Trim(s, " \t"); s == "*" || tag != "" && s == tag {
			return true
		}
		for s != "" && tag != "" {
			s = strings.TrimLeft(s, " \t,")
			t := strings.TrimPrefix(s, "W/")
			if t == "" || t[0] != '"' {
				// Not an entity-tag: skip to the next comma.
				_, s, _ = strings.Cut(s, ",")
				continue
			}
			end := strings.IndexByte(t[1:], '"')
			if end < 0 {
				break
			}
			if t[:end+2] == opaque {
				return true
			}
			s = t[end+2:]
		}
	}
	return false
}

// strongTag reports whether tag is a strong entity-tag.
func strongTag(tag string) bool { return len(tag) >= 2 && tag[0] == '"' && tag[len(tag)-1] == '"' }
