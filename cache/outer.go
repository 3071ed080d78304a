package cache

import (
	"net/http"
	"slices"
)

// outerFields are the header fields that layers around the cache had set
// before it was called. They are sent with its response and never stored. A
// nil *outerFields has none.
type outerFields struct {
	few  [2]outerField // the two of a rate limiter, say; a name of "" is none
	more []outerField
}

type outerField struct {
	name   string
	values []string
}

// note remembers what h holds now. The handler may change h afterwards.
func (o *outerFields) note(h http.Header) {
	n := 0
	for name, values := range h {
		f := outerField{name, values}
		switch {
		case n < len(o.few):
			o.few[n] = f
		case o.more == nil:
			o.more = append(make([]outerField, 0, len(h)-n), f)
		default:
			o.more = append(o.more, f)
		}
		n++
	}
}

// values returns the values of a field.
func (o *outerFields) values(name string) []string {
	if o == nil {
		return nil
	}
	for _, fields := range [...][]outerField{o.few[:], o.more} {
		for i := range fields {
			if fields[i].name == name {
				return fields[i].values
			}
		}
	}
	return nil
}

// had reports whether a field was there with just these values.
func (o *outerFields) had(name string, values []string) bool {
	return slices.Equal(o.values(name), values)
}
