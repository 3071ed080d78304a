package breaker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// serve makes one request and returns the answer.
func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func get(target string) *http.Request { return httptest.NewRequest(http.MethodGet, target, nil) }

func TestHandlerCountsByStatus(t *testing.T) {
	for code, want := range map[int]string{
		200: "succeeded", 204: "succeeded", 301: "succeeded", 404: "succeeded", 499: "succeeded",
		501: "succeeded", 505: "succeeded", 429: "ignored",
		500: "failed", 502: "failed", 503: "failed", 504: "failed", 599: "failed",
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			b := breaker.MustNew(breaker.Config{})
			serve(b.Handler(status(code)), get("/"))
			s := b.Stats()
			got := map[string]uint64{"succeeded": s.Succeeded, "failed": s.Failed, "ignored": s.Ignored}
			require.EqualValues(t, 1, got[want])
			require.EqualValues(t, 1, s.Succeeded+s.Failed+s.Ignored)
		})
	}
}

func TestHandlerThatPanicsFailsAndGoesOnPanicking(t *testing.T) {
	for name, value := range map[string]any{"a value": "boom", "ErrAbortHandler": http.ErrAbortHandler} {
		t.Run(name, func(t *testing.T) {
			b := breaker.MustNew(breaker.Config{})
			h := b.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(value) }))
			require.PanicsWithValue(t, value, func() { serve(h, get("/")) })
			require.EqualValues(t, 1, b.Stats().Failed)
		})
	}
	t.Run("runtime.Goexit", func(t *testing.T) {
		b := breaker.MustNew(breaker.Config{})
		h := b.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { runtime.Goexit() }))
		var wg sync.WaitGroup
		wg.Go(func() { serve(h, get("/")) })
		wg.Wait()
		require.EqualValues(t, 1, b.Stats().Failed)
	})
}

func TestHandlerCountsAClientThatHangsUpAsNothing(t *testing.T) {
	for name, h := range map[string]func(http.ResponseWriter, context.CancelFunc){
		"an error after it":  func(w http.ResponseWriter, gone context.CancelFunc) { gone(); w.WriteHeader(500) },
		"a panic after it":   func(_ http.ResponseWriter, gone context.CancelFunc) { gone(); panic(http.ErrAbortHandler) },
		"half of a 200":      func(w http.ResponseWriter, gone context.CancelFunc) { w.WriteHeader(200); gone() },
		"nothing written":    func(_ http.ResponseWriter, gone context.CancelFunc) { gone() },
		"an error before it": func(w http.ResponseWriter, gone context.CancelFunc) { w.WriteHeader(500); gone() },
	} {
		t.Run(name, func(t *testing.T) {
			b := breaker.MustNew(breaker.Config{})
			ctx, cancel := context.WithCancel(t.Context())
			func() {
				defer func() { _ = recover() }()
				serve(b.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { h(w, cancel) })), get("/").WithContext(ctx))
			}()
			s := b.Stats()
			if name == "an error before it" {
				require.EqualValues(t, 1, s.Failed, "the client was there to see it")
				return
			}
			require.EqualValues(t, 1, s.Ignored)
			require.Zero(t, s.Failed+s.Succeeded)
		})
	}
}

func TestHandlerCountsADeadlineOfTheServerAsFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(breaker.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		serve(b.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			w.WriteHeader(http.StatusGatewayTimeout)
		})), get("/").WithContext(ctx))
		require.EqualValues(t, 1, b.Stats().Failed)
	})
}

func TestHandlerRefusesAsTheClientLikesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(breaker.Config{Name: "stock"})
		b.ForceOpen(90*time.Second+1, "secret-host-10.0.0.7")
		h := b.Handler(status(200))

		plain := serve(h, get("/"))
		require.Equal(t, 503, plain.Code)
		require.Equal(t, "91", plain.Header().Get("Retry-After"), "rounded up")
		require.Equal(t, "text/plain; charset=utf-8", plain.Header().Get("Content-Type"))
		require.Equal(t, "nosniff", plain.Header().Get("X-Content-Type-Options"))
		require.Equal(t, "stock is unavailable; try again in 91 s\n", plain.Body.String())

		for accept, json := range map[string]bool{
			"application/json":                          true,
			"text/html, application/problem+json;q=0.9": true,
			"Application/JSON; charset=utf-8":           true,
			"application/json;q=0":                      false,
			"application/json; q=0.000, text/plain":     false,
			"*/*":                                       false,
			"text/html":                                 false,
		} {
			r := get("/")
			r.Header.Set("Accept", accept)
			require.Equal(t, json, serve(h, r).Header().Get("Content-Type") == "application/problem+json", accept)
		}
		r := get("/")
		r.Header.Set("Accept", "application/json")
		var p struct {
			Title, Detail string
			Status        int
		}
		require.NoError(t, json.Unmarshal(serve(h, r).Body.Bytes(), &p))
		require.Equal(t, 503, p.Status)
		require.Equal(t, "stock is unavailable; try again in 91 s", p.Detail)

		head := serve(h, httptest.NewRequest(http.MethodHead, "/", nil))
		require.Equal(t, 503, head.Code)
		require.Zero(t, head.Body.Len())
	})
}

func TestARefusalIsJSONWhateverTheName(t *testing.T) {
	for _, name := range []string{`"quoted" \ back`, "line\nfeed\x00\a\x7f", "größer 😀", "not \xff UTF-8", "</script>"} {
		b := breaker.MustNew(breaker.Config{Name: name})
		b.ForceOpen(0, "")
		r := get("/")
		r.Header.Set("Accept", "application/json")
		var p struct{ Detail string }
		require.NoError(t, json.Unmarshal(serve(b.Handler(status(200)), r).Body.Bytes(), &p), "%q", name)
		require.Equal(t, strings.ToValidUTF8(name, "\ufffd")+" is unavailable; try again in 60 s", p.Detail)
	}
}

func TestHandlerFallbackFindsRetryAfterSet(t *testing.T) {
	b := breaker.MustNew(breaker.Config{Fallback: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "from yesterday, retry in ", w.Header().Get("Retry-After"))
	})})
	b.ForceOpen(0, "")
	w := serve(b.Handler(status(200)), get("/"))
	require.Equal(t, 200, w.Code)
	require.Equal(t, "from yesterday, retry in 60", w.Body.String())
}

func TestHandlerByRoute(t *testing.T) {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1, Key: breaker.ByRoute})
	mux := http.NewServeMux()
	mux.Handle("GET /bad/{id}", b.Handler(status(500)))
	mux.Handle("GET /good/{id}", b.Handler(status(200)))

	require.Equal(t, 500, serve(mux, get("/bad/1")).Code)
	require.Equal(t, 503, serve(mux, get("/bad/2")).Code, "one circuit for the route, not for the path")
	require.Equal(t, 200, serve(mux, get("/good/1")).Code)
	require.Equal(t, 2, b.Stats().Keys)
	require.Equal(t, breaker.Open, b.For("GET /bad/{id}").State())
}

func TestHandlerMeasuresSlowToTheHeaderOrToTheEnd(t *testing.T) {
	for _, toEnd := range []bool{false, true} {
		t.Run(fmt.Sprintf("SlowToEnd=%v", toEnd), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := breaker.MustNew(breaker.Config{SlowCall: time.Second, SlowToEnd: toEnd})
				serve(b.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(200)
					time.Sleep(time.Minute) // a stream of events
				})), get("/"))
				if toEnd {
					require.EqualValues(t, 1, b.Stats().Slow)
				} else {
					require.EqualValues(t, 1, b.Stats().Succeeded)
				}
			})
		})
	}
}

func TestHandlerStreamsAndTakesOver(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	mux := http.NewServeMux()
	next := make(chan struct{})
	mux.HandleFunc("/events", func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		fmt.Fprintln(w, "one")
		require.NoError(t, rc.Flush())
		require.NoError(t, rc.SetWriteDeadline(time.Now().Add(time.Minute)))
		require.NoError(t, rc.EnableFullDuplex())
		<-next
		fmt.Fprintln(w, "two")
		w.Header().Set(http.TrailerPrefix+"Checksum", "42")
	})
	mux.HandleFunc("/flush", func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush() // the header, before anything is written
		fmt.Fprint(w, "late")
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusInternalServerError)
	})
	mux.HandleFunc("/copy", func(w http.ResponseWriter, _ *http.Request) {
		n, err := io.Copy(w, io.LimitReader(strings.NewReader(strings.Repeat("x", 1<<20)), 1<<20))
		require.NoError(t, err)
		require.EqualValues(t, 1<<20, n)
	})
	mux.HandleFunc("/raw", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
	})
	guarded := b.Handler(mux)
	var served sync.WaitGroup
	served.Add(5)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer served.Done()
		guarded.ServeHTTP(w, r)
	}))
	defer srv.Close()

	resp, err := http.Get(srv.URL + "/events")
	require.NoError(t, err)
	lines := bufio.NewReader(resp.Body)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "one\n", line, "before the handler has returned")
	close(next)
	_, err = io.ReadAll(lines)
	require.NoError(t, err)
	require.Equal(t, "42", resp.Trailer.Get("Checksum"))

	resp, err = http.Get(srv.URL + "/copy")
	require.NoError(t, err)
	all, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Len(t, all, 1<<20)

	resp, err = http.Get(srv.URL + "/flush")
	require.NoError(t, err)
	all, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "late", string(all))

	resp, err = http.Get(srv.URL + "/early")
	require.NoError(t, err)
	require.Equal(t, 500, resp.StatusCode)

	req, _ := http.NewRequest(http.MethodGet, srv.URL+"/raw", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err = http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	all, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "hello", string(all))

	served.Wait()
	s := b.Stats()
	require.EqualValues(t, 1, s.Failed, "the 500 after the early hints")
	require.EqualValues(t, 5, s.Succeeded+s.Failed)
}

func TestHandlerRefusesToWrapNothing(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	require.PanicsWithValue(t, "breaker: Handler: next is nil", func() { b.Handler(nil) })
}
