package cache

import (
	"hash/maphash"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"
)

// A varyField is one request header field that a response was chosen by, with
// its value in the request that the response answers.
type varyField struct {
	name  string
	lines []string // as they came
	norm  string   // normalised, to tell values that mean the same
}

// varyNames returns the fields that a Vary header field names, in canonical
// form, sorted, each once. any says that it holds "*", or something that is
// not a field name: then no other request can be known to match.
func varyNames(lines []string) (names []string, any bool) {
	for _, s := range lines {
		for name := range strings.SplitSeq(s, ",") {
			name = strings.Trim(name, " \t")
			switch {
			case name == "":
			case name == "*" || !isToken(name):
				any = true
			default:
				names = append(names, http.CanonicalHeaderKey(name))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), any
}

// varyAny reports what varyNames does as any.
func varyAny(lines []string) bool {
	for _, s := range lines {
		for name := range strings.SplitSeq(s, ",") {
			if name = strings.Trim(name, " \t"); name != "" && (name == "*" || !isToken(name)) {
				return true
			}
		}
	}
	return false
}

// A varySet is the fields that a response was chosen by. It never changes, and
// entries share it: a site has few, next to its responses. Nil has none.
type varySet struct {
	fields  []varyField
	large   bool        // too large to be shared: each entry is charged for it
	charged atomic.Bool // an entry has been charged for it
}

// maxShared is how much text there may be in what entries share. It stays when
// they go, and nothing counts it then.
const maxShared = 512

func (s *varySet) list() []varyField {
	if s == nil {
		return nil
	}
	return s.fields
}

// weight is what s takes in memory, for the first that asks.
func (s *varySet) weight() (n int64) {
	if s == nil || !s.large && s.charged.Swap(true) {
		return 0
	}
	for _, v := range s.fields {
		n += int64(unsafe.Sizeof(v)) + int64(len(v.name)+len(v.norm))
		for _, line := range v.lines {
			n += int64(len(line)) + 16
		}
	}
	return n
}

// varyOf returns the fields by which a request with header h chose a response
// with these names. As a rule it is there already, and need not be made.
func (c *Cache) varyOf(names []string, h http.Header) *varySet {
	if len(names) == 0 {
		return nil
	}
	hash, size := uint64(0), 0
	for _, name := range names {
		hash = (hash ^ maphash.String(c.keys.seed, name)) * 0x9e3779b97f4a7c15
		size += len(name)
		for _, line := range h[name] {
			hash = (hash ^ maphash.String(c.keys.seed, line)) * 0x9e3779b97f4a7c15
			size += len(line)
		}
	}
	if size > maxShared {
		s := c.normal.varyOf(names, h)
		s.large = true
		return s
	}
	return c.varies.share(hash, func(s *varySet) bool {
		return slices.EqualFunc(s.fields, names, func(f varyField, name string) bool {
			return f.name == name && slices.Equal(f.lines, h[name])
		})
	}, func() *varySet { return c.normal.varyOf(names, h) })
}

// varyOf makes what Cache.varyOf returns.
func (n normalizers) varyOf(names []string, h http.Header) *varySet {
	if len(names) == 0 {
		return nil
	}
	fields := make([]varyField, len(names))
	for i, name := range names {
		lines := slices.Clone(h[name])
		fields[i] = varyField{name: name, lines: lines, norm: n.value(name, lines)}
	}
	return &varySet{fields: fields}
}

// matches reports whether a request with header h would have been answered
// with e (RFC 9111 §4.1). Equal lines are the common case, and cost no
// allocation.
func (n normalizers) matches(e *entry, h http.Header) bool {
	vary := e.vary.list()
	for i := range vary {
		f := &vary[i]
		lines := h[f.name]
		if slices.Equal(lines, f.lines) {
			continue
		}
		if n.value(f.name, lines) == f.norm {
			continue
		}
		if f.name == "Accept-Language" && wantsLanguage(lines, e.language()) {
			continue
		}
		return false
	}
	return true
}

// language is the language of e, if it says that it is in one.
func (e *entry) language() string {
	if v := e.field("Content-Language"); len(v) == 1 {
		return strings.ToLower(v[0])
	}
	return ""
}

// wantsLanguage reports whether the language of a stored response is the one
// that a client wants most, and no other as much: then an origin that
// negotiates would choose it as well (RFC 9111 §4.1).
func wantsLanguage(lines []string, language string) bool {
	if language == "" {
		return false
	}
	list, ok := preferences(lines)
	if !ok {
		return false
	}
	q := 0
	for _, p := range list {
		if p.value == language {
			q = p.q
		}
	}
	for _, p := range list {
		if p.value != language && p.q >= q {
			return false
		}
	}
	return q > 0
}
