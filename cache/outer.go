package cache

import (
	"net/http"
	"slices"
)

// outerFields are the header fields that layers around the cache had set
// before it was called. They are sent with its response and never stored. A
// nil *outerFields has none.
type outerFields struct {
	few  [6]field // of which n are in use, unless there are more than fit
	n    int
	many http.Header
}

// note remembers what h holds now. The handler may change h afterwards.
func (o *outerFields) note(h http.Header) {
	if len(h) > len(o.few) {
		o.many = h.Clone()
		return
	}
	for name, values := range h {
		o.few[o.n] = field{name: name, values: values}
		o.n++
	}
}

// values returns the values of a field.
func (o *outerFields) values(name string) []string {
	if o == nil {
		return nil
	}
	for i := range o.few[:o.n] {
		if o.few[i].name == name {
			return o.few[i].values
		}
	}
	return o.many[name]
}

// had reports whether a field was there with just these values.
func (o *outerFields) had(name string, values []string) bool {
	return slices.Equal(o.values(name), values)
}
