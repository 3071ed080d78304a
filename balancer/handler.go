package balancer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Proxy returns a reverse proxy to the backends. It is the standard library's,
// so flushing, rewriting, and the response can be tuned on what it returns.
// Call it once: each call makes new connections.
//
// The Host header is passed on. X-Forwarded-For, -Host and -Proto are set to
// what this process sees; what the client sent in them is dropped, unless it
// comes from Config.TrustedProxies: then it is kept and added to. Upgrades are
// passed on, such as those to WebSocket, but not one to h2c: behind it are
// requests that nobody in between can see, and RFC 9113 has given it up.
//
// If there is no answer to pass on, the client gets 504 if time ran out, 503 if
// no backend was available, 413 if its body was larger than an outer
// [http.MaxBytesReader] allows, and 502 otherwise, with Retry-After and a line
// that names no backend and no cause; or what Config.Fallback writes. If the
// client itself has gone away there is nobody to answer: the handler panics
// with [http.ErrAbortHandler], as net/http does, so that no cache or log in
// front of it mistakes an empty answer for a real one.
func (b *Balancer) Proxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:      b.rewrite,
		Transport:    switching{b.own()},
		BufferPool:   new(buffers),
		ErrorHandler: b.answerError,
	}
}

func (b *Balancer) rewrite(pr *httputil.ProxyRequest) {
	if strings.EqualFold(pr.Out.Header.Get("Upgrade"), "h2c") {
		dropUpgrade(pr.Out.Header)
	}
	if b.trusts(pr.In.RemoteAddr) {
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
			if v := pr.In.Header[name]; v != nil {
				pr.Out.Header[name] = v
			}
		}
	}
	host, proto := pr.Out.Header["X-Forwarded-Host"], pr.Out.Header["X-Forwarded-Proto"]
	pr.SetXForwarded()
	if host != nil {
		pr.Out.Header["X-Forwarded-Host"] = host
	}
	if proto != nil {
		pr.Out.Header["X-Forwarded-Proto"] = proto
	}
}

func (b *Balancer) trusts(remote string) bool {
	if len(b.cfg.TrustedProxies) == 0 {
		return false
	}
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	addr := at.Addr().Unmap().WithZone("") // no prefix contains one with a zone
	return slices.ContainsFunc(b.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// answerError is the proxy's ErrorHandler.
func (b *Balancer) answerError(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(r.Context().Err(), context.Canceled) {
		panic(http.ErrAbortHandler)
	}
	code, text := http.StatusBadGateway, "the service did not give a valid answer"
	retry := time.Second
	none, noBackend := errors.AsType[*NoBackendError](err)
	_, tooBig := errors.AsType[*http.MaxBytesError](err)
	timeout, network := errors.AsType[net.Error](err)
	switch {
	case noBackend:
		code, text, retry = http.StatusServiceUnavailable, "the service is not available at the moment", none.RetryAfter()
	case tooBig:
		code, text, retry = http.StatusRequestEntityTooLarge, "the request is too large", 0
	case errors.Is(err, context.DeadlineExceeded), errors.Is(r.Context().Err(), context.DeadlineExceeded), network && timeout.Timeout():
		code, text = http.StatusGatewayTimeout, "the service did not answer in time"
	}
	h := w.Header()
	if retry > 0 {
		h.Set("Retry-After", fmt.Sprint(int64((retry+time.Second-1)/time.Second)))
	}
	h.Set("X-Content-Type-Options", "nosniff")
	if b.cfg.Fallback != nil {
		b.cfg.Fallback.ServeHTTP(w, r)
		return
	}
	body := text + "\n"
	if wantsProblem(r) {
		h.Set("Content-Type", "application/problem+json")
		body = fmt.Sprintf("{\"title\":%q,\"status\":%d,\"detail\":%q}\n", http.StatusText(code), code, text)
	} else {
		h.Set("Content-Type", "text/plain; charset=utf-8")
	}
	h.Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		_, _ = w.Write([]byte(body))
	}
}

// wantsProblem reports whether the client asks for JSON.
func wantsProblem(r *http.Request) bool {
	for _, accept := range r.Header["Accept"] {
		if strings.Contains(accept, "application/json") || strings.Contains(accept, "application/problem+json") {
			return true
		}
	}
	return false
}

// buffers is the proxy's httputil.BufferPool.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

func (p *buffers) Get() []byte {
	if b, ok := p.pool.Get().(*[bufferSize]byte); ok {
		return b[:]
	}
	return make([]byte, bufferSize)
}

func (p *buffers) Put(b []byte) {
	if len(b) == bufferSize {
		p.pool.Put((*[bufferSize]byte)(b))
	}
}
