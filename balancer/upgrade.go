package balancer

import (
	"context"
	"net/http"
)

// switching is the RoundTripper of a proxy. A 101 that httputil.ReverseProxy
// cannot pass on, because nobody asked for it or the client's connection is not
// to be had, stays open there: here it ends with the client's request.
type switching struct{ idleCloser }

type idleCloser interface {
	http.RoundTripper
	CloseIdleConnections()
}

func (s switching) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := s.idleCloser.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		conn := resp.Body
		context.AfterFunc(req.Context(), func() { _ = conn.Close() })
	}
	return resp, err
}

// dropUpgrade makes of h the header of a request that stays what it is.
func dropUpgrade(h http.Header) {
	h.Del("Upgrade")
	h.Del("Connection")
}
