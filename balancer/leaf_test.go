package balancer_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestTLSNameIsRightWhenDiallingByAddress(t *testing.T) {
	var name atomic.Pointer[string]
	var proto atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		name.Store(&r.TLS.ServerName)
		proto.Store(int64(r.ProtoMajor))
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	cert := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cert}, ForceAttemptHTTP2: true}
	b := pool(t, balancer.Config{Backends: []balancer.Backend{{URL: s.URL, ServerName: "example.com"}}})
	rt := b.Transport(tr)
	require.Equal(t, 200, do(rt, http.MethodGet))
	require.Equal(t, "example.com", *name.Load())
	require.EqualValues(t, 2, proto.Load(), "HTTP/2")
	rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
	require.Empty(t, tr.TLSClientConfig.ServerName, "the user's transport is not touched")
}

func TestIdleConnectionsAreEnough(t *testing.T) {
	var opened atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	rt := pool(t, balancer.Config{Backends: balancer.URLs(s.URL)}).Transport(nil)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 30 {
				do(rt, http.MethodGet)
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, opened.Load(), int64(256), "for 1920 requests, 64 at a time; with two idle ones it is a thousand")
}

func TestH2CAndBasePathAndHost(t *testing.T) {
	var got atomic.Pointer[http.Request]
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got.Store(r) }))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.Protocols.SetHTTP1(true)
	s.Start()
	t.Cleanup(s.Close)
	b := pool(t, balancer.Config{Backends: []balancer.Backend{{URL: strings.Replace(s.URL, "http", "h2c", 1) + "/base/", Host: "inner.example"}}})
	req, _ := http.NewRequest(http.MethodGet, "http://outer.example/a%2Fb/c?q=1", nil)
	resp, err := b.Transport(nil).RoundTrip(req)
	require.NoError(t, err)
	_ = resp.Body.Close()
	r := got.Load()
	require.Equal(t, "HTTP/2.0", r.Proto)
	require.Equal(t, "/base/a%2Fb/c?q=1", r.RequestURI)
	require.Equal(t, "inner.example", r.Host)
	require.Equal(t, "http://outer.example/a%2Fb/c?q=1", req.URL.String(), "the caller's request is not touched")
}

func TestConnectionsAreRenewedAtMaxConnAge(t *testing.T) {
	var mu sync.Mutex
	peers := map[string]bool{}
	url := server(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		peers[r.RemoteAddr] = true
		mu.Unlock()
	})
	now := time.Unix(1e9, 0)
	b := pool(t, balancer.Config{Backends: balancer.URLs(url), MaxConnAge: time.Minute, Now: func() time.Time { return now }})
	rt := b.Transport(nil)
	for range 3 {
		for range 5 {
			require.Equal(t, 200, do(rt, http.MethodGet))
		}
		now = now.Add(61 * time.Second)
	}
	require.Len(t, peers, 3)
}

func TestWrapGoesAroundEachBackendsTransport(t *testing.T) {
	var seen atomic.Int64
	url := server(t, func(http.ResponseWriter, *http.Request) {})
	b := pool(t, balancer.Config{Backends: balancer.URLs(url), Wrap: func(d balancer.Backend, next http.RoundTripper) http.RoundTripper {
		require.Equal(t, url, d.URL)
		return roundTripper(func(r *http.Request) (*http.Response, error) { seen.Add(1); return next.RoundTrip(r) })
	}})
	require.Equal(t, 200, do(b.Transport(nil), http.MethodGet))
	require.EqualValues(t, 1, seen.Load())
}
