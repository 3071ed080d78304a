package balancer_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// fails is a backend that accepts a connection and breaks it after the request.
func fails(t testing.TB, n *atomic.Int64) string {
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		n.Add(1)
		panic(http.ErrAbortHandler)
	})
}

// refuses returns the URL of a port that nobody listens on.
func refuses(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestPostIsNotSentTwice(t *testing.T) {
	var sent, good atomic.Int64
	b := pool(t, balancer.Config{Backends: balancer.URLs(fails(t, &sent), server(t, counts(&good, 200))), Policy: balancer.RoundRobin(),
		Eject: balancer.Eject{Consecutive: -1}})
	p := b.Proxy()
	failed := 0
	for range 40 {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("pay once")))
		if w.Code == http.StatusBadGateway {
			failed++
		}
	}
	require.EqualValues(t, 20, failed)
	require.EqualValues(t, 20, sent.Load())
	require.EqualValues(t, 20, good.Load())
	require.Zero(t, b.Stats().Retries)
}

func TestPostToARefusedPortGoesToAnotherBackendWithItsBody(t *testing.T) {
	var got atomic.Int64
	good := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) == "pay once" {
			got.Add(1)
		}
	})
	p := pool(t, balancer.Config{Backends: balancer.URLs(refuses(t), good), Policy: balancer.RoundRobin()}).Proxy()
	for range 10 {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("pay once")))
		require.Equal(t, 200, w.Code)
	}
	require.EqualValues(t, 10, got.Load())
}

func TestPutIsReplayedFromWhatWasKept(t *testing.T) {
	var sent, got atomic.Int64
	body := strings.Repeat("x", 60<<10)
	good := server(t, func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); string(b) == body {
			got.Add(1)
		}
	})
	p := pool(t, balancer.Config{Backends: balancer.URLs(fails(t, &sent), good), Policy: balancer.RoundRobin()}).Proxy()
	for range 6 {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/", strings.NewReader(body)))
		require.Equal(t, 200, w.Code)
	}
	require.EqualValues(t, 6, got.Load())
	require.EqualValues(t, 5, sent.Load(), "the fifth failure ejects it")
}

func TestDrainingBackendIsLeftOutAtOnce(t *testing.T) {
	var a, b atomic.Int64
	leaving := server(t, func(w http.ResponseWriter, _ *http.Request) {
		a.Add(1)
		w.Header().Set("Spillway-Draining", "1")
	})
	bal := pool(t, balancer.Config{Backends: balancer.URLs(leaving, server(t, counts(&b, 200))), Policy: balancer.RoundRobin()})
	p := bal.Proxy()
	for range 20 {
		w := get(t, p, "/")
		require.Equal(t, 200, w.Code)
		require.Empty(t, w.Header().Get("Spillway-Draining"))
	}
	require.EqualValues(t, 1, a.Load())
	require.EqualValues(t, 19, b.Load())
	require.Equal(t, balancer.Draining, bal.Backends()[0].State)
}

func TestDrainingBackendsAreTheLastResort(t *testing.T) {
	leaving := func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Spillway-Draining", "1") }
	for _, n := range []int{1, 2} {
		var urls []string
		for range n {
			urls = append(urls, server(t, leaving))
		}
		b := pool(t, balancer.Config{Backends: balancer.URLs(urls...)})
		for range 10 {
			require.Equal(t, 200, get(t, b.Proxy(), "/").Code, "%d, and all are leaving", n)
		}
		require.True(t, b.Stats().Panic)
		require.Zero(t, b.Stats().Available)
	}
	gone := pool(t, balancer.Config{Backends: []balancer.Backend{{URL: server(t, leaving), Drain: true}}})
	require.Equal(t, 503, get(t, gone.Proxy(), "/").Code, "but not those that were told to drain")
}

func TestErrorsAreToldByCauseWithoutInternals(t *testing.T) {
	hangs := server(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	addr := refuses(t)
	for _, c := range []struct {
		name   string
		cfg    balancer.Config
		accept string
		code   int
		body   string
	}{
		{"refused", balancer.Config{Backends: balancer.URLs(addr)}, "", 502, "the service did not give a valid answer\n"},
		{"none", balancer.Config{Backends: []balancer.Backend{{URL: addr, Drain: true}}}, "", 503, "the service is not available at the moment\n"},
		{"timeout", balancer.Config{Backends: balancer.URLs(hangs), Retry: balancer.Retry{PerTry: 20 * time.Millisecond}}, "", 504, "the service did not answer in time\n"},
		{"problem", balancer.Config{Backends: balancer.URLs(addr)}, "application/json", 502,
			"{\"title\":\"Bad Gateway\",\"status\":502,\"detail\":\"the service did not give a valid answer\"}\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			if c.accept != "" {
				r.Header.Set("Accept", c.accept)
			}
			w := httptest.NewRecorder()
			pool(t, c.cfg).Proxy().ServeHTTP(w, r)
			require.Equal(t, c.code, w.Code)
			require.Equal(t, c.body, w.Body.String())
			require.NotContains(t, w.Body.String(), "127.0.0.1")
			require.NotEmpty(t, w.Header().Get("Retry-After"))
			require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		})
	}
}

func TestATimeThatRanOutForAReasonIsA504Too(t *testing.T) {
	hangs := server(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("the budget is spent"))
	defer cancel()
	w := httptest.NewRecorder()
	pool(t, balancer.Config{Backends: balancer.URLs(hangs)}).Proxy().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
	require.Equal(t, http.StatusGatewayTimeout, w.Code)
}

func TestClientThatGoesAwayCountsAsNothing(t *testing.T) {
	arrived := make(chan struct{})
	gone := make(chan struct{})
	b := pool(t, balancer.Config{Backends: balancer.URLs(server(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done() // the cancellation travels on
		close(gone)
	}))})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		b.Proxy().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
	})
	<-gone
	s := b.Stats()
	require.EqualValues(t, 1, s.Ignored)
	require.Zero(t, s.Success+s.Failure+s.Refused)
	require.Zero(t, s.InFlight)
}

func TestForwardedHeadersAreOursUnlessTheProxyIsTrusted(t *testing.T) {
	var seen http.Header
	url := server(t, func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() })
	ask := func(cfg balancer.Config) http.Header {
		cfg.Backends = balancer.URLs(url)
		r := httptest.NewRequest(http.MethodGet, "http://shop.example/", nil)
		r.RemoteAddr = "192.0.2.7:4711"
		r.Header.Set("X-Forwarded-For", "10.9.9.9")
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-Host", "www.example")
		pool(t, cfg).Proxy().ServeHTTP(httptest.NewRecorder(), r)
		return seen
	}
	h := ask(balancer.Config{})
	require.Equal(t, "192.0.2.7", h.Get("X-Forwarded-For"))
	require.Equal(t, "http", h.Get("X-Forwarded-Proto"))
	require.Equal(t, "shop.example", h.Get("X-Forwarded-Host"))
	h = ask(balancer.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	require.Equal(t, "10.9.9.9, 192.0.2.7", h.Get("X-Forwarded-For"))
	require.Equal(t, "https", h.Get("X-Forwarded-Proto"))
	require.Equal(t, "www.example", h.Get("X-Forwarded-Host"))
}

func TestATrustedProxyIsKnownHoweverItsAddressIsWritten(t *testing.T) {
	var seen string
	url := server(t, func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Get("X-Forwarded-For") })
	for _, c := range []struct{ prefix, remote, want string }{
		{"10.0.0.0/8", "[::ffff:10.1.2.3]:99", "192.0.2.1, ::ffff:10.1.2.3"},
		{"::ffff:10.0.0.0/104", "10.1.2.3:99", "192.0.2.1, 10.1.2.3"},
		{"::ffff:10.0.0.0/104", "11.1.2.3:99", "11.1.2.3"},
		{"fe80::/10", "[fe80::1%eth0]:99", "192.0.2.1, fe80::1%eth0"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.remote
		r.Header.Set("X-Forwarded-For", "192.0.2.1")
		b := pool(t, balancer.Config{Backends: balancer.URLs(url), TrustedProxies: []netip.Prefix{netip.MustParsePrefix(c.prefix)}})
		b.Proxy().ServeHTTP(httptest.NewRecorder(), r)
		require.Equal(t, c.want, seen, c)
	}
}

func TestUpgradeStreamsAndTrailersPassThrough(t *testing.T) {
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/upgrade":
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "echo")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			line, _ := rw.ReadString('\n')
			_, _ = rw.WriteString("echo " + line)
			_ = rw.Flush()
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/trailer":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Sum", "42")
		case "/early":
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusOK)
		}
	})
	b := pool(t, balancer.Config{Backends: balancer.URLs(url)})
	front := httptest.NewServer(b.Proxy())
	t.Cleanup(front.Close)
	client := front.Client()

	t.Run("upgrade", func(t *testing.T) {
		conn, err := net.Dial("tcp", front.Listener.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		br := bufio.NewReader(conn)
		resp, err := http.ReadResponse(br, nil)
		require.NoError(t, err)
		require.Equal(t, 101, resp.StatusCode)
		require.Equal(t, 1, b.Stats().InFlight)
		_, _ = io.WriteString(conn, "hello\n")
		line, err := br.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "echo hello\n", line)
	})
	t.Run("events", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, front.URL+"/events", nil)
		resp, err := client.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		line, err := bufio.NewReader(resp.Body).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "data: 1\n", line) // and the response is still open
	})
	t.Run("trailer", func(t *testing.T) {
		resp, err := client.Get(front.URL + "/trailer")
		require.NoError(t, err)
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		require.Equal(t, "42", resp.Trailer.Get("X-Sum"))
	})
	t.Run("early hints", func(t *testing.T) {
		conn, err := net.Dial("tcp", front.Listener.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /early HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		all, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(all), "HTTP/1.1 103 "), string(all))
		require.Contains(t, string(all), "HTTP/1.1 200 OK")
	})
}

func TestBodyThatTheClientBreaksOffIsNotTheBackendsFault(t *testing.T) {
	b := pool(t, balancer.Config{Backends: balancer.URLs(server(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))})
	req, _ := http.NewRequest(http.MethodPut, "http://x/", io.MultiReader(strings.NewReader("half"), brokenReader{}))
	_, err := b.Transport(nil).RoundTrip(req)
	require.Error(t, err)
	s := b.Stats()
	require.EqualValues(t, 1, s.Ignored)
	require.Zero(t, s.Failure+s.Retries)
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the client hung up") }
