package cache

import (
	"net/http"
	"strings"
	"time"
)

// heuristicFraction and maxHeuristic bound the lifetime of a response that
// does not give one: a tenth of the time since it was modified (RFC 9111
// §4.2.2), at most a day.
const (
	heuristicFraction = 10
	maxHeuristic      = 24 * time.Hour
)

// maxAge is the largest age that a response comes with: no lifetime is as long,
// and it can grow as much again before it overflows.
const maxAge = 2 * maxDelta

// The three forms of an HTTP-date (RFC 9110 §5.6.7): "0" stands for a digit,
// "a" for a letter.
const (
	shapeIMF     = "aaa, 00 aaa 0000 00:00:00 aaa"
	shapeRFC850  = ", 00-aaa-00 00:00:00 aaa" // after the day's name
	shapeAsctime = "aaa aaa 00 00:00:00 0000"
)

const rfc850 = "Monday, 02-Jan-06 15:04:05 GMT"

// parseDate parses an HTTP-date in any of its three forms, and nothing that
// only looks like one. RFC 9111 §4.2 wants names and zone matched in any case,
// and any zone but GMT refused.
func parseDate(s string, now time.Time) (time.Time, bool) {
	s = strings.Trim(s, " \t")
	layout := time.ANSIC
	switch comma := strings.IndexByte(s, ','); {
	case hasShape(s, shapeIMF):
		layout = http.TimeFormat
	case comma > 0 && hasShape(s[comma:], shapeRFC850):
		layout = rfc850
	case !hasShape(s, shapeAsctime):
		return time.Time{}, false
	}
	if zone := len(s) - len("GMT"); layout != time.ANSIC && s[zone:] != "GMT" {
		if !strings.EqualFold(s[zone:], "GMT") {
			return time.Time{}, false
		}
		s = s[:zone] + "GMT"
	}
	leap := time.Duration(0)
	if i := strings.LastIndexByte(s, ':') + 1; s[i:i+2] == "60" {
		s, leap = s[:i]+"59"+s[i+2:], time.Second
	}
	t, err := time.Parse(layout, s)
	if err != nil {
		return time.Time{}, false
	}
	t = t.UTC().Add(leap)
	if layout == rfc850 {
		t = centuryOf(t, now)
	}
	return t, true
}

// hasShape reports whether s looks like shape. Where that has the first digit
// of a day, asctime writes a space.
func hasShape(s, shape string) bool {
	if len(s) != len(shape) {
		return false
	}
	for i := range len(s) {
		switch c := shape[i]; c {
		case '0':
			if !isDigit(s[i]) && (s[i] != ' ' || shape != shapeAsctime || i != len("aaa aaa ")) {
				return false
			}
		case 'a':
			if !isAlpha(s[i]) {
				return false
			}
		default:
			if s[i] != c {
				return false
			}
		}
	}
	return true
}

// centuryOf corrects the century of a date with a two-digit year: one that
// seems more than 50 years ahead is in the past (RFC 9110 §5.6.7).
func centuryOf(t, now time.Time) time.Time {
	if t.Before(now) && !t.AddDate(100, 0, 0).After(now.AddDate(50, 0, 0)) {
		return t.AddDate(100, 0, 0)
	}
	if t.After(now.AddDate(50, 0, 0)) {
		return t.AddDate(-100, 0, 0)
	}
	return t
}

// singleDate returns the date of a field that must come once. Two lines that
// differ are as bad as none that parses.
func singleDate(lines []string, now time.Time) (t time.Time, ok bool) {
	for i, s := range lines {
		u, good := parseDate(s, now)
		if !good || i > 0 && !u.Equal(t) {
			return time.Time{}, false
		}
		t, ok = u, true
	}
	return t, ok
}

// parseAge returns the Age of a response: the first member of the field,
// however often it comes, or 0 if that is not a number (RFC 9111 §5.1).
func parseAge(lines []string) time.Duration {
	if len(lines) == 0 {
		return 0
	}
	first, _, _ := strings.Cut(lines[0], ",")
	d, _ := parseDelta(strings.Trim(first, " \t"))
	return d
}

// initialAge is corrected_initial_age (RFC 9111 §4.2.3): the larger of what
// the Date field and the Age field say, plus the time the response took.
func initialAge(h http.Header, date, received time.Time, delay time.Duration) time.Duration {
	apparent := max(0, received.Sub(date)).Truncate(time.Second)
	return min(max(apparent, parseAge(h["Age"])+delay), maxAge)
}

// lifetime is how long a response is fresh from the moment it was generated
// (RFC 9111 §4.2.1), and whether it says so itself.
func lifetime(h http.Header, d *directives, status int, date, now time.Time, shared bool) (life time.Duration, explicit bool) {
	switch {
	case shared && d.sMaxAge.set:
		return d.sMaxAge.value(), true
	case d.maxAge.set:
		return d.maxAge.value(), true
	case !d.targeted && len(h["Expires"]) > 0:
		expires, ok := singleDate(h["Expires"], now)
		if !ok {
			return 0, true // an invalid date, "0" above all, is in the past (§5.3)
		}
		return min(max(0, expires.Sub(date)), maxDelta), true
	}
	if !heuristicStatus(status) && !d.public {
		return 0, false
	}
	modified, ok := singleDate(h["Last-Modified"], now)
	if !ok || !modified.Before(date) {
		return 0, false
	}
	return min(date.Sub(modified)/heuristicFraction, maxHeuristic), false
}

// heuristicStatus reports whether a response of this status may be kept
// without saying so (RFC 9110 §15.1).
func heuristicStatus(status int) bool {
	switch status {
	case 200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501:
		return true
	}
	return false
}

// understoodStatus reports whether this cache knows what a status asks of it,
// which must-understand makes a condition (RFC 9111 §5.2.2.3).
func understoodStatus(status int) bool {
	switch status {
	case 304, 306, 418: // these have a name, but no meaning here
		return false
	}
	return http.StatusText(status) != ""
}
