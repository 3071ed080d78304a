package cache

import "strings"

// What a targeted field says is a Dictionary of RFC 9651 (RFC 9213 §2.1). It
// is parsed strictly: a field that is malformed anywhere is ignored whole.

// An sfKind is the type of a member of a Dictionary.
type sfKind uint8

const (
	sfTrue    sfKind = iota // a bare key, or =?1
	sfFalse                 // =?0
	sfInteger               // value is its digits, with the sign
	sfString                // value is the string
	sfToken                 // value is the token
	sfOther                 // a type that no directive has
)

// An sfMember is a member of a Dictionary, without its parameters.
type sfMember struct {
	key   string
	value string
	kind  sfKind
}

// parseDictionary parses the lines of a Dictionary. A key that comes twice
// counts once, with its last value (RFC 9651 §4.2.2).
func parseDictionary(lines []string) ([]sfMember, bool) {
	p := sfParser{s: strings.Trim(strings.Join(lines, ","), " ")}
	var members []sfMember
	for p.s != "" {
		key, ok := p.key()
		if !ok {
			return nil, false
		}
		m := sfMember{key: key}
		if p.take('=') {
			if strings.HasPrefix(p.s, "(") {
				m.kind, ok = sfOther, p.innerList()
			} else {
				m.kind, m.value, ok = p.bareItem()
			}
		}
		if !ok || !p.parameters() {
			return nil, false
		}
		members = setMember(members, m)
		p.s = strings.TrimLeft(p.s, " \t")
		if p.s == "" {
			return members, true
		}
		if !p.take(',') {
			return nil, false
		}
		if p.s = strings.TrimLeft(p.s, " \t"); p.s == "" {
			return nil, false // a trailing comma
		}
	}
	return members, true
}

func setMember(members []sfMember, m sfMember) []sfMember {
	for i := range members {
		if members[i].key == m.key {
			members[i] = m
			return members
		}
	}
	return append(members, m)
}

// An sfParser takes things off the front of s.
type sfParser struct{ s string }

func (p *sfParser) take(c byte) bool {
	if p.s == "" || p.s[0] != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

func (p *sfParser) span(ok func(c byte) bool) string {
	i := 0
	for i < len(p.s) && ok(p.s[i]) {
		i++
	}
	out := p.s[:i]
	p.s = p.s[i:]
	return out
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isAlpha(c byte) bool { return isLower(c | 0x20) }

func (p *sfParser) key() (string, bool) {
	if p.s == "" || !isLower(p.s[0]) && p.s[0] != '*' {
		return "", false
	}
	return p.span(func(c byte) bool {
		return isLower(c) || isDigit(c) || strings.IndexByte("_-.*", c) >= 0
	}), true
}

func (p *sfParser) parameters() bool {
	for p.take(';') {
		p.s = strings.TrimLeft(p.s, " ")
		if _, ok := p.key(); !ok {
			return false
		}
		if p.take('=') {
			if _, _, ok := p.bareItem(); !ok {
				return false
			}
		}
	}
	return true
}

func (p *sfParser) innerList() bool {
	p.take('(')
	for {
		p.s = strings.TrimLeft(p.s, " ")
		if p.take(')') {
			return true
		}
		if _, _, ok := p.bareItem(); !ok || !p.parameters() {
			return false
		}
		if p.s == "" || p.s[0] != ' ' && p.s[0] != ')' {
			return false
		}
	}
}

func (p *sfParser) bareItem() (sfKind, string, bool) {
	if p.s == "" {
		return 0, "", false
	}
	switch c := p.s[0]; {
	case c == '-' || isDigit(c):
		return p.number()
	case c == '"':
		v, ok := p.quoted()
		return sfString, v, ok
	case c == '*' || isAlpha(c):
		return sfToken, p.span(func(c byte) bool { return isTchar(c) || c == ':' || c == '/' }), true
	case c == ':':
		p.take(':')
		p.span(func(c byte) bool {
			return isAlpha(c) || isDigit(c) || c == '+' || c == '/' || c == '='
		})
		return sfOther, "", p.take(':')
	case c == '?':
		p.take('?')
		if p.take('1') {
			return sfTrue, "", true
		}
		return sfFalse, "", p.take('0')
	case c == '@':
		p.take('@')
		kind, _, ok := p.number()
		return sfOther, "", ok && kind == sfInteger
	case strings.HasPrefix(p.s, `%"`):
		p.s = p.s[2:]
		i := strings.IndexByte(p.s, '"')
		if i < 0 {
			return 0, "", false
		}
		p.s = p.s[i+1:]
		return sfOther, "", true
	}
	return 0, "", false
}

// number takes an Integer of at most 15 digits or a Decimal of at most 12 and
// 3 (RFC 9651 §4.2.4).
func (p *sfParser) number() (sfKind, string, bool) {
	sign := ""
	if p.take('-') {
		sign = "-"
	}
	whole := p.span(isDigit)
	if whole == "" || len(whole) > 15 {
		return 0, "", false
	}
	if !p.take('.') {
		return sfInteger, sign + whole, true
	}
	frac := p.span(isDigit)
	return sfOther, "", len(whole) <= 12 && len(frac) >= 1 && len(frac) <= 3
}

func (p *sfParser) quoted() (string, bool) {
	p.take('"')
	var b strings.Builder
	for p.s != "" {
		c := p.s[0]
		p.s = p.s[1:]
		switch {
		case c == '"':
			return b.String(), true
		case c == '\\':
			if p.s == "" || p.s[0] != '"' && p.s[0] != '\\' {
				return "", false
			}
			b.WriteByte(p.s[0])
			p.s = p.s[1:]
		case c < 0x20 || c > 0x7e:
			return "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}
