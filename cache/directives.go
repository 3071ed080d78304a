package cache

import (
	"math"
	"net/http"
	"slices"
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

// withheld returns the fields that may be kept by no cache, or by no shared one.
func (d *directives) withheld(shared bool) []string {
	if !shared {
		return d.noCacheFields
	}
	return slices.Concat(d.noCacheFields, d.privateFields)
}

// permitAuthorized reports whether a shared cache may store the answer to a
// request with Authorization (RFC 9111 §3.5).
func (d *directives) permitAuthorized() bool {
	return d.public || d.mustRevalidate || d.sMaxAge.set
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
