package breaker

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// Transport returns a RoundTripper that sends requests through next, or through
// [http.DefaultTransport] if next is nil, while their host's circuit lets it. It
// fails with an [*OpenError] otherwise, which [errors.As] finds inside the
// error of an [http.Client].
//
// Each host has a circuit of its own, unless Config.Key says otherwise. A
// response counts when its body has come to its end or is closed; see
// Config.HeadersOnly and [DefaultJudge]. A request that its own context has
// cancelled counts as nothing, one that was too late for its deadline is a
// failure.
func (b *Breaker) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{b: b, next: next}
}

type transport struct {
	b    *Breaker
	next http.RoundTripper
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	f := t.b.fam
	b := t.b
	now := f.now()
	switch {
	case b != f.root: // a circuit that the caller has chosen
	case f.cfg.Key != nil:
		b = f.find(f.cfg.Key(r), now)
	case r.URL != nil:
		b = f.lookup(keyOf(r.URL), now)
	}
	var c call
	if no := c.enter(b, now); no != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, no
	}
	return t.send(r, &c)
}

func (t *transport) send(r *http.Request, c *call) (*http.Response, error) {
	f := c.b.fam
	ctx := r.Context()
	settled := false
	var resp *http.Response
	defer func() {
		if settled {
			return
		}
		c.abandon(ctx)
		if resp != nil && resp.Body != nil { // a Judge panicked: nobody gets to see it
			_ = resp.Body.Close()
		}
	}()
	resp, err := t.next.RoundTrip(r)
	switch {
	case err != nil:
		c.finish(ctx, err)
		settled = true
		return resp, err
	case resp == nil: // which an http.Client makes an error of
		c.finish(ctx, errNoResponse)
		settled = true
		return nil, nil
	}
	if !f.cfg.SlowToEnd {
		c.answered()
	}
	v := c.judge(ctx, Outcome{Status: resp.StatusCode, Header: resp.Header})
	if v != Success || f.cfg.HeadersOnly || resp.Body == nil || resp.Body == http.NoBody ||
		resp.StatusCode == http.StatusSwitchingProtocols {
		c.end(v, c.asked(resp.StatusCode, resp.Header))
		settled = true
		return resp, nil
	}
	settled = true
	resp.Body = &body{ReadCloser: resp.Body, c: *c, r: r, header: resp.Header, status: int32(resp.StatusCode)}
	return resp, nil
}

var errNoResponse = errors.New("the RoundTripper returned neither a response nor an error")

// CloseIdleConnections is what [http.Client.CloseIdleConnections] calls.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// A body ends its call when it is read to the end, breaks off, or is closed.
type body struct {
	io.ReadCloser
	c      call
	r      *http.Request
	header http.Header
	status int32
	ended  atomic.Bool // Close may come while Read is running
}

func (b *body) Read(p []byte) (n int, err error) {
	err = errPanicked
	defer func() {
		if err != nil {
			b.end(err)
		}
	}()
	n, err = b.ReadCloser.Read(p)
	return n, err
}

func (b *body) Close() error {
	defer b.end(io.EOF)
	return b.ReadCloser.Close()
}

func (b *body) end(err error) {
	if !b.ended.CompareAndSwap(false, true) {
		return
	}
	ctx := b.r.Context()
	defer b.c.abandon(ctx) // a Judge may panic, or the body did
	if err == errPanicked {
		return
	}
	if err != io.EOF {
		v := b.c.judge(ctx, Outcome{Status: int(b.status), Header: b.header, Err: err})
		b.c.end(v, b.c.askedBy(err))
		return
	}
	v := Success
	if gone(ctx) {
		v = Ignore
	}
	b.c.end(v, 0)
}
