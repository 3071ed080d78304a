package degrade

import (
	"net/http"
	"strconv"
	"time"
)

// Transport returns a RoundTripper that tells the next service what this one
// knows about the request: the priority that its context carries (see
// [WithPriority]; nothing for Normal) and how much time is left until its
// deadline. Fields that the caller has set stay. Nil next means
// http.DefaultTransport.
func (s *Shedder) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{next}
}

type transport struct{ next http.RoundTripper }

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	p := PriorityOf(ctx)
	deadline, ok := ctx.Deadline()
	if p == Normal && !ok {
		return t.next.RoundTrip(r)
	}
	r2 := *r
	r2.Header = r.Header.Clone()
	if r2.Header == nil {
		r2.Header = http.Header{}
	}
	if p != Normal && r2.Header[PriorityHeader] == nil {
		r2.Header[PriorityHeader] = []string{p.String()}
	}
	if ok && r2.Header[TimeoutHeader] == nil {
		ms := max(time.Until(deadline).Milliseconds(), 0)
		r2.Header[TimeoutHeader] = []string{strconv.FormatInt(ms, 10)}
	}
	return t.next.RoundTrip(&r2)
}

// CloseIdleConnections passes on to the wrapped RoundTripper.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
