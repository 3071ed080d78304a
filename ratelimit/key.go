package ratelimit

import (
	"fmt"
	"net/http"
	"strconv"
)

// A KeyFunc names the bucket that a request draws from. It must not trust what
// a stranger can send to choose a bucket.
//
// The empty string means that the request names nobody. All such requests
// share one bucket, so leaving out or garbling an identity never buys a fresh
// one.
type KeyFunc func(*http.Request) string

// Header returns a KeyFunc that names the value of a header field. Use it for
// a field that is authenticated before the limiter, or set by a proxy:
// whoever may invent values invents buckets. Requests that do not have exactly
// one such field share a bucket. Header panics if name is empty.
func Header(name string) KeyFunc {
	if name == "" {
		panic("ratelimit: Header: name is empty, must name a field")
	}
	name = http.CanonicalHeaderKey(name)
	return func(r *http.Request) string {
		if v := r.Header[name]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
}

// Pattern returns a KeyFunc that names the pattern in mux that the request's
// path and method match, like "GET /orders/{id}": one bucket per route,
// however many paths there are. With a nil mux it is r.Pattern, which is set
// inside a mux only.
func Pattern(mux *http.ServeMux) KeyFunc {
	return func(r *http.Request) string {
		if mux == nil {
			return r.Pattern
		}
		_, pattern := mux.Handler(r)
		return pattern
	}
}

// Keys returns a KeyFunc that composes others: one bucket for each combination
// of what they name. It names nobody when all of them do, and panics if one of
// them is nil.
func Keys(parts ...KeyFunc) KeyFunc {
	for i, part := range parts {
		if part == nil {
			panic(fmt.Sprintf("ratelimit: Keys: parts[%d] is nil, must name a bucket", i))
		}
	}
	return func(r *http.Request) string {
		var space [128]byte
		b, any := space[:0], false
		for i, part := range parts {
			if i > 0 {
				b = append(b, ' ')
			}
			key := part(r)
			any = any || key != ""
			// With its length in front, no part can pass for two.
			b = strconv.AppendInt(b, int64(len(key)), 10)
			b = append(append(b, ':'), key...)
		}
		if !any {
			return ""
		}
		return string(b)
	}
}
