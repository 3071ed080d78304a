package balancer_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestBigBodiesAreStreamedBothWays(t *testing.T) {
	const size = 32 << 20
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, _ := io.Copy(h, r.Body)
		if n == size {
			w.Header().Set("X-Sum", string(h.Sum(nil)[:1]))
		}
		_, _ = io.CopyN(w, zeros{}, size)
	})
	b := pool(t, balancer.Config{Backends: balancer.URLs(url)})
	front := httptest.NewServer(b.Proxy())
	t.Cleanup(front.Close)
	for _, method := range []string{http.MethodPost, http.MethodPut} {
		req, _ := http.NewRequest(method, front.URL, io.LimitReader(zeros{}, size))
		resp, err := front.Client().Do(req)
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		_ = resp.Body.Close()
		require.EqualValues(t, size, n)
		require.Zero(t, b.Stats().Failure)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestRequestAndResponseFlowAtTheSameTime(t *testing.T) {
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		w.WriteHeader(200)
		_ = c.Flush()
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, "echo "+line)
			_ = c.Flush()
		}
	})
	rt := pool(t, balancer.Config{Backends: balancer.URLs(url, url+"/")}).Transport(nil)
	for _, method := range []string{http.MethodPost, http.MethodPut} { // of which one could be retried
		pr, pw := io.Pipe()
		req, _ := http.NewRequest(method, "http://x/", pr)
		resp, err := rt.RoundTrip(req)
		require.NoError(t, err)
		out := bufio.NewReader(resp.Body)
		for _, word := range []string{"one\n", "two\n"} {
			_, err = io.WriteString(pw, word)
			require.NoError(t, err)
			line, err := out.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "echo "+word, line)
		}
		_ = pw.Close()
		_, err = out.ReadString('\n')
		require.ErrorIs(t, err, io.EOF)
		_ = resp.Body.Close()
	}
}

func TestExpectContinueIsAskedOfTheBackend(t *testing.T) {
	var read atomic.Bool
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		body, _ := io.ReadAll(r.Body)
		read.Store(string(body) == "body")
	})
	patient := &http.Transport{ExpectContinueTimeout: time.Minute}
	front := httptest.NewServer(pool(t, balancer.Config{Backends: balancer.URLs(url), Transport: patient}).Proxy())
	t.Cleanup(front.Close)
	for path, want := range map[string]string{"/yes": "HTTP/1.1 100 Continue", "/no": "HTTP/1.1 417 Expectation Failed"} {
		conn, err := net.Dial("tcp", front.Listener.Addr().String())
		require.NoError(t, err)
		_, _ = io.WriteString(conn, "PUT "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
		in := bufio.NewReader(conn)
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, want, strings.TrimSpace(line), path)
		if path == "/yes" {
			_, _ = in.ReadString('\n')
			_, _ = io.WriteString(conn, "body")
			line, err = in.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "HTTP/1.1 200 OK", strings.TrimSpace(line))
			require.True(t, read.Load())
		}
		_ = conn.Close()
	}
}

func TestResponseThatBreaksOffIsAFailureAndIsNotHidden(t *testing.T) {
	url := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	good := server(t, func(http.ResponseWriter, *http.Request) {})
	b := pool(t, balancer.Config{Backends: balancer.URLs(url, good), Policy: first{}})
	for range 5 {
		resp, err := b.Transport(nil).RoundTrip(httptest.NewRequest(http.MethodGet, "/", nil))
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, "half", string(body))
		_ = resp.Body.Close()
	}
	require.Zero(t, b.Stats().Retries, "never after the response began")
	require.Equal(t, balancer.Ejected, b.Backends()[0].State)
}

func TestFallbackAnswersWithTheHeaderAlreadySet(t *testing.T) {
	p := pool(t, balancer.Config{Backends: balancer.URLs(refuses(t)), Fallback: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "back soon")
	})}).Proxy()
	w := get(t, p, "/")
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "back soon", w.Body.String())
	require.Equal(t, "1", w.Header().Get("Retry-After"))
}

func TestHeadErrorHasNoBodyAndTooLargeIsTold(t *testing.T) {
	p := pool(t, balancer.Config{Backends: balancer.URLs(refuses(t))}).Proxy()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodHead, "/", nil))
	require.Equal(t, http.StatusBadGateway, w.Code)
	require.Zero(t, w.Body.Len())

	url := server(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	b := pool(t, balancer.Config{Backends: balancer.URLs(url)})
	h := http.MaxBytesHandler(b.Proxy(), 10)
	w = httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(make([]byte, 1000)))
	r.ContentLength = -1
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
	require.EqualValues(t, 1, b.Stats().Ignored, "not the backend's fault")
}

func TestWarmOpensConnectionsBeforeTheFirstRequest(t *testing.T) {
	var conns, requests atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		<-time.After(20 * time.Millisecond) // so that they overlap
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	b := pool(t, balancer.Config{Backends: balancer.URLs(s.URL), Warm: 5})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = b.Run(ctx); close(done) }()
	require.Eventually(t, func() bool { return requests.Load() == 5 }, 10*time.Second, time.Millisecond)
	cancel()
	<-done
	require.GreaterOrEqual(t, conns.Load(), int64(2))
}

func TestHooksAndCallbacksMayUseTheBalancer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *balancer.Balancer
		down := true
		b = must(t, balancer.Config{Backends: many(3), Policy: balancer.RoundRobin(), Healthy: func(d balancer.Backend) bool {
			if b != nil {
				_ = b.Stats()
			}
			return !down || d.URL != many(3)[0].URL
		}})
		shares(b, 10)
		require.Equal(t, balancer.Unhealthy, state(b, 0))
		require.Equal(t, "Config.Healthy says no", b.Backends()[0].Why)
		down = false
		time.Sleep(1100 * time.Millisecond)
		require.Equal(t, balancer.Warming, state(b, 0))
	})
}

func TestConfigErrorsNameFieldValueAndRule(t *testing.T) {
	_, err := balancer.New(balancer.Config{
		PanicShare: 2, ZoneShare: -1, Subset: 3, Warm: -1, MaxConnAge: -1, TrustedProxies: make([]netip.Prefix, 1),
		Eject:  balancer.Eject{Ratio: 1.5, MaxShare: -0.5, MinRequests: -1, SlowerThan: 0.5, Base: time.Minute, Max: time.Second},
		Probe:  balancer.Probe{Path: "healthz", Rise: -1, Every: -1},
		Retry:  balancer.Retry{Max: 8, PerTry: -1},
		Hedge:  balancer.Hedge{Quantile: 1},
		Sticky: balancer.Sticky{Cookie: "a b", Secret: []byte("short")},
	})
	require.EqualError(t, err, strings.TrimSpace(`
balancer: Config.Backends is empty, must name a backend unless Discover is set
balancer: Config.PanicShare is 2, must be at most 1
balancer: Config.ZoneShare is -1, must not be negative
balancer: Config.SubsetKey is empty, must name this process because Subset is set
balancer: Config.Warm is -1, must be from 0 to 1000
balancer: Config.MaxConnAge is -1ns, must not be negative
balancer: Config.Eject.Ratio is 1.5, must be at most 1
balancer: Config.Eject.MaxShare is -0.5, must not be negative
balancer: Config.Eject.MinRequests is -1, must not be negative
balancer: Config.Eject.SlowerThan is 0.5, must be above 1, or 0 for never
balancer: Config.Eject.Max is 1s, must be at least Base, which is 1m0s
balancer: Config.Probe.Path is "healthz", must be a path that starts with /
balancer: Config.Probe.Every is -1ns, must not be negative
balancer: Config.Probe.Rise is -1, must not be negative
balancer: Config.Retry.Max is 8, must be at most 7
balancer: Config.Retry.PerTry is -1ns, must not be negative
balancer: Config.Hedge.Quantile is 1, must be from 0 to below 1
balancer: Config.Sticky.Cookie is "a b", must be a name that a cookie can have
balancer: Config.Sticky.Secret has 5 bytes, must have at least 16
balancer: Config.TrustedProxies[0] is invalid Prefix, must be a valid one`))
	require.PanicsWithError(t, "balancer: Config.Backends is empty, must name a backend unless Discover is set", func() { balancer.MustNew(balancer.Config{}) })
	require.EqualError(t, must(t, balancer.Config{Backends: many(1)}).SetBackends(), "balancer: SetBackends: backends is empty, must name a backend")
	require.EqualError(t, must(t, balancer.Config{Backends: many(1)}).SetBackends(balancer.URLs("http://a", "http://a")...),
		`balancer: SetBackends: backends[1].ID is "http://a", must differ from [0]`)
}

func TestEverythingAtOnce(t *testing.T) {
	var urls []string
	for range 6 {
		urls = append(urls, server(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Fail") != "" {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
	}
	b := pool(t, balancer.Config{
		Backends: balancer.URLs(urls...), SlowStart: time.Millisecond, Probe: balancer.Probe{Path: "/", Every: time.Millisecond},
		Hedge: balancer.Hedge{Quantile: 0.5}, Eject: balancer.Eject{Base: time.Millisecond},
		Sticky:   balancer.Sticky{Cookie: "lb", Secret: make([]byte, 16)},
		OnChange: func(balancer.Change) {},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { _ = b.Run(ctx); close(ran) }()
	rt := b.Transport(nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 150 {
				req, _ := http.NewRequest([]string{http.MethodGet, http.MethodPost, http.MethodPut}[n%3], "http://x/", strings.NewReader("body"))
				if n%20 < 10 && i%2 == 0 {
					req.Header.Set("X-Fail", "1")
				}
				if resp, err := rt.RoundTrip(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				if n%10 == i {
					_ = b.SetBackends(balancer.URLs(urls[n%3:]...)...)
				}
				if n%10 == 0 {
					b.Collect(func(string, string, string, float64, ...string) {})
					for range b.Conditions() {
					}
				}
			}
		})
	}
	wg.Wait()
	cancel()
	<-ran
	require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, 10*time.Second, time.Millisecond)
	s := b.Stats()
	require.GreaterOrEqual(t, s.Success+s.Failure+s.Refused+s.Ignored, uint64(8*150))
}
