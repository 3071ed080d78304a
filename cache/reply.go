package cache

import (
	"net/http"
	"strings"
	"time"
)

// A reply is an answer made from an entry. The zero chunks stand for the whole
// body of the entry.
type reply struct {
	e      *entry
	status int
	bare   bool     // without a body
	cut    bool     // chunks are the body, not e.data
	chunks [][]byte // of a range
	kind   string   // Content-Type of several ranges
	span   string   // Content-Range
}

// replyFor applies the client's conditions and its Range to e (RFC 9110
// §13.2.2). ok is false if e, which is partial, does not hold what it takes.
func (l *lookup) replyFor(c *Cache, e *entry, now time.Duration) (rep reply, ok bool) {
	rep = reply{e: e, status: e.status, bare: l.head}
	if (len(l.ifNoneMatch) > 0 || len(l.ifModifiedSince) > 0) && l.notModified(e, c.wall(now)) {
		rep.status, rep.bare = http.StatusNotModified, true
		return rep, true
	}
	if len(l.ranges) == 0 || l.head {
		return rep, !e.part
	}
	if e.status != http.StatusOK && !e.part || e.live != nil || !l.rangeApplies(e, c.wall(now)) {
		return rep, !e.part
	}
	total := e.size
	if e.part {
		if total = e.total; total < 0 {
			return rep, false
		}
	}
	ranges, valid := parseRanges(l.ranges, total)
	switch {
	case !valid:
		return rep, !e.part
	case len(ranges) == 0:
		rep.status, rep.bare = http.StatusRequestedRangeNotSatisfiable, true
		rep.span = "bytes */" + formatInt(total)
		return rep, true
	case total == 0:
		return rep, !e.part
	}
	for _, b := range ranges {
		if !e.covers(b) {
			return rep, false
		}
	}
	rep.status, rep.cut = http.StatusPartialContent, true
	if len(ranges) == 1 {
		rep.chunks, rep.span = e.cut(ranges[0]), ranges[0].contentRange(total)
	} else {
		rep.chunks, rep.kind = e.multipart(ranges, total)
	}
	return rep, true
}

// putHeader writes the header of rep to h.
func (rep *reply) putHeader(h http.Header, st stamp) {
	e := rep.e
	e.fields.putHeader(h)
	if st.age != nil {
		h["Age"] = st.age
	}
	if st.status != nil {
		h["Cache-Status"] = st.status
	}
	switch rep.status {
	case http.StatusNotModified:
		// RFC 9110 §15.4.5: no representation metadata but what guides an
		// update.
		for f := range e.fields.each {
			if strings.HasPrefix(f.name, "Content-") && f.name != "Content-Location" &&
				!strings.HasPrefix(f.name, "Content-Security-Policy") {
				delete(h, f.name)
			}
		}
		if e.etag() != "" {
			delete(h, "Last-Modified")
		}
	case http.StatusRequestedRangeNotSatisfiable:
		for _, name := range []string{"Content-Type", "Content-Encoding", "Etag", "Last-Modified", "Cache-Control", "Expires"} {
			delete(h, name)
		}
		h["Content-Range"] = []string{rep.span}
		h["Content-Length"] = []string{"0"}
	case http.StatusPartialContent:
		n := int64(0)
		for _, c := range rep.chunks {
			n += int64(len(c))
		}
		h["Content-Length"] = []string{formatInt(n)}
		if rep.kind != "" {
			h["Content-Type"] = []string{rep.kind}
			delete(h, "Content-Range")
		} else {
			h["Content-Range"] = []string{rep.span}
		}
	}
}

// body returns the bytes to send.
func (rep *reply) body() [][]byte {
	switch {
	case rep.bare:
		return nil
	case rep.cut:
		return rep.chunks
	}
	return rep.e.data
}

// write sends rep.
func (rep *reply) write(w http.ResponseWriter, st stamp) {
	h := w.Header()
	rep.putHeader(h, st)
	trailer := !rep.bare && !rep.cut && len(rep.e.trailer) > 0
	if trailer {
		for _, f := range rep.e.trailer {
			h["Trailer"] = append(h["Trailer"], f.name)
		}
	}
	w.WriteHeader(rep.status)
	for _, p := range rep.body() {
		if _, err := w.Write(p); err != nil {
			return
		}
	}
	if trailer {
		for _, f := range rep.e.trailer {
			h[f.name] = f.values
		}
	}
}
