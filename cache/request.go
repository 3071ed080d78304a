package cache

import (
	"net/http"
	"strings"
)

// A lookup is what a request asks of the cache, read in one pass over its
// header. It lives on the stack of a hit.
type lookup struct {
	head bool // a HEAD request; otherwise a GET
	cc   requestDirectives
	asks bool // cc says something

	// The client's own conditions and range (RFC 9110 §13, §14).
	ifNoneMatch, ifModifiedSince, ranges, ifRange []string

	authorized bool   // it carries Authorization
	cookie     bool   // it carries Cookie
	bypass     reason // why it must not touch the cache, or reasonNone
	anew       bool   // what came for it did not go with what was stored: it takes all of it

	guard guardFields
}

// read fills l from r, a GET or HEAD request.
func (l *lookup) read(r *http.Request, ignoreDirectives bool) {
	l.head = r.Method == http.MethodHead
	l.cc = requestDirectives{maxAge: -1, minFresh: -1, maxStale: -1}
	if r.ContentLength != 0 {
		l.bypass = reasonRequestBody // what a body means in a GET nobody knows (RFC 9110 §9.3.1)
	}
	pragma := false
	for name, lines := range r.Header {
		if len(lines) == 0 {
			continue
		}
		switch name {
		case "Cache-Control":
			if !ignoreDirectives {
				l.cc = parseRequestDirectives(lines)
				l.asks = true
			}
		case "Pragma":
			pragma = !ignoreDirectives && hasToken(lines, "no-cache")
		case "If-None-Match":
			l.ifNoneMatch = lines
		case "If-Modified-Since":
			l.ifModifiedSince = lines
		case "Range":
			l.ranges = lines
		case "If-Range":
			l.ifRange = lines
		case "If-Match", "If-Unmodified-Since":
			// These ask the origin whether something may be done (RFC 9110
			// §13.1.1); a cache has no answer.
			l.bypass = reasonPrecondition
		case "Authorization":
			l.authorized = true
		case "Cookie":
			l.cookie = true
		case "Upgrade":
			l.bypass = reasonUpgrade
		case "Content-Length", "Transfer-Encoding":
			l.bypass = reasonRequestBody // net/http has taken these out of the header; a forged one is not read
		case "Connection":
			if namesFields(lines) {
				l.bypass = reasonMalformed
			}
		case "Forwarded":
			if forwardedTarget(lines) {
				l.guard.add(name)
			}
		default:
			if strings.HasPrefix(name, "X") && !l.guard.add(name) && isOverrideField(name) {
				l.bypass = reasonMethodOverride
			}
		}
	}
	// RFC 9111 §5.4: Pragma counts only when there is no Cache-Control.
	if pragma && len(r.Header["Cache-Control"]) == 0 {
		l.cc.noCache, l.asks = true, true
	}
	if r.URL != nil && r.URL.Opaque != "" { // "GET a:b", which has no path to tell it by
		l.bypass = reasonMalformed
	}
	if !saneHost(r.Host) {
		l.bypass = reasonMalformed
	}
}

// saneHost reports whether a host has nothing in it that could end it, for some
// parser, before its end.
func saneHost(host string) bool {
	const (
		below64 uint64 = 1<<0 | 1<<'\t' | 1<<' ' | 1<<'#' | 1<<'/' | 1<<'?'
		from64  uint64 = 1<<('@'-64) | 1<<('\\'-64)
	)
	bad := uint64(0)
	for i := range len(host) {
		b := host[i]
		bad |= below64>>b | from64>>(b-64)
	}
	return bad&1 == 0 && len(host) <= 255
}

// plain reports whether a request can share the answer to another one that is
// still on its way.
func (l *lookup) plain() bool {
	return !l.head && !l.strict() && len(l.ranges) == 0
}

// namesFields reports whether a Connection field names others than those it is
// for. Proxies drop what it names (RFC 9110 §7.6.1), so that the origin does not
// see what Vary, or the key, would tell its answer from others by.
func namesFields(lines []string) bool {
	for _, s := range lines {
		for option := range strings.SplitSeq(s, ",") {
			option = strings.Trim(option, " \t")
			known := option == "" || option == "keep-alive" || option == "close"
			for _, name := range [...]string{"keep-alive", "close", "upgrade", "te", "http2-settings", "proxy-connection"} {
				known = known || strings.EqualFold(option, name)
			}
			if !known {
				return true
			}
		}
	}
	return false
}

// strict reports whether the client has set terms for what is stored.
func (l *lookup) strict() bool { return l.cc.noCache || l.cc.maxAge >= 0 || l.cc.minFresh >= 0 }

// forwardedTarget reports whether a Forwarded field says more than who the
// client is (RFC 7239): host or proto, which applications build links from.
func forwardedTarget(lines []string) bool {
	for _, s := range lines {
		s = strings.ToLower(s)
		if strings.Contains(s, "host") || strings.Contains(s, "proto") {
			return true
		}
	}
	return false
}

// hasToken reports whether a list field has a member, in any case.
func hasToken(lines []string, token string) bool {
	for _, s := range lines {
		for part := range strings.SplitSeq(s, ",") {
			if strings.EqualFold(strings.Trim(part, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// safeMethod reports whether a method is known to be safe (RFC 9110 §9.2.1 and
// the registry). One that is not known must be taken for unsafe (RFC 9111 §4.4).
func safeMethod(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY":
		return true
	}
	return false
}
