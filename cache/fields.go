package cache

import (
	"hash/maphash"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

// A field is a header field of an entry.
type field struct {
	name   string
	values []string
	add    bool // the handler added to what outer layers had set
}

// A fieldSet is the header fields of a stored response, in the order of their
// names. It never changes. The names are in its shape, which entries share:
// most responses of a site have one of a few. The values lie side by side, and
// are shared with every response made from them.
type fieldSet struct {
	shape  *shape // nil if there are none
	values []string
}

// A shape is what entries may have in common of their fields.
type shape struct {
	names    []fieldName
	upstream bool        // Cache-Status is among them
	large    bool        // too large to be shared: each entry is charged for it
	charged  atomic.Bool // an entry has been charged for it
}

// A fieldName is the name of a field with count values.
type fieldName struct {
	name  string
	count int
	add   bool // see field
	joins bool // to what outer layers have set, instead of replacing it
}

// fieldSet returns list as a fieldSet. Its values are copies, in room if that
// is large enough.
func (c *Cache) fieldSet(list []field, room []string) fieldSet {
	values := slices.Grow(room[:0], countValues(list))
	for i := range list {
		values = append(values, list[i].values...)
	}
	return fieldSet{c.shapeOf(list), slices.Clip(values)}
}

func countValues(list []field) (n int) {
	for i := range list {
		n += len(list[i].values)
	}
	return n
}

// shapeOf returns the shape of list.
func (c *Cache) shapeOf(list []field) *shape {
	hash, size := uint64(0), 0
	for i := range list {
		hash = (hash ^ maphash.String(c.keys.seed, list[i].name)) + uint64(len(list[i].values))
		hash *= 0x9e3779b97f4a7c15
		size += len(list[i].name)
	}
	if size > 4*maxShared {
		s := newShape(list)
		s.large = true
		return s
	}
	return c.shapes.share(hash, func(s *shape) bool {
		return slices.EqualFunc(s.names, list, func(n fieldName, f field) bool {
			return n.name == f.name && n.count == len(f.values) && n.add == f.add
		})
	}, func() *shape { return newShape(list) })
}

func newShape(list []field) *shape {
	s := &shape{names: make([]fieldName, len(list))}
	for i, f := range list {
		s.names[i] = fieldName{f.name, len(f.values), f.add, f.add || listField(f.name)}
		s.upstream = s.upstream || f.name == "Cache-Status"
	}
	return s
}

// each calls f for every field until it returns false.
func (s fieldSet) each(f func(field) bool) {
	if s.shape == nil {
		return
	}
	at := 0
	for _, n := range s.shape.names {
		if !f(field{n.name, s.values[at : at+n.count : at+n.count], n.add}) {
			return
		}
		at += n.count
	}
}

// list appends s to a list.
func (s fieldSet) list(list []field) []field {
	for f := range s.each {
		list = append(list, f)
	}
	return list
}

func (s fieldSet) len() int {
	if s.shape == nil {
		return 0
	}
	return len(s.shape.names)
}

// get returns the values of a field.
func (s fieldSet) get(name string) []string {
	if s.shape == nil {
		return nil
	}
	at := 0
	for i := range s.shape.names {
		n := &s.shape.names[i]
		if n.name == name {
			return s.values[at : at+n.count : at+n.count]
		}
		at += n.count
	}
	return nil
}

// putHeader writes s to h, which may hold fields that outer layers have set.
func (s fieldSet) putHeader(h http.Header) {
	if s.shape == nil {
		return
	}
	at := 0
	for i := range s.shape.names {
		n := &s.shape.names[i]
		values := s.values[at : at+n.count : at+n.count]
		at += n.count
		if n.joins {
			if outer := h[n.name]; len(outer) > 0 {
				values = append(slices.Clip(outer), values...)
			}
		}
		h[n.name] = values
	}
}

// weight is what s takes in memory besides its slice of values.
func (s fieldSet) weight() (n int64) {
	for _, v := range s.values {
		n += int64(len(v)) + 8
	}
	if s.shape != nil && (s.shape.large || !s.shape.charged.Swap(true)) {
		for _, name := range s.shape.names {
			n += fieldOverhead + int64(len(name.name))
		}
	}
	return n
}

// listField reports whether layers add to a field instead of replacing it.
func listField(name string) bool {
	switch name {
	case "Vary", "Link", "Server-Timing", "Via", "Set-Cookie":
		return true
	}
	return false
}

// A pool keeps things that entries have in common. What falls out of it lives
// on in the entries that have it.
type pool[T any] [256]atomic.Pointer[T]

// share returns the thing with this hash that same accepts, or else a new one,
// which make makes.
func (p *pool[T]) share(hash uint64, same func(*T) bool, make func() *T) *T {
	to := &p[hash>>32%uint64(len(p))]
	for i := range uint64(4) {
		slot := &p[(hash>>32+i)%uint64(len(p))]
		t := slot.Load()
		if t == nil {
			to = slot
			break
		}
		if same(t) {
			return t
		}
	}
	t := make()
	to.Store(t)
	return t
}

// newFields appends to fields what may be stored of h, by name: not what
// belongs to the connection (RFC 9111 §3.1), not what outer layers had set, and
// not what is withheld. The order of h's values is kept; they are h's own.
func (c *Cache) newFields(fields []field, h http.Header, outer *outerFields, withheld []string) []field {
	named := namedFields(h["Connection"])
	for name, values := range h {
		if !c.storable(name, withheld) || slices.Contains(named, name) || strings.HasPrefix(name, http.TrailerPrefix) {
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
		}
	}
	slices.SortFunc(fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return fields
}

// storable reports whether a field may be stored, in a header or a trailer.
func (c *Cache) storable(name string, withheld []string) bool {
	switch {
	case hopByHop(name), ownField(name), slices.Contains(withheld, name):
		return false
	case name == "Set-Cookie", name == "Set-Cookie2":
		return c.cfg.SetCookie == CookieKeep
	}
	return true
}

// storableOf returns those of fields that may be stored.
func (c *Cache) storableOf(fields []field, withheld []string) []field {
	return slices.DeleteFunc(slices.Clone(fields), func(f field) bool { return !c.storable(f.name, withheld) })
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
	case "Age", "Ratelimit", "Ratelimit-Policy", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset":
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

// setField sets a field in a list.
func setField(fields []field, name string, values ...string) []field {
	for i := range fields {
		if fields[i].name == name {
			fields[i].values = values
			return fields
		}
	}
	return append(fields, field{name: name, values: values})
}

// dropField takes a field out of a list.
func dropField(fields []field, name string) []field {
	return slices.DeleteFunc(fields, func(f field) bool { return f.name == name })
}
