package ratelimit

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The fields of draft-ietf-httpapi-ratelimit-headers-11, in the form that
// http.Header keeps them: "RateLimit" is not canonical there.
const (
	policyField = "Ratelimit-Policy"
	limitField  = "Ratelimit"
)

// Headers says which header fields answers carry beside the Retry-After of
// refusals.
type Headers int

const (
	// StandardHeaders are RateLimit and RateLimit-Policy, by
	// draft-ietf-httpapi-ratelimit-headers-11.
	StandardHeaders Headers = iota
	// LegacyHeaders are those and X-RateLimit-Limit, X-RateLimit-Remaining
	// and X-RateLimit-Reset as well, for the rate with the fewest tokens left:
	// its burst, what is left of it, and the seconds until it is full.
	LegacyHeaders
	// RetryAfterOnly publishes no budget, as suits a login.
	RetryAfterOnly
)

const ticksPerSecond = int64(time.Second) * ticksPerNano

// goodName reports whether s can stand in a structured field's String
// (RFC 9651, section 3.3.3) without escapes.
func goodName(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return true
}

// alsoName names the policy of also[i-1] after its period.
func alsoName(name string, i int, also []Rate) string {
	per := also[i-1].Per
	switch per {
	case time.Second:
		name += "-second"
	case time.Minute:
		name += "-minute"
	case time.Hour:
		name += "-hour"
	case 24 * time.Hour:
		name += "-day"
	default:
		name += "-" + per.String()
	}
	for _, before := range also[:i-1] {
		if before.Per == per {
			return name + "-" + strconv.Itoa(i)
		}
	}
	return name
}

// policies renders RateLimit-Policy: the quota of each limit, and its window in
// whole seconds, to which the quota of a fraction of a second is scaled.
func policies(own, groups []*limit) string {
	var b []byte
	for _, l := range append(own[:len(own):len(own)], groups...) {
		if b != nil {
			b = append(b, ',')
		}
		window := (l.rate.Per + time.Second - 1) / time.Second
		quota := int64(float64(l.rate.Requests) * float64(window*time.Second) / float64(l.rate.Per))
		b = append(b, l.item...)
		b = strconv.AppendInt(append(b, ";q="...), min(quota, maxInteger), 10)
		b = strconv.AppendInt(append(b, ";w="...), int64(window), 10)
	}
	return string(b)
}

const maxInteger = 999_999_999_999_999 // RFC 9651, section 3.3.1

// standing returns the parameters of l's item of RateLimit: the tokens that
// are left, and the seconds within which no more than those can be used. Since
// these many come back in these many seconds, a client that spreads what is
// left over them runs at exactly its rate. With none left, it is the time to
// the next one.
func (l *limit) standing(debt int64) (r, t int64) {
	r = int64(l.remaining(debt))
	t = debt + l.every - l.room
	if r > 0 {
		if t = maxDebt; r < l.most {
			t = r * l.every
		}
	}
	return min(r, maxInteger), wholeSeconds(t)
}

func appendItem(b []byte, l *limit, r, t int64) []byte {
	b = append(b, l.item...)
	b = strconv.AppendInt(append(b, ";r="...), r, 10)
	return strconv.AppendInt(append(b, ";t="...), t, 10)
}

// wholeSeconds rounds up, to at least 1.
func wholeSeconds(ticks int64) int64 {
	return max(1, (ticks+ticksPerSecond-1)/ticksPerSecond)
}

// fields is where the values of header fields come from. Each request gets
// memory of its own, cut from blocks that serve about a hundred, so that a
// request seldom allocates and yet shares nothing with another: the values
// are in the response's Header, which handlers and servers may change and
// read until the response is over, and that the limiter is not told of.
type fields struct {
	values []string
	text   strings.Builder
	recent [128]struct { // items written lately, by r
		lim  *limit
		r, t int64
		text string
	}
}

// value returns s in a slice that is nobody else's.
func (f *fields) value(s string) []string {
	if len(f.values) == cap(f.values) {
		f.values = make([]string, 0, 128)
	}
	n := len(f.values)
	f.values = append(f.values, s)
	return f.values[n : n+1 : n+1]
}

// string returns b as a string.
func (f *fields) string(b []byte) string {
	if f.text.Cap()-f.text.Len() < len(b) {
		f.text = strings.Builder{}
		f.text.Grow(max(len(b), 4096))
	}
	n := f.text.Len()
	f.text.Write(b)
	return f.text.String()[n:]
}

// item returns l's item of RateLimit. Most clients are where others were a
// moment ago, so it is seldom written anew.
func (f *fields) item(l *limit, debt int64) string {
	r, t := l.standing(debt)
	m := &f.recent[uint64(r)%uint64(len(f.recent))]
	if m.lim != l || m.r != r || m.t != t {
		var space [96]byte
		m.lim, m.r, m.t, m.text = l, r, t, f.string(appendItem(space[:0], l, r, t))
	}
	return m.text
}

// writeFields sets the header fields that tell the client where it stands. An
// outer limiter's stay: both fields are lists.
func (l *Limiter) writeFields(h http.Header, p *plan, a *ask) {
	if l.cfg.Headers == RetryAfterOnly || a.degraded && l.cfg.Outage != DecideLocally {
		return
	}
	f := l.fields.Get().(*fields)
	item := f.item(a.limits[0], a.debts[0])
	if a.all > 1 {
		var space [256]byte
		b := append(space[:0], item...)
		for i := 1; i < a.all; i++ {
			r, t := a.limits[i].standing(a.debts[i])
			b = appendItem(append(b, ','), a.limits[i], r, t)
		}
		item = f.string(b)
	}
	setOrAdd(h, policyField, f.value(p.policies))
	setOrAdd(h, limitField, f.value(item))
	if l.cfg.Headers == LegacyHeaders {
		var space [20]byte
		lim, debt := a.limits[a.by], a.debts[a.by]
		for name, n := range map[string]int64{
			"X-Ratelimit-Limit":     int64(lim.rate.Burst),
			"X-Ratelimit-Remaining": int64(lim.remaining(debt)),
			"X-Ratelimit-Reset":     (debt + ticksPerSecond - 1) / ticksPerSecond,
		} {
			h[name] = f.value(f.string(strconv.AppendInt(space[:0], n, 10)))
		}
	}
	l.fields.Put(f)
}

func setOrAdd(h http.Header, name string, value []string) {
	if len(h) > 0 {
		if there := h[name]; there != nil {
			value = append(there[:len(there):len(there)], value...)
		}
	}
	h[name] = value
}
