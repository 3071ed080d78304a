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

// parseDate parses an HTTP-date in any of its three forms. RFC 9111 §4.2 wants
// names and zone matched in any case, and any zone but GMT refused.
func parseDate(s string, now time.Time) (time.Time, bool) {
	s = strings.Trim(s, " \t")
	if len(s) < len("Mon Jan  2 15:04:05 2006") || len(s) > 64 {
		return time.Time{}, false
	}
	if i := len(s) - 3; strings.EqualFold(s[i:], "GMT") && s[i:] != "GMT" {
		s = s[:i] + "GMT"
	}
	if t, err := time.Parse(http.TimeFormat, s); err == nil {
		return t.UTC(), true
	}
	if t, err := time.Parse("Monday, 02-Jan-06 15:04:05 GMT", s); err == nil {
		return centuryOf(t.UTC(), now), true
	}
	if t, err := time.Parse(time.ANSIC, s); err == nil {
		return t.UTC(), true
	}
	return time.Time{}, false
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
	return max(apparent, parseAge(h["Age"])+delay)
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
	case 206, 304, 306, 418:
		return status == 206
	}
	return http.StatusText(status) != ""
}
