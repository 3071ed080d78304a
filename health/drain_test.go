package health_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

func listen(t *testing.T) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestABusyPortIsAnErrorAtOnce(t *testing.T) {
	h := health.MustNew(health.Config{})
	err := h.ListenAndServe(t.Context(), &http.Server{Addr: listen(t).Addr().String(), Handler: h.Handler(teapot)})
	require.ErrorContains(t, err, "address already in use")
	require.True(t, h.Ready(), "nothing has begun, so nothing drains")
}

// silent is a listener to which nobody connects, for tests in a bubble:
// requests go to the handler directly.
type silent struct{ closed chan struct{} }

func newSilent() *silent                    { return &silent{make(chan struct{})} }
func (l *silent) Accept() (net.Conn, error) { <-l.closed; return nil, net.ErrClosed }
func (l *silent) Addr() net.Addr            { return &net.TCPAddr{} }
func (l *silent) Close() error              { close(l.closed); return nil }
func (l *silent) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

func TestDrainingGoesThroughItsPhasesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var events []string
		event := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, time.Since(start).String()+" "+what)
		}
		h := health.MustNew(health.Config{
			Drain: health.Drain{Hooks: []func(context.Context) error{
				func(context.Context) error { event("first hook"); return nil },
				func(context.Context) error { event("second hook"); return nil },
			}},
			OnChange: func(c health.Change) {
				if c.Subject == "phase" {
					event(c.To)
				}
			},
		})
		ln := newSilent()
		front := h.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-health.DrainStarted(r.Context())
			time.Sleep(8 * time.Second)
			event("last request ends")
			require.NoError(t, r.Context().Err(), "requests never see the end of Serve's context")
		}))
		go get(front, "/")
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		time.AfterFunc(time.Minute+4*time.Second, func() {
			require.False(t, ln.isClosed())
			require.Equal(t, 503, get(front, "/readyz").Code)
			require.Equal(t, 200, get(front, "/livez").Code)
			require.Equal(t, "1", get(front, "/livez").Header().Get("Spillway-Draining"), "on every response")
		})
		require.NoError(t, h.Serve(ctx, &http.Server{Handler: front}, ln))
		require.Equal(t, []string{
			"1m0s draining", "1m5s closing", "1m8s last request ends", "1m8s stopping",
			"1m8s first hook", "1m8s second hook", "1m8s stopped",
		}, events)
		require.True(t, ln.isClosed())
	})
}

func TestTheDelayEndsWhenTheTrafficHasReallyStopped(t *testing.T) {
	for name, tc := range map[string]struct{ trafficFor, want time.Duration }{
		"no traffic at all":    {0, time.Second},
		"it stops after 1.2 s": {1200 * time.Millisecond, 2200 * time.Millisecond},
		"it never stops":       {time.Hour, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := health.MustNew(health.Config{Drain: health.Drain{Delay: 10 * time.Second, Quiet: time.Second}})
				front := h.Handler(teapot)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan time.Time, 1)
				go func() {
					_ = h.Serve(ctx, &http.Server{Handler: front}, newSilent())
					done <- time.Now()
				}()
				time.Sleep(time.Second)
				cancel()
				start := time.Now()
				for {
					get(front, "/readyz") // probes are no traffic
					if time.Since(start) <= tc.trafficFor {
						get(front, "/")
					}
					select {
					case end := <-done:
						require.Equal(t, tc.want, end.Sub(start))
						return
					case <-time.After(100 * time.Millisecond):
					}
				}
			})
		})
	}
}

func TestRequestsThatDoNotEndAreCutOffAndSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hooks := 0
		h := health.MustNew(health.Config{Drain: health.Drain{
			Delay: -1, Timeout: 3 * time.Second,
			Hooks: []func(context.Context) error{func(context.Context) error { hooks++; return nil }},
		}})
		release := make(chan struct{})
		go get(h.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })), "/")
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := h.Serve(ctx, &http.Server{}, newSilent())
		require.EqualError(t, err, "health: 1 request still ran 3s after the listener closed and was cut off")
		require.Equal(t, uint64(1), h.Stats().Aborted)
		require.Equal(t, 1, hooks)
		close(release)
	})
}

func TestHooksThatFailPanicOrHangAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ran []int
		release := make(chan struct{})
		h := health.MustNew(health.Config{Drain: health.Drain{
			Delay: -1,
			Hooks: []func(context.Context) error{
				func(context.Context) error { ran = append(ran, 0); return errDown },
				func(context.Context) error { ran = append(ran, 1); panic("boom") },
				func(context.Context) error { ran = append(ran, 2); return nil },
			},
		}})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := h.Serve(ctx, &http.Server{}, newSilent())
		require.ErrorIs(t, err, errDown)
		require.ErrorContains(t, err, "health: Config.Drain.Hooks[0]: down")
		require.ErrorContains(t, err, "health: Config.Drain.Hooks[1]: panic: boom")
		require.Equal(t, []int{0, 1, 2}, ran)

		h = health.MustNew(health.Config{Drain: health.Drain{
			Delay: -1, HookTimeout: 2 * time.Second,
			Hooks: []func(context.Context) error{func(context.Context) error { <-release; return nil }},
		}})
		start := time.Now()
		err = h.Serve(ctx, &http.Server{}, newSilent())
		require.EqualError(t, err, "health: Config.Drain.Hooks did not end in time")
		require.Equal(t, 2100*time.Millisecond, time.Since(start))
		close(release)
	})
}

func TestAServerThatFailsEndsServeAndRunsTheHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hooks := 0
		config := health.Config{Drain: health.Drain{Hooks: []func(context.Context) error{
			func(context.Context) error { hooks++; return nil },
		}}}
		ln := newSilent()
		time.AfterFunc(time.Minute, func() { close(ln.closed) })
		start := time.Now()
		err := health.MustNew(config).Serve(t.Context(), &http.Server{}, brokenCloser{ln})
		require.ErrorIs(t, err, net.ErrClosed)
		require.Equal(t, time.Minute, time.Since(start), "without the delay, which would be for nothing")
		require.Equal(t, 1, hooks)

		srv := new(http.Server)
		time.AfterFunc(time.Minute, func() { _ = srv.Shutdown(t.Context()) })
		require.NoError(t, health.MustNew(config).Serve(t.Context(), srv, newSilent()), "the caller asked for it")
		require.Equal(t, 2, hooks)
	})
}

// brokenCloser is a listener that is closed already.
type brokenCloser struct{ net.Listener }

func (brokenCloser) Close() error { return nil }

func TestTwoServersDrainTogetherAndTheHooksRunOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hooks := 0
		h := health.MustNew(health.Config{Drain: health.Drain{Hooks: []func(context.Context) error{
			func(context.Context) error { hooks++; return nil },
		}}})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if err := h.Serve(ctx, &http.Server{}, newSilent()); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Minute)
		cancel()
		wg.Wait()
		require.Equal(t, 1, hooks)
	})
}

func TestTheChecksGoOnWhileRequestsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last time.Time
		h := health.MustNew(health.Config{Checks: map[string]health.Check{
			"it": {Every: time.Second, Groups: health.Live, Jitter: -1, Probe: func(context.Context) error { last = time.Now(); return nil }},
		}})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		front := h.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-health.DrainStarted(r.Context())
			time.Sleep(10 * time.Second)
		}))
		go get(front, "/")
		require.NoError(t, h.Serve(ctx, &http.Server{Handler: front}, newSilent()))
		require.WithinDuration(t, time.Now(), last, 2*time.Second)
		at := last
		time.Sleep(time.Minute)
		require.Equal(t, at, last, "and no longer")
	})
}

func TestResponsesSayThatTheServiceDrains(t *testing.T) {
	h := health.MustNew(health.Config{})
	begin, going := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(h.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			close(begin)
			<-going
		case "/upgrade":
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "echo")
			w.WriteHeader(101)
		case "/silent":
		default:
			io.WriteString(w, "hello")
		}
	})))
	defer srv.Close()
	ask := func(path string) *http.Response {
		resp, err := http.Get(srv.URL + path)
		require.NoError(t, err)
		resp.Body.Close()
		return resp
	}
	resp := ask("/")
	require.Empty(t, resp.Header.Get("Spillway-Draining"))
	require.False(t, resp.Close)

	slow := make(chan *http.Response)
	go func() {
		resp, err := http.Get(srv.URL + "/slow")
		if err != nil {
			t.Error(err)
		}
		slow <- resp
	}()
	<-begin
	h.Drain()
	close(going)
	for name, resp := range map[string]*http.Response{
		"begun before": <-slow, "after": ask("/"), "without a body": ask("/silent"),
	} {
		require.Equal(t, "1", resp.Header.Get("Spillway-Draining"), name)
		require.True(t, resp.Close, name)
	}

	r, err := http.NewRequest("GET", srv.URL+"/upgrade", nil)
	require.NoError(t, err)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "echo")
	resp, err = http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, "1", resp.Header.Get("Spillway-Draining"))
	require.Equal(t, "Upgrade", resp.Header.Get("Connection"), "an upgrade would break")
}

func TestOverHTTP2DrainingSendsGoAway(t *testing.T) {
	h := health.MustNew(health.Config{})
	srv := httptest.NewUnstartedServer(h.Handler(teapot))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	ask := func() (reused bool) {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused },
		})
		r, err := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
		require.NoError(t, err)
		resp, err := srv.Client().Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, 2, resp.ProtoMajor)
		require.Equal(t, 418, resp.StatusCode)
		return reused
	}
	require.False(t, ask())
	require.True(t, ask())
	h.Drain()
	ask()
	for ask() { // until the client has left the connection; without GOAWAY it never does
	}
}

func TestServeSpeaksTLSIfThereIsACertificate(t *testing.T) {
	ts := httptest.NewUnstartedServer(nil)
	ts.Config.ErrorLog = log.New(io.Discard, "", 0) // one client is to be refused
	ts.StartTLS()
	defer ts.Close()
	h := health.MustNew(health.Config{Drain: health.Drain{Delay: -1}})
	type baseKey struct{}
	srv := &http.Server{
		TLSConfig:   &tls.Config{Certificates: ts.TLS.Certificates},
		BaseContext: func(net.Listener) context.Context { return context.WithValue(context.Background(), baseKey{}, "kept") },
		Handler: h.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.Context().Value(baseKey{}).(string))
			if health.DrainStarted(r.Context()) == nil {
				panic("no channel")
			}
		})),
	}
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, srv, ln) }()
	resp, err := ts.Client().Get("https://" + ln.Addr().String())
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, "kept", string(body))
	cancel()
	require.NoError(t, <-done)

	roots := x509.NewCertPool()
	roots.AddCert(ts.Certificate())
	require.NoError(t, health.Certificate(ts.Listener.Addr().String(), &tls.Config{RootCAs: roots}, 24*time.Hour)(t.Context()))
	require.ErrorContains(t, health.Certificate(ts.Listener.Addr().String(), nil, 0)(t.Context()), "certificate")
	const century = 100 * 366 * 24 * time.Hour
	require.ErrorContains(t, health.Certificate(ts.Listener.Addr().String(), &tls.Config{RootCAs: roots}, century)(t.Context()), "the certificate expires on 20")
}

// A hijacked connection is no business of http.Server.Shutdown.
func TestHandlersThatHijackedAreWaitedFor(t *testing.T) {
	h := health.MustNew(health.Config{Drain: health.Drain{Delay: -1}})
	hijacked := make(chan struct{})
	var ended bool
	srv := &http.Server{Handler: h.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		close(hijacked)
		<-health.DrainStarted(r.Context())
		io.WriteString(conn, "goodbye\n")
		buf := make([]byte, 1)
		_, _ = conn.Read(buf) // until the client has gone
		ended = true
	}))}
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, srv, ln) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-hijacked
	cancel()
	buf := make([]byte, 8)
	_, err = io.ReadFull(conn, buf)
	require.NoError(t, err)
	require.Equal(t, "goodbye\n", string(buf))
	conn.Close()
	require.NoError(t, <-done)
	require.True(t, ended)
}

func TestTheBudgetIsCheckedAgainstTheGracePeriod(t *testing.T) {
	for name, tc := range map[string]struct {
		drain health.Drain
		want  string
	}{
		"defaults":     {health.Drain{}, ""},
		"with hooks":   {health.Drain{Hooks: []func(context.Context) error{pass}}, ""},
		"too long":     {health.Drain{Delay: 20 * time.Second}, "health: Config.Drain.Grace is 30s, less than Delay 20s, Timeout 15s and hooks 0s together: the platform would kill the process first"},
		"longer grace": {health.Drain{Delay: 20 * time.Second, Grace: time.Minute}, ""},
		"no grace":     {health.Drain{Delay: time.Hour, Grace: -1}, ""},
		"overflow":     {health.Drain{Delay: 1 << 62, Timeout: 1 << 62, HookTimeout: 1 << 62}, "the platform would kill the process first"},
		"quiet":        {health.Drain{Quiet: 10 * time.Second}, "health: Config.Drain.Quiet is 10s, longer than Delay 5s"},
		"negative":     {health.Drain{Quiet: -1, HookTimeout: -1}, "health: Config.Drain.HookTimeout is -1ns, must not be negative"},
		"nil hook":     {health.Drain{Hooks: []func(context.Context) error{nil}}, "health: Config.Drain.Hooks[0] is nil"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := health.New(health.Config{Drain: tc.drain})
			if tc.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tc.want)
			}
		})
	}
}
