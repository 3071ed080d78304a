package balancer

import (
	"context"
	"net/http"
	"net/http/httputil"
)

// Transport returns a RoundTripper that sends each request through the pool
// that it belongs to, by that pool's own Config.Transport.
func (s *Splitter) Transport() http.RoundTripper { return splitTransport{s} }

type splitTransport struct{ s *Splitter }

func (t splitTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if b, ok := req.Context().Value(poolKey{}).(*Balancer); ok {
		return b.own().RoundTrip(req)
	}
	return t.pick(req).own().RoundTrip(req)
}

// pick is Splitter.Pick. Should a Rule or the Key panic, nobody else will close
// the body.
func (t splitTransport) pick(req *http.Request) *Balancer {
	picked := false
	defer func() {
		if !picked {
			closeBody(req)
		}
	}()
	b := t.s.Pick(req)
	picked = true
	return b
}

func (t splitTransport) CloseIdleConnections() {
	p := t.s.plan.Load()
	for _, x := range p.shares {
		x.Pool.own().CloseIdleConnections()
	}
	for _, x := range p.rules {
		x.To.own().CloseIdleConnections()
	}
}

// Proxy returns a reverse proxy to the pools; see [Balancer.Proxy]. The pool
// that a request goes to also decides which proxies are trusted and how errors
// are answered.
func (s *Splitter) Proxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		BufferPool: new(buffers),
		Transport:  switching{splitTransport{s}},
		Rewrite: func(pr *httputil.ProxyRequest) {
			b := s.Pick(pr.In)
			pr.Out = pr.Out.WithContext(context.WithValue(pr.Out.Context(), poolKey{}, b))
			b.rewrite(pr)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			b, ok := r.Context().Value(poolKey{}).(*Balancer)
			if !ok {
				b, _ = s.plan.Load().pick(r, s.key)
			}
			b.answerError(w, r, err)
		},
	}
}

// poolKey is the context key of the pool that the proxy has picked.
type poolKey struct{}
