package degrade

import (
	"net/http"
	"strconv"
	"time"
)

// Transport returns a RoundTripper that tells the next service what this one
// knows about the request: the priority that its context carries (see
// [WithPriority]; nothing for Normal) and how much time is left until its
// deadline. Fields that the caller has set stay, unless they promise more time
// than is left. Nil next means http.DefaultTransport.
//
// It also throttles itself while a server refuses (429 or 503): see
// Config.Throttle. A request that is held back fails with a [*RefusedError].
func (s *Shedder) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	t := &transport{s: s, next: next}
	if s.cfg.Throttle > 0 {
		t.throttle = &throttle{ratio: s.cfg.Throttle, hosts: map[string]*[bands]attempts{}}
	}
	return t
}

type transport struct {
	s        *Shedder
	next     http.RoundTripper
	throttle *throttle // nil when off
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	p := PriorityOf(ctx)
	deadline, ok := ctx.Deadline()
	if t.throttle != nil && !t.throttle.allow(r.URL.Host, band(p), time.Now()) {
		if r.Body != nil {
			r.Body.Close()
		}
		t.s.throttled.Add(1)
		return nil, &RefusedError{Name: t.s.name, Reason: "held back: " + r.URL.Host + " refuses", retry: throttleProbe}
	}
	if p != Normal || ok {
		r2 := *r
		r2.Header = r.Header.Clone()
		if r2.Header == nil {
			r2.Header = http.Header{}
		}
		if p != Normal && r2.Header[PriorityHeader] == nil {
			r2.Header[PriorityHeader] = []string{p.String()}
		}
		if ok {
			ms := max(time.Until(deadline).Milliseconds(), 0)
			// A proxy sends its client's field on, which says what was left when
			// the request came: now it is less.
			told, valid := parseTimeout(header(r2.Header, TimeoutHeader))
			if r2.Header[TimeoutHeader] == nil || valid && told > ms {
				r2.Header[TimeoutHeader] = []string{strconv.FormatInt(ms, 10)}
			}
		}
		r = &r2
	}
	resp, err := t.next.RoundTrip(r)
	// An error says nothing about whether the server would have refused; counted
	// as accepted it keeps failures from closing the throttle: that is a
	// breaker's job.
	if t.throttle != nil && (err != nil || resp == nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable) {
		t.throttle.accepted(r.URL.Host, band(p), time.Now())
	}
	return resp, err
}

// CloseIdleConnections passes on to the wrapped RoundTripper.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
