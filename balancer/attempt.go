package balancer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// An exchange is one request on its way through one or more attempts.
type exchange struct {
	t    *transport
	req  *http.Request
	body *replay // nil if there is no body
	safe bool    // the request may be sent twice
}

// An attempt is what came of one of them.
type attempt struct {
	lease  Lease
	resp   *http.Response
	err    error
	sent   bool // a backend may have seen it
	ignore bool // the client went away
}

// discard closes the body of a response that is not passed on. A short one is
// read, so that the connection can be used again, but not waited for.
func discard(resp *http.Response) {
	if resp == nil {
		return
	}
	if resp.ContentLength >= 0 && resp.ContentLength <= 4<<10 {
		late := time.AfterFunc(50*time.Millisecond, func() { _ = resp.Body.Close() })
		_, _ = io.CopyN(io.Discard, resp.Body, resp.ContentLength+1)
		late.Stop()
	}
	resp.Body.Close()
}

// outgoing is a request as a backend gets it, in one allocation.
type outgoing struct {
	req http.Request
	url url.URL
}

// try makes one attempt, bounded by Retry.PerTry.
func (x *exchange) try(l Lease) attempt {
	perTry := x.t.b.cfg.Retry.PerTry
	if perTry <= 0 {
		return x.send(x.req.Context(), nil, l)
	}
	ctx, cancel := context.WithCancelCause(x.req.Context())
	return x.timed(ctx, cancel, l)
}

// timed is send, bounded by Retry.PerTry.
func (x *exchange) timed(ctx context.Context, cancel context.CancelCauseFunc, l Lease) attempt {
	perTry := x.t.b.cfg.Retry.PerTry
	if perTry <= 0 {
		return x.send(ctx, cancel, l)
	}
	timer := time.AfterFunc(perTry, func() { cancel(errPerTry) })
	a := x.send(ctx, cancel, l)
	if !timer.Stop() && a.resp != nil {
		// The header came as the time ran out: the body is cut off already.
		_ = a.resp.Body.Close()
		a.resp, a.err = nil, errPerTry
	}
	return a
}

// send sends the request to the lease's endpoint. Cancel, if there is one, is
// called when the response's body has ended.
func (x *exchange) send(ctx context.Context, cancel context.CancelCauseFunc, l Lease) (a attempt) {
	t, b, e := x.t, x.t.b, l.e
	a = attempt{lease: l, sent: true}
	var resp *http.Response
	told, settled := false, false
	defer func() {
		if settled {
			return
		}
		// A panic or Goexit, in a RoundTripper or a hook, goes on up.
		b.ended(e)
		if cancel != nil {
			cancel(nil)
		}
		if resp != nil && resp.Body != nil {
			_ = resp.Body.Close()
		}
		if !told {
			b.answered(&l, Failure, true)
		}
	}()
	g := e.leaf(t, l.began)
	var gotConn *atomic.Bool
	if !x.safe && b.cfg.Retry.Max > 0 {
		// Whether it was sent is what decides about a retry.
		got := new(atomic.Bool)
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { got.Store(true) }})
		gotConn = got
	}
	var err error
	resp, err = ask(g.rt, x.outgoing(ctx, e))
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errPerTry) && x.req.Context().Err() == nil {
			err = cause
		}
		a.err = err
		if gotConn != nil {
			a.sent = gotConn.Load() || !g.exact && !dialFailed(err)
		}
		if dialFailed(err) {
			b.hintDiscover()
		}
	}
	v := Ignored
	a.ignore = errors.Is(x.req.Context().Err(), context.Canceled) || x.body != nil && x.body.broke() ||
		err != nil && errors.Is(context.Cause(ctx), errLost)
	if !a.ignore {
		v = min(b.cfg.Verdict(resp, err), Ignored)
	}
	if v == Refused && resp != nil {
		now := b.now()
		if d := retryAfter(resp.Header, b.base.Add(now)); d > 0 {
			e.rest.Store(int64(now + d))
		}
	}
	told = true
	b.answered(&l, v, v != Ignored && isGateway(resp, err))
	if v == Ignored && err != nil && x.body == nil {
		e.outwaited(b.now(), l.began)
	}
	if v == Success && b.recent != nil {
		b.recent.add(b.now(), b.now()-l.began)
	}
	if err != nil {
		if cancel != nil {
			cancel(nil)
		}
		settled = true
		b.ended(e)
		return a
	}
	if len(resp.Header["Spillway-Draining"]) > 0 {
		if resp.Header.Get("Spillway-Draining") == "1" {
			b.markDraining(e)
		}
		resp.Header.Del("Spillway-Draining")
	}
	resp.Request = x.req
	resp.Body = newBody(b, x, e, resp, cancel)
	a.resp, settled = resp, true
	return a
}

// ask is rt.RoundTrip, but what is against the rules is an error, and beside an
// error there is no response.
func ask(rt http.RoundTripper, req *http.Request) (*http.Response, error) {
	resp, err := rt.RoundTrip(req)
	switch {
	case err != nil:
	case resp == nil:
		return nil, errors.New("balancer: the RoundTripper returned neither a response nor an error")
	case resp.StatusCode == http.StatusSwitchingProtocols && len(req.Header["Upgrade"]) == 0:
		err = errors.New("balancer: the backend switched protocols without being asked to")
	default:
		return resp, nil
	}
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	return nil, err
}

func isGateway(resp *http.Response, err error) bool {
	return err != nil || resp.StatusCode >= 502 && resp.StatusCode <= 504
}

// outgoing returns the request to e. The caller's is not modified.
func (x *exchange) outgoing(ctx context.Context, e *Endpoint) *http.Request {
	in := x.req
	o := new(outgoing)
	if ctx == in.Context() {
		o.req = *in
	} else {
		o.req = *in.WithContext(ctx)
	}
	o.url = *in.URL
	o.req.URL = &o.url
	if o.req.Host == "" {
		o.req.Host = in.URL.Host
	}
	if host := e.Backend().Host; host != "" {
		o.req.Host = host
	}
	o.url.Scheme, o.url.Host = e.url.Scheme, e.url.Host
	if base := e.url.Path; base != "" && base != "/" {
		joinPath(&o.url, e.url)
	}
	if e.h2c && len(in.Header["Upgrade"]) > 0 { // there is no such thing in HTTP/2
		o.req.Header = in.Header.Clone()
		dropUpgrade(o.req.Header)
	}
	if x.body != nil {
		o.req.Body = x.body.attempt()
		o.req.GetBody = x.body.getBody
	}
	return &o.req
}

// joinPath puts the path of base in front of that of u, escaped as they were.
func joinPath(u, base *url.URL) {
	escaped := strings.TrimSuffix(base.EscapedPath(), "/") + "/" + strings.TrimPrefix(u.EscapedPath(), "/")
	u.Path = strings.TrimSuffix(base.Path, "/") + "/" + strings.TrimPrefix(u.Path, "/")
	if u.RawPath = escaped; escaped == (&url.URL{Path: u.Path}).EscapedPath() {
		u.RawPath = ""
	}
}
