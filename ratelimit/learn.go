package ratelimit

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An advice is what an upstream's answer says about its limit: to stay away
// for a while, or that so many more requests may come within so long.
type advice struct {
	pause  time.Duration
	why    string
	left   int
	within time.Duration
}

// learn reads Retry-After (RFC 9110, section 10.2.3) on 429 and 503, the
// RateLimit field of draft-ietf-httpapi-ratelimit-headers-11, and from older
// fields only that nothing is left, which is the one thing that all of their
// dialects agree on.
func learn(res *http.Response, now time.Time) (advice, bool) {
	h := res.Header
	if res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusServiceUnavailable {
		if d, ok := retryAfter(h.Get("Retry-After"), now); ok {
			return advice{pause: d, why: "answered " + strconv.Itoa(res.StatusCode) + " with Retry-After"}, true
		}
	}
	if age, err := strconv.Atoi(h.Get("Age")); err == nil && age > 0 {
		return advice{}, false
	}
	if a, ok := tightest(h[limitField]); ok {
		return a, true
	}
	for _, prefix := range []string{"Ratelimit-", "X-Ratelimit-"} {
		if h.Get(prefix+"Remaining") != "0" {
			continue
		}
		if reset, err := strconv.ParseInt(h.Get(prefix+"Reset"), 10, 64); err == nil && reset > 0 {
			d := time.Duration(min(reset, 1<<32)) * time.Second
			if reset > 1e9 { // a time, not a duration
				d = time.Unix(reset, 0).Sub(now)
			}
			if d > 0 {
				return advice{pause: d, why: "has nothing left by its " + prefix + "Remaining"}, true
			}
		}
	}
	if res.StatusCode == http.StatusTooManyRequests {
		return advice{pause: time.Second, why: "answered 429"}, true
	}
	return advice{}, false
}

func retryAfter(v string, now time.Time) (time.Duration, bool) {
	if s, err := strconv.ParseUint(v, 10, 63); err == nil {
		return time.Duration(min(s, 1<<32)) * time.Second, s > 0
	}
	if t, err := http.ParseTime(v); err == nil {
		return t.Sub(now), t.After(now)
	}
	return 0, false
}

// tightest returns the advice of the item in a RateLimit field that leaves the
// least. Items that are not well formed, or do not say a time, are skipped.
func tightest(values []string) (least advice, ok bool) {
	for _, v := range values {
		for v != "" {
			var item string
			item, v = cutUnquoted(v, ',')
			_, params := cutUnquoted(item, ';')
			left, within := int64(-1), int64(-1)
			for params != "" {
				var p string
				p, params = cutUnquoted(params, ';')
				name, value, _ := strings.Cut(strings.Trim(p, " \t"), "=")
				n, err := strconv.ParseUint(value, 10, 50)
				if err != nil {
					continue
				}
				switch name {
				case "r":
					left = int64(n)
				case "t":
					within = int64(n)
				}
			}
			if left < 0 || within <= 0 {
				continue
			}
			a := advice{left: int(left), within: time.Duration(min(within, 1<<32)) * time.Second}
			if left == 0 {
				a = advice{pause: a.within, why: "has nothing left by its RateLimit"}
			}
			if !ok || a.pause > least.pause || least.pause == 0 && a.pause == 0 &&
				float64(a.left)/a.within.Seconds() < float64(least.left)/least.within.Seconds() {
				least, ok = a, true
			}
		}
	}
	return least, ok
}
