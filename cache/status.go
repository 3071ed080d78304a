package cache

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Cache-Status (RFC 9211): each cache on the way adds a member to the list,
// the one nearest to the origin first.

// statusName returns the name of the cache as a token or, if it isn't one, as
// a string of RFC 9651.
func statusName(name string) string {
	if name != "" && (isAlpha(name[0]) || name[0] == '*') && strings.IndexFunc(name, func(r rune) bool {
		return r >= 0x80 || !isTchar(byte(r)) && r != ':' && r != '/'
	}) < 0 {
		return name
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c < 0x20 || c > 0x7e {
			c = '_'
		}
		if c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	b.WriteByte('"')
	return b.String()
}

func appendStatus(upstream []string, line string) []string {
	return append(slices.Clip(upstream), line)
}

// A forward says why and with what success a request went to the origin.
type forward struct {
	why       string // fwd: bypass, method, uri-miss, vary-miss, request, stale, partial
	status    int    // fwd-status, if it is not the status of the answer
	stored    bool
	collapsed bool
	detail    string
}

// line returns the member for a request that was forwarded.
func (f *forward) line(name string) string {
	b := make([]byte, 0, 96)
	b = append(b, name...)
	b = append(b, "; fwd="...)
	b = append(b, f.why...)
	if f.status != 0 {
		b = append(b, "; fwd-status="...)
		b = strconv.AppendInt(b, int64(f.status), 10)
	}
	if f.stored {
		b = append(b, "; stored"...)
	}
	if f.collapsed {
		b = append(b, "; collapsed"...)
	}
	if f.detail != "" {
		b = append(b, "; detail="...)
		b = append(b, f.detail...)
	}
	return string(b)
}

// stampOf returns the changing fields of an answer from e that is not a plain
// hit.
func (c *Cache) stampOf(e *entry, now time.Duration, line string) *stamp {
	age := max(0, int64(e.age(now)/time.Second))
	s := &stamp{age: age, ageSet: []string{strconv.FormatInt(age, 10)}}
	if c.statusName != "" {
		s.status = appendStatus(e.field("Cache-Status"), line)
	}
	return s
}
