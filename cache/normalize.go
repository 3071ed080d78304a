package cache

import (
	"slices"
	"strconv"
	"strings"
)

// A Normalizer maps the lines of a request header field to one value. Requests
// whose values are equal count as the same when a response's Vary names the
// field. It must be quick, and not call the Cache: it runs while others wait. One
// that panics leaves a value as it is, and is counted in [Stats].Panics.
type Normalizer func(lines []string) string

// guarded returns f so that a panic leaves nothing locked.
func (c *Cache) guarded(f Normalizer) Normalizer {
	return func(lines []string) (value string) {
		returned := false
		defer func() {
			if !returned && recover() != nil {
				c.panics.Add(1)
				value = exactly(lines)
			}
		}()
		value = f(lines)
		returned = true
		return value
	}
}

type normalizers map[string]Normalizer

func (n normalizers) value(name string, lines []string) string {
	if len(lines) == 0 {
		return "\x00" // absent is not the same as empty
	}
	if f := n[name]; f != nil {
		return f(lines)
	}
	switch name {
	case "Accept-Encoding", "Accept-Language", "Accept", "Accept-Charset":
		return normalPreference(lines)
	case "Authorization", "Cookie":
		return exactly(lines) // no lists
	}
	return normalList(lines)
}

// exactly joins the lines of a field, whose order and white space may mean
// something.
func exactly(lines []string) string { return strings.Join(lines, "\n") }

// normalList joins the lines of a field and removes the white space around its
// commas, as RFC 9111 §4.1 allows for every list. What is quoted may have commas
// of its own.
func normalList(lines []string) string {
	if slices.ContainsFunc(lines, func(s string) bool { return strings.IndexByte(s, '"') >= 0 }) {
		return exactly(lines)
	}
	var b strings.Builder
	for i, s := range lines {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, part := range strings.Split(s, ",") {
			if j > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strings.Trim(part, " \t"))
		}
	}
	return b.String()
}

// A preference is one member of an Accept field, and how much it is wanted in
// thousandths.
type preference struct {
	value string
	q     int
}

// preferences parses the lines of an Accept field (RFC 9110 §12.4.2). ok is
// false if they are not well formed.
func preferences(lines []string) (list []preference, ok bool) {
	for _, s := range lines {
		if strings.IndexByte(s, '"') >= 0 {
			return nil, false
		}
		for part := range strings.SplitSeq(s, ",") {
			p := preference{q: 1000}
			params := strings.Split(part, ";")
			p.value = strings.ToLower(strings.Trim(params[0], " \t"))
			if p.value == "" {
				continue
			}
			for _, param := range params[1:] {
				param = strings.ToLower(strings.Trim(param, " \t"))
				if q, isQ := strings.CutPrefix(param, "q="); isQ {
					if p.q, ok = parseQuality(q); !ok {
						return nil, false
					}
					continue
				}
				p.value += ";" + param
			}
			list = append(list, p)
		}
	}
	return list, true
}

// parseQuality returns a weight in thousandths.
func parseQuality(s string) (q int, ok bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	if len(whole) != 1 || len(fraction) > 3 {
		return 0, false
	}
	for _, c := range []byte(whole + (fraction + "000")[:3]) {
		if !isDigit(c) {
			return 0, false
		}
		q = 10*q + int(c-'0')
	}
	return q, q <= 1000
}

// normalPreference orders an Accept field: what is wanted as much as something
// else may come in any order, and in any case.
func normalPreference(lines []string) string {
	list, ok := preferences(lines)
	if !ok {
		return normalList(lines)
	}
	slices.SortFunc(list, func(a, b preference) int {
		if a.q != b.q {
			return b.q - a.q
		}
		return strings.Compare(a.value, b.value)
	})
	var b strings.Builder
	for i, p := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(p.value)
		if p.q != 1000 {
			b.WriteString(";q=")
			b.WriteString(strconv.Itoa(p.q))
		}
	}
	return b.String()
}
