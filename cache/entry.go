package cache

import (
	"net/http"
	"sync/atomic"
	"time"
	"unsafe"
)

// An entry is a stored response. What it says never changes: an update makes a
// new one that shares the body. Times are measured from Cache.base, on the
// monotonic clock, so that setting the clock makes nothing fresh.
//
// The order is that in which a hit reads it, as far as hash. The key of a
// stored entry is in short if that is long enough, so that find needs to wait
// for one line only.
type entry struct {
	short [shortKey]byte
	key   string

	received time.Duration // when its header came
	age0     time.Duration // corrected_initial_age at received
	life     time.Duration // freshness_lifetime
	softened atomic.Int64  // when a soft purge made it stale, 0 if none did
	chain    atomic.Pointer[entry]
	vary     *varySet
	status   int
	heat     atomic.Uint32 // hits that the policy has not yet counted
	// part says which bytes data holds if it isn't all of the
	// representation: those from start on, of total (-1 if unknown).
	part    bool
	rules   rules
	fields  fieldSet
	data    [][]byte // the whole body; nil while live is still growing
	chunk   [1][]byte
	trailer []field
	live    *body
	hash    uint64

	// Protected by the policy.
	prev, next *entry
	cost       int64
	seg        segment

	// gone says that it was purged or replaced: a revalidation must not bring
	// it back.
	gone       atomic.Bool
	refreshing atomic.Bool // a revalidation in the background is on its way

	size, start, total int64
	tags               []string
	date, modified     int64         // Date and Last-Modified, or noDate, in seconds since 1970
	requested          time.Duration // when the request for it was sent
	swr, sie           time.Duration // how long past its life it may be used while, and if
}

// shortKey is the longest key that is part of its entry.
const shortKey = 48

// noDate is time.Time{}.Unix().
const noDate = -62135596800

// rules are what an entry's directives say about its reuse.
type rules struct {
	noCache        bool // only after validation
	mustRevalidate bool // never stale, for this kind of cache
	saysStale      bool // it has a stale-if-error of its own
	heuristic      bool // its life is a guess
	shared         bool // it is in a shared cache
	authorized     bool // it answers a request with Authorization
}

const (
	indexOverhead = 64 + 8*sketchWords // of the index while it grows, and of the sketch
	fieldOverhead = int64(unsafe.Sizeof(field{})) + 16
	tagOverhead   = 80
)

// weigh sets the cost of e: all that it keeps in memory, with its own piece of
// this size.
func (e *entry) weigh(piece int64) {
	n := piece + indexOverhead
	if len(e.key) > shortKey {
		n += int64(len(e.key))
	}
	n += e.fields.weight()
	for _, f := range e.trailer {
		n += fieldOverhead + int64(len(f.name))
		for _, v := range f.values {
			n += int64(len(v)) + 16
		}
	}
	for _, c := range e.data {
		n += int64(cap(c)) + 24
	}
	n += e.vary.weight()
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
func (e *entry) field(name string) []string { return e.fields.get(name) }

// etag returns the entity-tag of e, or nothing.
func (e *entry) etag() string {
	if v := e.field("Etag"); len(v) == 1 {
		return v[0]
	}
	return ""
}

// hasKey reports whether key is that of e, which is stored.
func (e *entry) hasKey(key []byte) bool {
	if len(key) <= shortKey {
		return len(key) == len(e.key) && string(e.short[:len(key)]) == string(key)
	}
	return e.key == string(key)
}

// validates reports whether e can be validated with the origin.
func (e *entry) validates() bool {
	return e.etag() != "" || len(e.field("Last-Modified")) > 0
}

// header returns the fields of e as a new http.Header.
func (e *entry) header() http.Header {
	h := make(http.Header, e.fields.len()+4)
	for f := range e.fields.each {
		h[f.name] = f.values
	}
	return h
}
