package cache

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const maxRanges = 32

// A byteRange is a part of a representation: n bytes from start on.
type byteRange struct{ start, n int64 }

func (b byteRange) contentRange(total int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", b.start, b.start+b.n-1, total)
}

// parseRanges resolves a Range field against a representation of size bytes
// (RFC 9110 §14.1.2). ok is false if the field is not valid or asks for more
// than is reasonable, and must be ignored. With ok and no ranges nothing of it
// can be satisfied.
func parseRanges(lines []string, size int64) (ranges []byteRange, ok bool) {
	if len(lines) != 1 {
		return nil, false
	}
	unit, set, found := strings.Cut(lines[0], "=")
	if !found || !strings.EqualFold(strings.Trim(unit, " \t"), "bytes") {
		return nil, false
	}
	count, sum := 0, int64(0)
	for spec := range strings.SplitSeq(set, ",") {
		spec = strings.Trim(spec, " \t")
		if spec == "" {
			continue
		}
		if count++; count > maxRanges {
			return nil, false
		}
		first, last, found := strings.Cut(spec, "-")
		if !found {
			return nil, false
		}
		r := byteRange{}
		if first == "" { // the last n bytes
			n, valid := parsePosition(last)
			if !valid {
				return nil, false
			}
			if n == 0 {
				continue
			}
			r.n = min(n, size)
			r.start = size - r.n
		} else {
			from, valid := parsePosition(first)
			if !valid {
				return nil, false
			}
			to := size - 1
			if last != "" {
				if to, valid = parsePosition(last); !valid || to < from {
					return nil, false
				}
			}
			if from >= size {
				continue
			}
			r = byteRange{from, min(to, size-1) - from + 1}
		}
		sum += r.n
		ranges = append(ranges, r)
	}
	if count == 0 || len(ranges) > 1 && sum > size {
		return nil, false // overlapping ranges only serve to make work (§14.2)
	}
	return ranges, true
}

// parsePosition parses one or more digits. What overflows is far away.
func parsePosition(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	for i := 0; i < len(s); i++ {
		if !isDigit(s[i]) {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 1<<63 - 1, true
	}
	return n, true
}

// parseContentRange parses the Content-Range of a 206 (RFC 9110 §14.4). total
// is -1 if it is not known.
func parseContentRange(lines []string) (start, end, total int64, ok bool) {
	if len(lines) != 1 {
		return 0, 0, 0, false
	}
	unit, rest, found := strings.Cut(strings.Trim(lines[0], " \t"), " ")
	if !found || !strings.EqualFold(unit, "bytes") {
		return 0, 0, 0, false
	}
	span, size, found := strings.Cut(rest, "/")
	first, last, found2 := strings.Cut(span, "-")
	if !found || !found2 {
		return 0, 0, 0, false
	}
	start, ok1 := parsePosition(first)
	end, ok2 := parsePosition(last)
	total, ok3 := parsePosition(size)
	if size == "*" {
		total, ok3 = -1, true
	}
	ok = ok1 && ok2 && ok3 && start <= end && (total < 0 || end < total)
	return start, end, total, ok
}

// rangeApplies reports whether the client's Range still applies to e: there is no
// If-Range, or it names e by a strong validator (RFC 9110 §13.1.5).
func (l *lookup) rangeApplies(e *entry, now time.Time) bool {
	switch len(l.ifRange) {
	case 0:
		return true
	case 1:
	default:
		return false
	}
	v := strings.Trim(l.ifRange[0], " \t")
	if strings.HasSuffix(v, `"`) {
		return strongTag(v) && v == e.etag()
	}
	t, ok := parseDate(v, now)
	return ok && e.strongDate() && t.Unix() == e.modified
}

// strongDate reports whether the Last-Modified of e is a strong validator: the
// origin's clock has moved on since, so that it would have shown a change
// (RFC 9110 §8.8.2.2).
func (e *entry) strongDate() bool {
	return e.modified != noDate && e.date-e.modified >= 60
}

// strongValidator returns what tells e from every other version of it: a
// strong entity-tag, or without any entity-tag a strong date. It is what may
// come in If-Range (RFC 9110 §13.1.5).
func (e *entry) strongValidator() []string {
	switch tag := e.etag(); {
	case strongTag(tag):
		return []string{tag}
	case e.field("Etag") == nil && e.strongDate():
		return e.field("Last-Modified")[:1:1]
	}
	return nil
}

// takeRange notes which bytes a 206 has, and returns how many. Its body must come
// as one part.
func (e *entry) takeRange(h http.Header) (n int64, why reason) {
	start, end, total, ok := parseContentRange(h["Content-Range"])
	if n = end - start + 1; !ok || contentLength(h, e.status) > n {
		return 0, reasonPartial
	}
	e.part, e.start, e.total = true, start, total
	return n, reasonNone
}

// cut returns the bytes of b, which are counted as those of the whole
// representation. e must hold them.
func (e *entry) cut(b byteRange) [][]byte {
	var out [][]byte
	off := b.start - e.start
	n := b.n
	for _, c := range e.data {
		if n == 0 {
			break
		}
		if off >= int64(len(c)) {
			off -= int64(len(c))
			continue
		}
		part := c[off:min(int64(len(c)), off+n)]
		out = append(out, part)
		n -= int64(len(part))
		off = 0
	}
	return out
}

// covers reports whether e holds all of b.
func (e *entry) covers(b byteRange) bool {
	if !e.part {
		return true
	}
	return b.start >= e.start && b.start+b.n <= e.start+e.size
}

// multipart builds a multipart/byteranges body (RFC 9110 §14.6).
func (e *entry) multipart(ranges []byteRange, total int64) (chunks [][]byte, contentType string) {
	var id [16]byte
	rand.Read(id[:])
	boundary := hex.EncodeToString(id[:])
	kind := ""
	if v := e.field("Content-Type"); len(v) > 0 {
		kind = "Content-Type: " + v[0] + "\r\n"
	}
	sep := "--"
	for _, b := range ranges {
		head := sep + boundary + "\r\n" + kind + "Content-Range: " + b.contentRange(total) + "\r\n\r\n"
		chunks = append(chunks, []byte(head))
		chunks = append(chunks, e.cut(b)...)
		sep = "\r\n--"
	}
	chunks = append(chunks, []byte("\r\n--"+boundary+"--\r\n"))
	return chunks, "multipart/byteranges; boundary=" + boundary
}
