package balancer

import (
	"context"
	"net/http"
)

// Transport returns a RoundTripper that sends each request to a backend. The
// scheme, host and base path of the request's URL are replaced by the
// backend's; the Host header stays, unless Backend.Host is set.
//
// If next is an [*http.Transport], each backend gets a clone of its own, with
// room for 256 idle connections unless its MaxIdleConnsPerHost says how many,
// and with the right TLS name, and it is closed when the backend has left. Any
// other next is shared by all backends and gets the rewritten requests. Nil
// means Config.Transport.
//
// What it returns is meant to be kept: each call makes new connections.
func (b *Balancer) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		return b.own()
	}
	t := &transport{b: b}
	if std, ok := next.(*http.Transport); ok {
		t.model = model(std)
	} else {
		t.shared = next
	}
	return t
}

// own returns the transport that probes and the proxy use.
func (b *Balancer) own() *transport {
	b.proxy.once.Do(func() { b.proxy.t = &transport{b: b, model: model(b.cfg.Transport)} })
	return b.proxy.t
}

type transport struct {
	b      *Balancer
	model  *http.Transport   // to be cloned, or
	shared http.RoundTripper // to be used as it is
}

// CloseIdleConnections closes the idle connections to every backend.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.shared.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
	for _, e := range t.b.view.Load().members {
		for _, l := range *e.leaves.Load() {
			if l.of == t {
				closeIdle(l.now.Load())
				closeIdle(l.before.Load())
			}
		}
	}
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	b := t.b
	if err := req.Context().Err(); err != nil {
		closeBody(req)
		return nil, context.Cause(req.Context())
	}
	x := exchange{t: t, req: req, safe: idempotent(req)}
	if req.Body != nil && req.Body != http.NoBody {
		keep := int64(0)
		if x.safe && b.cfg.Retry.Max > 0 {
			keep = b.cfg.Retry.MaxBody
		}
		x.body = newReplay(req, keep)
	}
	answered := false
	defer func() {
		if !answered {
			x.close() // also if a Picker or a RoundTripper panics
		}
	}()
	rnd := b.rand()
	b.budget.deposit(rnd)
	if b.hedges != nil {
		b.hedges.deposit(rnd)
	}
	a := attempt{}
	a.lease, a.err = b.acquire(req, tried{}, x.safe && b.cfg.Retry.Max > 0)
	if a.err != nil {
		return nil, a.err
	}
	for n := 0; ; n++ {
		if n == 0 && b.hedges != nil && x.safe && x.body == nil {
			a = x.race(a.lease)
		} else {
			a = x.try(a.lease)
		}
		if n >= b.cfg.Retry.Max || !x.again(&a) {
			break
		}
		// The budget is charged when the retry is decided, before the pause.
		if !b.another(&a.lease.tried) || !b.mayRetry() {
			break
		}
		if x.body != nil && !x.body.rewind() {
			break
		}
		discard(a.resp)
		if !b.pause(req.Context(), n) {
			return nil, context.Cause(req.Context())
		}
		next, err := b.acquire(req, a.lease.tried, true)
		if err != nil {
			if a.resp == nil {
				return nil, a.err
			}
			return nil, err
		}
		a.lease = next
	}
	if a.resp == nil {
		return nil, a.err
	}
	answered = true
	if x.body != nil {
		x.body.settle() // it may go on being sent while the response is read
	}
	if b.cfg.Sticky.Cookie != "" {
		b.stick(req, a.resp, a.lease.e)
	}
	return a.resp, nil
}

// again reports whether the request of a may be sent once more.
func (x *exchange) again(a *attempt) bool {
	switch {
	case a.ignore || x.req.Context().Err() != nil:
		return false
	case !x.safe && a.sent:
		return false
	case x.body != nil && !x.body.again():
		return false
	case a.resp != nil && a.resp.StatusCode == http.StatusSwitchingProtocols:
		return false
	}
	return x.when(a)
}

// when asks Retry.When. Should it panic, nobody else will close the response.
func (x *exchange) when(a *attempt) bool {
	asked := false
	defer func() {
		if !asked && a.resp != nil {
			_ = a.resp.Body.Close()
		}
	}()
	again := x.t.b.cfg.Retry.When(a.resp, a.err)
	asked = true
	return again
}

// close closes the body of a request that is not sent again.
func (x *exchange) close() {
	if x.body != nil {
		x.body.finish()
	}
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}
