package cache

import (
	"net/http"
	"slices"
	"strings"
)

// trailersOf returns the trailer fields that the handler has set in h.
func trailersOf(h http.Header) []field {
	var out []field
	declared := namedFields(h["Trailer"])
	for name, values := range h {
		plain, prefixed := strings.CutPrefix(name, http.TrailerPrefix)
		if prefixed || slices.Contains(declared, name) {
			out = append(out, field{name: http.CanonicalHeaderKey(plain), values: slices.Clip(slices.Clone(values))})
		}
	}
	slices.SortFunc(out, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return out
}

// sendTrailers sends what trailersOf has returned.
func (rec *recorder) sendTrailers(trailer []field) {
	h := rec.w.Header()
	declared := namedFields(h["Trailer"])
	for _, t := range trailer {
		if slices.Contains(declared, t.name) {
			h[t.name] = t.values
		} else {
			h[http.TrailerPrefix+t.name] = t.values
		}
	}
}

// trailerFields returns the trailer of a response that a client has read.
func trailerFields(h http.Header) []field {
	var out []field
	for name, values := range h {
		if len(values) > 0 {
			out = append(out, field{name: name, values: slices.Clip(values)})
		}
	}
	slices.SortFunc(out, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return out
}
