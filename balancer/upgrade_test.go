package balancer_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// ask sends a GET with some header lines and returns the status.
func ask(t testing.TB, url, header string) int {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n"+header+"\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	return resp.StatusCode
}

func TestASwitchOfProtocolsThatTheProxyCannotPassOnEnds(t *testing.T) {
	left := make(chan struct{}, 10)
	url := server(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _ := upgrade(w, "echo")
		defer conn.Close()
		_, _ = io.Copy(io.Discard, conn)
		left <- struct{}{}
	})
	b := pool(t, balancer.Config{Backends: balancer.URLs(url)})
	s := balancer.Split(balancer.Share{Pool: b, Weight: 1})
	for _, proxy := range []http.Handler{b.Proxy(), s.Proxy()} {
		plain := httptest.NewServer(proxy)
		t.Cleanup(plain.Close)
		wrapped := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			proxy.ServeHTTP(struct{ http.ResponseWriter }{w}, r) // a middleware that hides Hijack
		}))
		t.Cleanup(wrapped.Close)
		for _, c := range []struct{ url, header string }{
			{plain.URL, "Connection: Upgrade\r\nUpgrade: other\r\n"},
			{wrapped.URL, "Connection: Upgrade\r\nUpgrade: echo\r\n"},
		} {
			require.Equal(t, http.StatusBadGateway, ask(t, c.url, c.header))
			<-left // the backend's connection is closed
			require.True(t, eventually(func() bool { return b.Stats().InFlight == 0 }))
		}
	}
}

func TestASwitchThatNobodyAskedForIsAFailure(t *testing.T) {
	url := server(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _ := upgrade(w, "echo")
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	})
	good := server(t, func(http.ResponseWriter, *http.Request) {})
	b := pool(t, balancer.Config{Backends: balancer.URLs(url, good), Policy: first{}})
	require.Equal(t, 200, get(t, b.Proxy(), "/").Code)
	s := b.Stats()
	require.EqualValues(t, 1, s.Failure)
	require.EqualValues(t, 1, s.Success)
	require.Zero(t, s.InFlight)
}

func TestAnUpgradeGoesNowhereThatItCannotBeMade(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header["Upgrade"])+len(r.Header["Connection"])+len(r.Header["Http2-Settings"]) > 0 {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	plain := httptest.NewServer(ok)
	t.Cleanup(plain.Close)
	h2c := httptest.NewUnstartedServer(ok)
	h2c.Config.Protocols = new(http.Protocols)
	h2c.Config.Protocols.SetUnencryptedHTTP2(true)
	h2c.Start()
	t.Cleanup(h2c.Close)
	h2 := httptest.NewUnstartedServer(ok)
	h2.EnableHTTP2 = true
	h2.StartTLS()
	t.Cleanup(h2.Close)
	for _, c := range []struct{ url, to string }{
		{plain.URL, "h2c"}, {h2.URL, "h2c"},
		{strings.Replace(h2c.URL, "http", "h2c", 1), "h2c"}, {strings.Replace(h2c.URL, "http", "h2c", 1), "websocket"},
	} {
		b := pool(t, balancer.Config{Backends: balancer.URLs(c.url), Transport: h2.Client().Transport.(*http.Transport)})
		front := httptest.NewServer(b.Proxy())
		t.Cleanup(front.Close)
		require.Equal(t, 200, ask(t, front.URL, "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: "+c.to+"\r\n"), c)
		require.Zero(t, b.Stats().Failure)
	}
}
