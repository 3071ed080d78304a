package cache

import (
	"math"
	"net/http"
	"strings"
	"time"
)

// maxDelta is what a delta-seconds that is too large to use counts as: 2^31
// seconds (RFC 9111 §1.2.2).
const maxDelta = (1 << 31) * time.Second

// A delta is the value of a directive that takes delta-seconds. A bad one is
// there but says nothing usable: a malformed number, or two that disagree.
// RFC 9111 §4.2.1 wants such a response to count as stale.
type delta struct {
	set, bad bool
	d        time.Duration
}

func (d *delta) add(value string, malformed bool) {
	v, ok := parseDelta(value)
	if malformed || !ok || (d.set && d.d != v) {
		d.bad = true
	}
	d.set, d.d = true, v
}

// value returns the duration, and 0 for a bad one.
func (d delta) value() time.Duration {
	if d.bad {
		return 0
	}
	return d.d
}

// parseDelta parses delta-seconds: one or more digits. A number that
// overflows counts as the largest one.
func parseDelta(s string) (time.Duration, bool) {
	if s == "" {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		if n <= math.MaxInt32 {
			n = n*10 + int64(c-'0')
		}
	}
	if n > int64(maxDelta/time.Second) {
		return maxDelta, true
	}
	return time.Duration(n) * time.Second, true
}

// directives are those of a response: its Cache-Control field, or the
// targeted field that stands for it (RFC 9213).
type directives struct {
	noStore, noCache, private, public                bool
	mustRevalidate, proxyRevalidate, mustUnderstand  bool
	maxAge, sMaxAge, staleWhileRevalidate, staleIfEr delta

	// noCacheFields and privateFields are the field names that a qualified
	// no-cache or private lists: only these must not be kept.
	noCacheFields, privateFields []string

	// targeted says that these come from a targeted field, so that Expires
	// must be ignored as well (RFC 9213 §2.2).
	targeted bool
}

// responseDirectives returns the directives that apply to a response with
// header h: those of the first of targets that is valid and not empty, or else
// of Cache-Control.
func responseDirectives(h http.Header, targets []string) directives {
	var d directives
	for _, name := range targets {
		lines := h[name]
		if len(lines) == 0 {
			continue
		}
		members, ok := parseDictionary(lines)
		if !ok || len(members) == 0 {
			continue
		}
		d.targeted = true
		for _, m := range members {
			d.addMember(m)
		}
		return d
	}
	eachDirective(h["Cache-Control"], func(name, value string, form directiveForm) {
		d.add(name, value, form)
	})
	return d
}

// add notes one directive. Those that restrict hold in any spelling; those
// that permit must be well formed.
func (d *directives) add(name, value string, form directiveForm) {
	malformed := form == formMalformed
	switch name {
	case "no-store":
		d.noStore = true
	case "no-cache":
		if names := fieldNames(value); form == formValue && len(names) > 0 {
			d.noCacheFields = append(d.noCacheFields, names...)
		} else {
			d.noCache = true
		}
	case "private":
		if names := fieldNames(value); form == formValue && len(names) > 0 {
			d.privateFields = append(d.privateFields, names...)
		} else {
			d.private = true
		}
	case "public":
		d.public = d.public || !malformed
	case "must-revalidate":
		d.mustRevalidate = true
	case "proxy-revalidate":
		d.proxyRevalidate = true
	case "must-understand":
		d.mustUnderstand = true
	case "max-age":
		d.maxAge.add(value, malformed)
	case "s-maxage":
		d.sMaxAge.add(value, malformed)
	case "stale-while-revalidate":
		d.staleWhileRevalidate.add(value, malformed)
	case "stale-if-error":
		d.staleIfEr.add(value, malformed)
	}
}

// addMember notes one member of a targeted field. A member of a type that its
// directive does not have is ignored (RFC 9213 §2.1).
func (d *directives) addMember(m sfMember) {
	switch m.key {
	case "max-age", "s-maxage", "stale-while-revalidate", "stale-if-error":
		if m.kind == sfInteger {
			d.add(m.key, m.value, formValue)
		}
	case "no-cache", "private":
		switch {
		case m.kind == sfTrue:
			d.add(m.key, "", formBare)
		case m.kind == sfString || m.kind == sfToken:
			d.add(m.key, m.value, formValue)
		}
	default:
		if m.kind == sfTrue {
			d.add(m.key, "", formBare)
		}
	}
}

// requestDirectives are those of a request. A negative duration stands for a
// directive that is not there.
type requestDirectives struct {
	noCache, noStore, onlyIfCached bool
	maxAge, minFresh, maxStale     time.Duration
}

func parseRequestDirectives(lines []string) requestDirectives {
	d := requestDirectives{maxAge: -1, minFresh: -1, maxStale: -1}
	eachDirective(lines, func(name, value string, form directiveForm) {
		v, ok := parseDelta(value)
		ok = ok && form == formValue
		switch name {
		case "no-cache":
			d.noCache = true
		case "no-store":
			d.noStore = true
		case "only-if-cached":
			d.onlyIfCached = true
		case "max-age":
			switch {
			case !ok:
				d.maxAge = 0 // it wants something fresh, we can't tell how fresh
			case d.maxAge < 0 || v < d.maxAge:
				d.maxAge = v
			}
		case "min-fresh":
			if ok && v > d.minFresh {
				d.minFresh = v
			}
		case "max-stale":
			if form == formBare { // however stale
				v, ok = maxDelta, true
			}
			if ok && (d.maxStale < 0 || v < d.maxStale) {
				d.maxStale = v
			}
		}
	})
	return d
}

// A directiveForm says how a directive was written.
type directiveForm uint8

const (
	formBare      directiveForm = iota // name
	formValue                          // name=token or name="quoted"
	formMalformed                      // anything else
)

// eachDirective calls f for every directive of a Cache-Control field
// (RFC 9111 §5.2), its name in lower case, a quoted value without its quotes.
// It reads what strangers send: nothing makes it fail, and a directive never
// reaches into the next one, but that an unterminated string takes the rest
// of its line.
func eachDirective(lines []string, f func(name, value string, form directiveForm)) {
	for _, s := range lines {
		for s != "" {
			for s != "" && (isOWS(s[0]) || s[0] == ',') {
				s = s[1:]
			}
			i := 0
			for i < len(s) && s[i] != ',' && s[i] != '=' {
				i++
			}
			name := trimRightOWS(s[:i])
			form := formBare
			if !isToken(name) {
				form = formMalformed
			}
			value := ""
			if i < len(s) && s[i] == '=' {
				if form == formBare && len(name) == i {
					form = formValue
				} else {
					form = formMalformed
				}
				rest := s[i+1:]
				var ok bool
				value, rest, ok = directiveValue(rest)
				if !ok {
					form = formMalformed
				}
				s = rest
			} else {
				s = s[i:]
			}
			if name != "" {
				f(lowerASCII(name), value, form)
			}
		}
	}
}

// directiveValue takes a token or a quoted-string off the front of s, up to
// the next comma.
func directiveValue(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		i := strings.IndexByte(s, ',')
		if i < 0 {
			i = len(s)
		}
		value = trimRightOWS(s[:i])
		return value, s[i:], isToken(value)
	}
	var b strings.Builder
	escaped := false
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case !escaped && c == '"':
			rest = strings.TrimLeft(s[i+1:], " \t")
			ok = rest == "" || rest[0] == ','
			if j := strings.IndexByte(rest, ','); j >= 0 {
				rest = rest[j:]
			} else {
				rest = ""
			}
			if b.Len() == 0 {
				return s[1:i], rest, ok
			}
			return b.String(), rest, ok
		case !escaped && c == '\\':
			if b.Len() == 0 {
				b.WriteString(s[1:i])
			}
			escaped = true
		default:
			if escaped || b.Len() > 0 {
				b.WriteByte(c)
			}
			escaped = false
		}
	}
	return "", "", false
}

// fieldNames splits a list of field names, and returns them in canonical form.
func fieldNames(list string) []string {
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.Trim(name, " \t"); isToken(name) {
			names = append(names, http.CanonicalHeaderKey(name))
		}
	}
	return names
}

// isOWS and trimRightOWS are about optional whitespace (RFC 9110 §5.6.3). Package
// strings makes a set for two characters each time, and this is read on each
// miss.
func isOWS(c byte) bool { return c == ' ' || c == '\t' }

func trimRightOWS(s string) string {
	for s != "" && isOWS(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// isToken reports whether s is a token (RFC 9110 §5.6.2).
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isTchar(s[i]) {
			return false
		}
	}
	return s != ""
}

func isTchar(c byte) bool {
	return 'a' <= c && c <= 'z' || c == '-' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// lowerASCII is strings.ToLower for ASCII, and does not allocate when there is
// nothing to do.
func lowerASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
