package cache

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
)

// KeyConfig says what besides scheme, host, path and query tells one response
// from another. What a response's Vary names always does.
type KeyConfig struct {
	// IgnoreQuery lists query parameters that make no difference; a name may
	// end in "*" ("utm_*"). "*" alone ignores the whole query.
	IgnoreQuery []string

	// SortQuery makes the order of query parameters make no difference.
	SortQuery bool

	// Headers and Cookies list request header fields and cookies whose values
	// make a difference.
	Headers, Cookies []string

	// Partition names a part of the cache that a request belongs to, for
	// example its tenant. Two parts share nothing. Nil means one part.
	Partition func(*http.Request) string
}

// Requests of these realms never share an entry: what a handler has answered,
// and what an upstream has answered to a private or to a shared cache.
const (
	realmHandler = 'h'
	realmPrivate = 'p'
	realmShared  = 's'
)

// keyMaker builds keys. A key is
//
//	realm scheme "://" host path ["?" query] ["\x00" extra]
//
// where extra holds what KeyConfig adds, and the header fields of the request
// by which frameworks let a client change what it asks for. These are not in
// any Vary, so they would poison the entry of all who do not send them.
type keyMaker struct {
	cfg    KeyConfig
	seed   maphash.Seed
	extras atomic.Bool // a key with an extra part has been made
}

// appendKey appends the key of r to b, which does not allocate if b has room.
func (m *keyMaker) appendKey(b []byte, r *http.Request, realm byte, guard *guardFields) []byte {
	return m.complete(m.begin(b, r, realm), r, guard)
}

// begin appends the part of the key of r that all requests have.
func (m *keyMaker) begin(b []byte, r *http.Request, realm byte) []byte {
	b = append(b, realm)
	scheme, host := requestOrigin(r, realm)
	b = append(b, scheme...)
	b = append(b, "://"...)
	b = appendHost(b, host, scheme)
	return m.appendTarget(b, r.URL)
}

// complete appends the rest.
func (m *keyMaker) complete(b []byte, r *http.Request, guard *guardFields) []byte {
	if *guard == 0 && len(m.cfg.Headers) == 0 && len(m.cfg.Cookies) == 0 && m.cfg.Partition == nil {
		return b
	}
	return m.appendExtra(b, r, guard)
}

// requestOrigin returns scheme and host of what r asks for.
func requestOrigin(r *http.Request, realm byte) (scheme, host string) {
	if realm != realmHandler {
		host = r.Host
		if host == "" {
			host = r.URL.Host
		}
		return r.URL.Scheme, host
	}
	// Which scheme the client of a proxy in front of us used is in
	// X-Forwarded-Proto, which is a guard field.
	if r.TLS != nil {
		return "https", r.Host
	}
	return "http", r.Host
}

// appendHost appends a host in lower case and without its scheme's own port
// (RFC 9110 §4.2.3).
func appendHost(b []byte, host, scheme string) []byte {
	switch {
	case scheme == "http":
		host = strings.TrimSuffix(host, ":80")
	case scheme == "https":
		host = strings.TrimSuffix(host, ":443")
	}
	start := len(b)
	b = append(b, host...)
	for i, c := range b[start:] {
		if 'A' <= c && c <= 'Z' {
			b[start+i] += 'a' - 'A'
		}
	}
	return b
}

// appendTarget appends path and query as they were sent: which spellings mean
// the same only the origin knows.
func (m *keyMaker) appendTarget(b []byte, u *url.URL) []byte {
	switch {
	case u.RawPath != "":
		b = append(b, u.EscapedPath()...) // which is not RawPath if somebody has changed Path since
	case u.Path == "":
		b = append(b, '/')
	default:
		for i := 0; i < len(u.Path); i++ {
			if c := u.Path[i]; c <= ' ' || c == '%' || c == '?' || c == '#' || c >= 0x7f {
				return m.appendQuery(append(b, u.EscapedPath()...), u)
			}
		}
		b = append(b, u.Path...)
	}
	return m.appendQuery(b, u)
}

func (m *keyMaker) appendQuery(b []byte, u *url.URL) []byte {
	if u.RawQuery == "" && !u.ForceQuery {
		return b
	}
	if len(m.cfg.IgnoreQuery) == 0 && !m.cfg.SortQuery {
		return append(append(b, '?'), u.RawQuery...)
	}
	var kept []string
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		if part != "" && !m.ignored(part) {
			kept = append(kept, part)
		}
	}
	if m.cfg.SortQuery {
		// Stable by name: the order of one name's values may mean something.
		slices.SortStableFunc(kept, func(a, b string) int {
			an, _, _ := strings.Cut(a, "=")
			bn, _, _ := strings.Cut(b, "=")
			return strings.Compare(an, bn)
		})
	}
	for i, part := range kept {
		b = append(b, "?&"[min(i, 1)])
		b = append(b, part...)
	}
	return b
}

func (m *keyMaker) ignored(part string) bool {
	name, _, _ := strings.Cut(part, "=")
	if decoded, err := url.QueryUnescape(name); err == nil {
		name = decoded
	}
	for _, rule := range m.cfg.IgnoreQuery {
		prefix, wild := strings.CutSuffix(rule, "*")
		if name == rule || wild && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// appendExtra appends the part of a key that comes from header fields: groups
// of a name and its values, with their number and the length of each in front,
// and last the partition. So no value can pass for another's, nor for more.
func (m *keyMaker) appendExtra(b []byte, r *http.Request, guard *guardFields) []byte {
	start := len(b)
	b = append(b, 0)
	for left := *guard; left != 0; left &= left - 1 {
		name := guardNames[bits.TrailingZeros16(uint16(left))]
		b = appendGroup(b, name, r.Header[name])
	}
	for _, name := range m.cfg.Headers {
		if values := r.Header[name]; len(values) > 0 {
			b = appendGroup(b, name, values)
		}
	}
	for _, name := range m.cfg.Cookies {
		var values []string
		for _, c := range r.CookiesNamed(name) {
			values = append(values, c.Value)
		}
		if len(values) > 0 {
			b = appendGroup(b, name+"=", values) // no name of a header field
		}
	}
	if m.cfg.Partition != nil {
		if p := m.cfg.Partition(r); p != "" {
			b = appendPiece(b, p)
		}
	}
	if len(b) == start+1 {
		return b[:start] // nothing added
	}
	if !m.extras.Load() {
		m.extras.Store(true)
	}
	return b
}

func appendGroup(b []byte, name string, values []string) []byte {
	b = binary.AppendUvarint(appendPiece(b, name), uint64(len(values)))
	for _, v := range values {
		b = appendPiece(b, v)
	}
	return b
}

func appendPiece(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (m *keyMaker) hash(key []byte) uint64 { return maphash.Bytes(m.seed, key) }

// url returns u as it is in keys.
func (m *keyMaker) url(u *url.URL) string {
	b := append(make([]byte, 0, keyRoom), u.Scheme...)
	b = append(b, "://"...)
	b = appendHost(b, u.Host, u.Scheme)
	return string(m.appendTarget(b, u))
}

// indexExtra returns where the extra part of a key begins, or -1.
func indexExtra(key string) int { return strings.IndexByte(key, 0) }

// urlTag returns a key up to its extra part, or nothing if it has none.
func urlTag(key string) string { return key[:indexExtra(key)+1] }

// keyURL returns the URL that a key was made from.
func keyURL(key string) string {
	u, _, _ := strings.Cut(key[1:], "\x00")
	return u
}

// guardFields are the fields of a request that can change its target: the
// positions in guardNames of those that it has.
type guardFields uint16

// guardNames are the fields that belong in the key: frameworks take scheme,
// host, port, prefix or path from these. Their order is that in keys.
var guardNames = [...]string{
	"Forwarded", "X-Forwarded-Host", "X-Forwarded-Path", "X-Forwarded-Port",
	"X-Forwarded-Prefix", "X-Forwarded-Proto", "X-Forwarded-Protocol", "X-Forwarded-Scheme",
	"X-Forwarded-Server", "X-Forwarded-Ssl", "X-Host", "X-Http-Host-Override",
	"X-Original-Host", "X-Original-Url", "X-Rewrite-Url", "X-Url-Scheme",
}

// add notes a field, and reports whether it is one of them.
func (g *guardFields) add(name string) bool {
	for i := range guardNames {
		if guardNames[i] == name {
			*g |= 1 << i
			return true
		}
	}
	return false
}

// isOverrideField reports whether a field can change the method of a request.
func isOverrideField(name string) bool {
	switch name {
	case "X-Http-Method-Override", "X-Http-Method", "X-Method-Override":
		return true
	}
	return false
}
