package cache

import (
	"net/http"
	"strings"
)

// A directiveForm says how a directive was written.
type directiveForm uint8

const (
	formBare      directiveForm = iota // name
	formValue                          // name=token or name="quoted"
	formMalformed                      // anything else
)

// eachDirective calls f for every directive of a Cache-Control field
// (RFC 9111 §5.2), its name in lower case, a quoted value without its quotes.
// It reads what strangers send: nothing makes it fail, and a directive never
// reaches into the next one, but that an unterminated string takes the rest
// of its line.
func eachDirective(lines []string, f func(name, value string, form directiveForm)) {
	for _, s := range lines {
		for s != "" {
			for s != "" && (isOWS(s[0]) || s[0] == ',') {
				s = s[1:]
			}
			i := 0
			for i < len(s) && s[i] != ',' && s[i] != '=' {
				i++
			}
			name := trimRightOWS(s[:i])
			form := formBare
			if !isToken(name) {
				form = formMalformed
				eachStray(name, f)
			}
			value := ""
			if i < len(s) && s[i] == '=' {
				if form == formBare && len(name) == i {
					form = formValue
				} else {
					form = formMalformed
				}
				rest := s[i+1:]
				var ok bool
				all := rest
				value, rest, ok = directiveValue(all)
				if !ok {
					form = formMalformed
					eachStray(all[:len(all)-len(rest)], f)
				}
				s = rest
			} else {
				s = s[i:]
			}
			if name != "" {
				f(lowerASCII(name), value, form)
			}
		}
	}
}

// eachStray calls f for what may be meant as directives in something malformed:
// some separate them with semicolons, with spaces alone, or quote them.
func eachStray(s string, f func(name, value string, form directiveForm)) {
	for name := range strings.FieldsFuncSeq(s, func(c rune) bool { return strings.ContainsRune(" \t,;\"", c) }) {
		if isToken(name) {
			f(lowerASCII(name), "", formMalformed)
		}
	}
}

// directiveValue takes a token or a quoted-string off the front of s, up to
// the next comma.
func directiveValue(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		i := strings.IndexByte(s, ',')
		if i < 0 {
			i = len(s)
		}
		value = trimRightOWS(s[:i])
		return value, s[i:], isToken(value)
	}
	var b strings.Builder
	escaped := false
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case !escaped && c == '"':
			rest = strings.TrimLeft(s[i+1:], " \t")
			ok = rest == "" || rest[0] == ','
			if j := strings.IndexByte(rest, ','); j >= 0 {
				rest = rest[j:]
			} else {
				rest = ""
			}
			if b.Len() == 0 {
				return s[1:i], rest, ok
			}
			return b.String(), rest, ok
		case !escaped && c == '\\':
			if b.Len() == 0 {
				b.WriteString(s[1:i])
			}
			escaped = true
		default:
			if escaped || b.Len() > 0 {
				b.WriteByte(c)
			}
			escaped = false
		}
	}
	return "", "", false
}

// fieldNames splits a list of field names, and returns them in canonical form.
func fieldNames(list string) []string {
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.Trim(name, " \t"); isToken(name) {
			names = append(names, http.CanonicalHeaderKey(name))
		}
	}
	return names
}

// isOWS and trimRightOWS are about optional whitespace (RFC 9110 §5.6.3). Package
// strings makes a set for two characters each time, and this is read on each
// miss.
func isOWS(c byte) bool { return c == ' ' || c == '\t' }

func trimRightOWS(s string) string {
	for s != "" && isOWS(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// isToken reports whether s is a token (RFC 9110 §5.6.2).
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isTchar(s[i]) {
			return false
		}
	}
	return s != ""
}

func isTchar(c byte) bool {
	return 'a' <= c && c <= 'z' || c == '-' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// lowerASCII is strings.ToLower for ASCII, and does not allocate when there is
// nothing to do.
func lowerASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
