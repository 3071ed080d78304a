package cache

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"
)

// An entry is a stored response. What it says never changes: an update makes a
// new one that shares the body. Times are measured from Cache.base, on the
// monotonic clock, so that setting the clock makes nothing fresh.
type entry struct {
	hash  uint64
	key   string
	chain *entry // the next variant of the same key; protected by the shard

	// A hit reads as far as data.
	age0     time.Duration // corrected_initial_age at received
	received time.Duration // when its header came
	life     time.Duration // freshness_lifetime
	softened atomic.Int64  // when a soft purge made it stale, 0 if none did
	vary     []varyField
	status   int
	rules    rules
	// part says which bytes data holds if it isn't all of the
	// representation: those from start on, of total (-1 if unknown).
	part bool
	// gone says that it was purged or replaced: a revalidation must not bring
	// it back.
	gone       atomic.Bool
	refreshing atomic.Bool   // a revalidation in the background is on its way
	heat       atomic.Uint32 // hits that the policy has not yet counted
	live       *body
	fields     []field
	trailer    []field
	data       [][]byte // the whole body; nil while live is still growing

	size, start, total int64

	// Protected by the policy.
	prev, next *entry
	cost       int64
	seg        segment

	tags      []string
	etag      string
	language  string
	date      time.Time     // of the Date field
	modified  time.Time     // of the Last-Modified field, or zero
	requested time.Duration // when the request for it was sent
	swr, sie  time.Duration // how long past its life it may be used while, and if
}

// rules are what an entry's directives say about its reuse.
type rules struct {
	noCache        bool // only after validation
	mustRevalidate bool // never stale, for this kind of cache
	saysStale      bool // it has a stale-if-error of its own
	heuristic      bool // its life is a guess
	shared         bool // it is in a shared cache
}

// A field is a header field of an entry. The values are shared with every
// response made from it, so they have no spare capacity.
type field struct {
	name   string
	values []string
	add    bool // the handler added to what outer layers had set
}

const (
	indexOverhead = 64 + 8*sketchWords // of the map, twice over, and of the sketch
	fieldOverhead = int64(unsafe.Sizeof(field{})) + 16
	tagOverhead   = 80
)

// weigh sets the cost of e: all that it keeps in memory, with its own piece of
// this size.
func (e *entry) weigh(piece int64) {
	n := piece + indexOverhead
	if len(e.key) > packedKey {
		n += int64(len(e.key))
	}
	for _, f := range e.fields {
		n += int64(len(f.name))
		for _, v := range f.values {
			n += int64(len(v)) + 8
		}
	}
	for _, f := range e.trailer {
		n += fieldOverhead + int64(len(f.name))
		for _, v := range f.values {
			n += int64(len(v)) + 16
		}
	}
	for _, c := range e.data {
		n += int64(cap(c)) + 24
	}
	for _, v := range e.vary {
		n += int64(unsafe.Sizeof(v)) + int64(len(v.name)+len(v.norm))
		for _, s := range v.lines {
			n += int64(len(s)) + 16
		}
	}
	e.eachTag(func(t string) { n += int64(len(t)) + tagOverhead })
	e.cost = n + n/16 // size classes of the allocator
}

// age is current_age (RFC 9111 §4.2.3).
func (e *entry) age(now time.Duration) time.Duration { return e.age0 + now - e.received }

// staleness is how long e has been stale, negative or 0 if it is fresh still.
func (e *entry) staleness(now time.Duration) time.Duration {
	past := e.age(now) - e.life
	if past == 0 {
		past = 1 // fresh means that the life is greater than the age (§4.2)
	}
	if s := e.softened.Load(); s != 0 {
		past = max(past, now-time.Duration(s)+1)
	}
	return past
}

// field returns the values of a header field.
func (e *entry) field(name string) []string {
	for i := range e.fields {
		if e.fields[i].name == name {
			return e.fields[i].values
		}
	}
	return nil
}

// validates reports whether e can be validated with the origin.
func (e *entry) validates() bool {
	return e.etag != "" || len(e.field("Last-Modified")) > 0
}

// header returns the fields of e as a new http.Header.
func (e *entry) header() http.Header {
	h := make(http.Header, len(e.fields)+4)
	for _, f := range e.fields {
		h[f.name] = f.values
	}
	return h
}

// putHeader writes the fields of e to h, which may hold fields that outer
// layers have set.
func (e *entry) putHeader(h http.Header) {
	for i := range e.fields {
		f := &e.fields[i]
		if f.add || listField(f.name) {
			if outer := h[f.name]; len(outer) > 0 {
				h[f.name] = append(slices.Clip(outer), f.values...)
				continue
			}
		}
		h[f.name] = f.values
	}
}

// listField reports whether layers add to a field instead of replacing it.
func listField(name string) bool {
	switch name {
	case "Vary", "Link", "Server-Timing", "Via", "Set-Cookie":
		return true
	}
	return false
}

// newFields takes from h what may be stored: not what belongs to the
// connection (RFC 9111 §3.1), not what outer layers had set, and not what the
// directives forbid. The order of h's values is kept.
func newFields(h http.Header, outer *outerFields, d *directives, shared, cookies bool) []field {
	named := namedFields(h["Connection"])
	fields := make([]field, 0, len(h)+1) // and Date
	total := 0
	for name, values := range h {
		switch {
		case hopByHop(name), slices.Contains(named, name), ownField(name),
			slices.Contains(d.noCacheFields, name),
			shared && slices.Contains(d.privateFields, name),
			strings.HasPrefix(name, http.TrailerPrefix),
			!cookies && (name == "Set-Cookie" || name == "Set-Cookie2"):
			continue
		}
		added := false
		if before := outer.values(name); len(before) > 0 {
			if slices.Equal(values, before) {
				continue
			}
			if len(values) > len(before) && slices.Equal(values[:len(before)], before) {
				values, added = values[len(before):], true
			}
		}
		if len(values) > 0 {
			fields = append(fields, field{name: name, values: values, add: added})
			total += len(values)
		}
	}
	slices.SortFunc(fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	// The handler may change its values later: these are copies.
	packFields(fields[:0], make([]string, 0, total), fields)
	return fields
}

// hopByHop reports whether a field is about one connection, even if Connection
// does not name it.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate",
		"Proxy-Authentication-Info", "Proxy-Authorization", "Te", "Transfer-Encoding",
		"Upgrade", "Trailer":
		return true
	}
	return false
}

// ownField reports whether a field is made anew for every response, or is
// about one request alone.
func ownField(name string) bool {
	switch name {
	case "Age", "Ratelimit", "Ratelimit-Policy":
		return true
	}
	return strings.HasPrefix(name, "Spillway-")
}

func namedFields(lines []string) []string {
	if len(lines) == 0 {
		return nil
	}
	return fieldNames(strings.Join(lines, ","))
}

func setField(fields []field, name string, values ...string) []field {
	for i := range fields {
		if fields[i].name == name {
			fields[i].values = values
			return fields
		}
	}
	return append(fields, field{name: name, values: values})
}
