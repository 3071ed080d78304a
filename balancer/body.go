package balancer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
)

// body is a response's body. The request is in flight until it ends.
type body struct {
	io.ReadCloser
	b      *Balancer
	e      *Endpoint
	ctx    context.Context // of the request that was made of us
	cancel context.CancelCauseFunc
	upload *sending // the request's body, if it has one
	closed atomic.Bool
	ended  atomic.Bool
}

// duplex is the body of a 101: the connection itself.
type duplex struct {
	*body
	io.Writer
}

// CloseWrite lets httputil.ReverseProxy pass on that the client has sent all.
func (d duplex) CloseWrite() error {
	if w, ok := d.Writer.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return fmt.Errorf("balancer: CloseWrite: %w", http.ErrNotSupported)
}

func newBody(b *Balancer, x *exchange, e *Endpoint, resp *http.Response, cancel context.CancelCauseFunc) io.ReadCloser {
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	y := &body{ReadCloser: resp.Body, b: b, e: e, ctx: x.req.Context(), cancel: cancel}
	if x.body != nil {
		y.upload = x.body.latest()
	}
	if w, ok := resp.Body.(io.Writer); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		return duplex{y, w}
	}
	if resp.Body == http.NoBody {
		y.end()
	}
	return y
}

func (y *body) Read(p []byte) (int, error) {
	n, err := y.ReadCloser.Read(p)
	if err != nil {
		if err == io.EOF {
			if y.e.broken.Load() != 0 {
				y.e.broken.Store(0)
			}
		} else if y.ctx.Err() == nil && !y.closed.Load() && !y.ended.Load() &&
			(y.upload == nil || !y.upload.r.broke()) {
			y.b.brokeOff(y.e)
		}
		y.end()
	}
	return n, err
}

func (y *body) Close() error {
	if y.closed.Swap(true) { // and a Read that is cut off by it blames nobody
		return nil
	}
	err := y.ReadCloser.Close()
	y.end()
	return err
}

func (y *body) end() {
	if y.ended.CompareAndSwap(false, true) {
		if y.cancel != nil {
			y.cancel(nil)
		}
		if y.upload != nil {
			y.upload.answered()
		}
		y.b.ended(y.e)
	}
}
