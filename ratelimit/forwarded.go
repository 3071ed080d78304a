package ratelimit

import "strings"

// lastForwarded cuts the last element off a Forwarded field (RFC 7239, section
// 4) and returns what its "for" parameter says: a node without its quotes, or
// "" if it has none, has two, or is not well formed.
//
// Commas inside quotes do not separate. The quotes are counted from the right,
// where the trusted proxy wrote, so that one which a stranger left open further
// left does not matter.
func lastForwarded(field string) (rest, node string, more bool) {
	quoted := false
	for i := len(field) - 1; i >= 0; i-- {
		switch c := field[i]; {
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			return field[:i], forParameter(field[i+1:]), true
		}
	}
	return "", forParameter(field), false
}

func forParameter(element string) (node string) {
	found := false
	for element != "" {
		var pair string
		pair, element = cutUnquoted(element, ';')
		name, value, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
		if !ok || !strings.EqualFold(name, "for") {
			continue
		}
		if found {
			return ""
		}
		found = true
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		if strings.ContainsAny(value, `"\`) { // no address needs an escape
			return ""
		}
		node = value
	}
	return node
}

// cutUnquoted cuts s at the first sep outside quotes.
func cutUnquoted(s string, sep byte) (before, after string) {
	quoted := false
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case c == sep && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}
