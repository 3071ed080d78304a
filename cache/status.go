package cache

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
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

// forwardWhys are the values that forward.why has, the most frequent first.
var forwardWhys = [...]string{"uri-miss", "bypass", "method", "stale", "vary-miss", "request", "partial"}

// A forwardTable keeps the members that forwarded has made, so that a request
// that is passed on costs no new one.
type forwardTable [len(forwardWhys)][2][reasonCount]atomic.Pointer[[]string]

// forwarded returns the member for fw, with the detail why, as the lines of a
// field. Others have them too: they must not be changed.
func (c *Cache) forwarded(fw forward, why reason) []string {
	fw.detail = why.String()
	i, stored := slices.Index(forwardWhys[:], fw.why), 0
	if fw.stored {
		stored = 1
	}
	if i < 0 || fw.status != 0 || fw.collapsed {
		return []string{fw.line(c.statusName)}
	}
	slot := &c.forwards[i][stored][why]
	if lines := slot.Load(); lines != nil {
		return *lines
	}
	lines := []string{fw.line(c.statusName)}
	slot.Store(&lines)
	return lines
}

// addStatus adds to the Cache-Status of a response that was forwarded.
func (c *Cache) addStatus(h http.Header, fw forward, why reason) {
	if c.statusName == "" {
		return
	}
	lines := c.forwarded(fw, why)
	if upstream := h["Cache-Status"]; len(upstream) > 0 {
		lines = appendStatus(upstream, lines[0])
	}
	h["Cache-Status"] = lines
}

// A stamp is the part of a header that differs from one second to the next.
type stamp struct {
	age    []string
	status []string // Cache-Status, after what the response came with; nil for none
}

// confirmed returns st for an answer that a 304 with header h has confirmed:
// Age would say that the origin had no part in it (RFC 9111 §5.1), unless a
// cache before this one says so.
func (st stamp) confirmed(h http.Header) stamp {
	if len(h["Age"]) == 0 {
		st.age = nil
	}
	return st
}

// stampAt returns the stamp of a hit on e. It does not allocate, unless a
// cache before this one had something to say.
func (c *Cache) stampAt(e *entry, now time.Duration) stamp {
	age := e.age(now)
	st := stamp{age: c.ages.line(int64(age / time.Second))}
	if c.statusName == "" {
		return st
	}
	st.status = c.ttls.line(int64(-e.staleness(now) / time.Second))
	if e.fields.shape.upstream {
		st.status = appendStatus(e.field("Cache-Status"), st.status[0])
	}
	return st
}

// stampOf returns the stamp of an answer from e that is not a plain hit.
func (c *Cache) stampOf(e *entry, now time.Duration, line string) stamp {
	st := stamp{age: c.ages.line(max(0, int64(e.age(now)/time.Second)))}
	if c.statusName != "" {
		st.status = appendStatus(e.field("Cache-Status"), line)
	}
	return st
}

// A lineTable keeps the header lines that end in a number, so that those in
// use at the time need not be made for every response.
type lineTable struct {
	prefix string
	slots  [1 << 12]atomic.Pointer[numbered]
}

type numbered struct {
	n    int64
	line []string
}

func (t *lineTable) line(n int64) []string {
	slot := &t.slots[uint64(n)%uint64(len(t.slots))]
	if p := slot.Load(); p != nil && p.n == n {
		return p.line
	}
	p := &numbered{n, []string{t.prefix + strconv.FormatInt(n, 10)}}
	slot.Store(p)
	return p.line
}

// A dateLine keeps the last Date field that was made.
type dateLine struct{ last atomic.Pointer[dated] }

type dated struct {
	unix int64
	line []string
}

// line returns the values of the Date field for t. They must not be changed.
func (l *dateLine) line(t time.Time) []string {
	if p := l.last.Load(); p != nil && p.unix == t.Unix() {
		return p.line
	}
	p := &dated{t.Unix(), []string{t.UTC().Format(http.TimeFormat)}}
	l.last.Store(p)
	return p.line
}
