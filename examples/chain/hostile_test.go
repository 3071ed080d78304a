package chain

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// answered tells the handler that writes after it has returned that its client
// has the whole answer. Earlier it would be a race in net/http itself, which
// ends the process or puts the late bytes into another response.
var answered = make(chan struct{})

// hostile does everything that a handler should not, and everything unusual
// that it may.
func hostile(dir string) http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, f http.HandlerFunc) { mux.HandleFunc(path, f) }
	handle("/ok", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	handle("/panic", func(w http.ResponseWriter, r *http.Request) { panic("hostile") })
	handle("/panic-late", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "some")
		http.NewResponseController(w).Flush()
		panic("hostile")
	})
	handle("/abort", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	handle("/goexit", func(w http.ResponseWriter, r *http.Request) { runtime.Goexit() })
	handle("/deaf", func(w http.ResponseWriter, r *http.Request) { // to its context
		<-time.After(3 * time.Millisecond)
		io.WriteString(w, "late")
	})
	handle("/nothing", func(w http.ResponseWriter, r *http.Request) {})
	handle("/after-return", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "in time")
		go func() {
			defer func() { recover() }()
			<-answered
			w.Header().Add("X-Late", "1")
			w.Write([]byte("too late"))
		}()
	})
	handle("/hijack", func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, "no hijacking", http.StatusNotImplemented)
			return
		}
		defer conn.Close()
		buf.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nhijacked")
		buf.Flush()
	})
	handle("/echo-socket", func(w http.ResponseWriter, r *http.Request) { // what a websocket library does
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			http.Error(w, "no hijacking", http.StatusNotImplemented)
			return
		}
		defer conn.Close()
		buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		buf.Flush()
		line, _ := buf.ReadString('\n')
		buf.WriteString(line)
		buf.Flush()
	})
	handle("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		f := w.(http.Flusher)
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			f.Flush()
		}
	})
	handle("/forever", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			if _, err := io.WriteString(w, "data: tick\n\n"); err != nil {
				return
			}
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	handle("/trailers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "body")
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-More", "43")
	})
	handle("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "hinted")
	})
	handle("/deadlines", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if err := rc.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			http.Error(w, err.Error(), http.StatusNotImplemented)
			return
		}
		if err := rc.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			http.Error(w, err.Error(), http.StatusNotImplemented)
			return
		}
		io.WriteString(w, "bounded")
	})
	handle("/duplex", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if err := rc.EnableFullDuplex(); err != nil && r.ProtoMajor == 1 {
			http.Error(w, err.Error(), http.StatusNotImplemented)
			return
		}
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(w, line)
			rc.Flush()
		}
	})
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 64<<10)), 0o600); err != nil {
		panic(err)
	}
	handle("/file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
	handle("/upload", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return
		}
		fmt.Fprint(w, n)
	})
	handle("/teapot", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	return mux
}

// An attack is one thing that is done often. It reports what was wrong with
// how it was answered.
type attack struct {
	name string
	only string // the protocol, if not all
	do   func(t testing.TB, s *site) string

	// What httputil.ReverseProxy does not do itself over HTTP/1.
	notProxied bool

	// The race detector does not see that an answer that has come was sent before.
	racy bool
}

// body does a request and wants this answer; status 0 wants the connection or
// the stream broken.
func body(method, path, send string, status int, want string) func(testing.TB, *site) string {
	return func(t testing.TB, s *site) string {
		var in io.Reader
		if send != "" {
			in = strings.NewReader(send)
		}
		req, err := http.NewRequest(method, s.url+path, in)
		require.NoError(t, err)
		resp, err := s.client.Do(req)
		if err != nil {
			if status == 0 {
				return ""
			}
			return err.Error()
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		switch {
		case status == 0 && err == nil && resp.StatusCode < 500:
			return fmt.Sprintf("%s %q, wanted it broken", resp.Status, got)
		case status == 0:
			return ""
		case err != nil:
			return err.Error()
		case resp.StatusCode != status:
			return resp.Status
		case want != "" && string(got) != want:
			return fmt.Sprintf("body %q", got)
		}
		return ""
	}
}

// raw sends text on a connection of its own and returns the status line.
func raw(t testing.TB, s *site, text string) string {
	conn := s.dial(t)
	defer conn.Close()
	io.WriteString(conn, text)
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line)
}

var attacks = []attack{
	{name: "panicking handler", do: body("GET", "/panic", "", 0, "")},
	{name: "panic after the header", do: body("GET", "/panic-late", "", 0, "")},
	{name: "ErrAbortHandler", do: body("GET", "/abort", "", 0, "")},
	{name: "deaf handler", do: body("GET", "/deaf", "", 200, "late")},
	{name: "deaf handler, client gone", do: func(t testing.TB, s *site) string {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/deaf", nil)
		if resp, err := s.client.Do(req); err == nil {
			resp.Body.Close()
		}
		return ""
	}},
	{name: "writes nothing", do: body("GET", "/nothing", "", 200, "")},
	{name: "hijack", only: "http1", do: body("GET", "/hijack", "", 200, "hijacked")},
	{name: "no hijack on HTTP/2", only: "http2", do: func(t testing.TB, s *site) string {
		resp, err := s.client.Get(s.url + "/hijack")
		if err != nil {
			return "" // through a proxy the upstream is HTTP/1 and does hijack
		}
		resp.Body.Close()
		return ""
	}},
	{name: "upgrade", only: "http1", do: func(t testing.TB, s *site) string {
		conn := s.dial(t)
		defer conn.Close()
		io.WriteString(conn, "GET /echo-socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return err.Error()
		}
		if resp.StatusCode != 101 {
			return resp.Status
		}
		io.WriteString(conn, "hello\n")
		if line, err := in.ReadString('\n'); line != "hello\n" {
			return fmt.Sprintf("echo %q, %v", line, err)
		}
		return ""
	}},
	{name: "server-sent events", do: body("GET", "/events", "", 200, "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\n")},
	{name: "endless events, client gone", do: func(t testing.TB, s *site) string {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/forever", nil)
		resp, err := s.client.Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		line, err := bufio.NewReader(resp.Body).ReadString('\n')
		if err != nil || line != "data: tick\n" {
			return fmt.Sprintf("%q, %v", line, err)
		}
		return ""
	}},
	{name: "trailers", do: func(t testing.TB, s *site) string {
		req, _ := http.NewRequest("GET", s.url+"/trailers", nil)
		req.Header.Set("TE", "trailers")
		resp, err := s.client.Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		if resp.Trailer.Get("X-Sum") != "42" || resp.Trailer.Get("X-More") != "43" {
			return fmt.Sprintf("trailers %v", resp.Trailer)
		}
		return ""
	}},
	{name: "early hints", do: body("GET", "/hints", "", 200, "hinted")},
	{name: "ResponseController deadlines", do: body("GET", "/deadlines", "", 200, "bounded")},
	{name: "full duplex", notProxied: true, do: func(t testing.TB, s *site) string {
		out, in := io.Pipe()
		defer in.Close()
		giveUp := time.AfterFunc(20*time.Second, func() { in.Close() })
		defer giveUp.Stop()
		req, _ := http.NewRequest("POST", s.url+"/duplex", out)
		go io.WriteString(in, "one\n")
		resp, err := s.client.Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		if line, err := lines.ReadString('\n'); line != "one\n" {
			return fmt.Sprintf("%q, %v", line, err)
		}
		io.WriteString(in, "two\n")
		if line, err := lines.ReadString('\n'); line != "two\n" {
			return fmt.Sprintf("%q, %v", line, err)
		}
		return ""
	}},
	{name: "ReadFrom", do: body("GET", "/file", "", 200, strings.Repeat("x", 64<<10))},
	{name: "write after return", racy: true, do: func(t testing.TB, s *site) string {
		wrong := body("GET", "/after-return", "", 200, "in time")(t, s)
		if wrong == "" {
			answered <- struct{}{}
		}
		return wrong
	}},
	{name: "HEAD", do: body("HEAD", "/ok", "", 200, "")},
	{name: "OPTIONS", do: body("OPTIONS", "/ok", "", 200, "ok")},
	{name: "OPTIONS *", only: "http1", do: func(t testing.TB, s *site) string {
		if line := raw(t, s, "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(line, "HTTP/1.1 ") {
			return line
		}
		return ""
	}},
	{name: "unknown method", do: body("BREW", "/teapot", "", 418, "")},
	{name: "CONNECT", only: "http1", do: func(t testing.TB, s *site) string {
		if line := raw(t, s, "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(line, "HTTP/1.1 ") {
			return line
		}
		return ""
	}},
	{name: "absolute-form URL", only: "http1", do: func(t testing.TB, s *site) string {
		if line := raw(t, s, "GET http://"+s.addr+"/ok HTTP/1.1\r\nHost: "+s.addr+"\r\nConnection: close\r\n\r\n"); line != "HTTP/1.1 200 OK" {
			return line
		}
		return ""
	}},
	{name: "1 MiB of header", only: "http1", do: func(t testing.TB, s *site) string {
		line := raw(t, s, "GET /ok HTTP/1.1\r\nHost: x\r\nX-Big: "+strings.Repeat("b", 1<<20+8192)+"\r\n\r\n")
		if line != "" && !strings.Contains(line, "431") {
			return line
		}
		return ""
	}},
	{name: "pipelining", only: "http1", do: func(t testing.TB, s *site) string {
		conn := s.dial(t)
		defer conn.Close()
		io.WriteString(conn, strings.Repeat("GET /ok HTTP/1.1\r\nHost: x\r\n\r\n", 5))
		in := bufio.NewReader(conn)
		for range 5 {
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				return err.Error()
			}
			if got, _ := io.ReadAll(resp.Body); string(got) != "ok" {
				return fmt.Sprintf("%s %q", resp.Status, got)
			}
		}
		return ""
	}},
	{name: "hang-up before the request", only: "http1", do: func(t testing.TB, s *site) string { s.dial(t).Close(); return "" }},
	{name: "half a header", only: "http1", do: func(t testing.TB, s *site) string {
		conn := s.dial(t)
		io.WriteString(conn, "GET /ok HTTP/1.1\r\nHo")
		conn.Close()
		return ""
	}},
	{name: "half a body", only: "http1", do: func(t testing.TB, s *site) string {
		conn := s.dial(t)
		io.WriteString(conn, "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
		conn.Close()
		return ""
	}},
	{name: "hang-up after the request", only: "http1", do: func(t testing.TB, s *site) string {
		conn := s.dial(t)
		io.WriteString(conn, "GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
		conn.Close()
		return ""
	}},
	{name: "upload", do: body("POST", "/upload", strings.Repeat("u", 100<<10), 200, "102400")},
}

// TestHostileBattery does each attack many times in a row, on each part alone
// and on the chain, and then wants a normal answer, no request in flight
// anywhere, and the goroutines of before.
func TestHostileBattery(t *testing.T) {
	targets := []struct {
		name    string
		few     bool // each part alone is tried less often than the chain
		proxied bool
		make    func(t *testing.T, h http.Handler) (http.Handler, func() int)
	}{
		{"chain", false, false, func(t *testing.T, h http.Handler) (http.Handler, func() int) {
			p := newParts()
			k := &books{parts: p}
			t.Cleanup(func() { k.balance(t) })
			return k.handler(h), func() int { return p.shed.Stats().InFlight + p.shed.Stats().Streams + int(p.health.Stats().InFlight) }
		}},
		{"chain and balancer", false, true, func(t *testing.T, h http.Handler) (http.Handler, func() int) {
			p := newParts()
			pool, h := proxy(t, h)
			k := &books{parts: p, pool: pool}
			t.Cleanup(func() { k.balance(t) })
			return k.handler(h), func() int {
				return p.shed.Stats().InFlight + p.shed.Stats().Streams + int(p.health.Stats().InFlight) + pool.Stats().InFlight
			}
		}},
		{"health", true, false, func(t *testing.T, h http.Handler) (http.Handler, func() int) {
			p := newParts()
			return p.health.Handler(h), func() int { return int(p.health.Stats().InFlight) }
		}},
		{"ratelimit", true, false, func(t *testing.T, h http.Handler) (http.Handler, func() int) {
			return newParts().lim.Handler(h), func() int { return 0 }
		}},
		{"cache", true, false, func(t *testing.T, h http.Handler) (http.Handler, func() int) {
			return newParts().pages.Handler(h), func() int { return 0 }
		}},
		{"degrade", true, false, func(t *testing.T, h http.Handler) (http.Handler, func() int) {
			p := newParts()
			return p.shed.Handler(p.sw.Handler(h)), func() int { return p.shed.Stats().InFlight + p.shed.Stats().Streams }
		}},
		{"breaker", true, false, func(t *testing.T, h http.Handler) (http.Handler, func() int) {
			return newParts().b.Handler(h), func() int { return 0 }
		}},
		{"balancer", true, true, func(t *testing.T, h http.Handler) (http.Handler, func() int) {
			var pool *balancer.Balancer
			pool, h = proxy(t, h)
			return h, func() int { return pool.Stats().InFlight }
		}},
	}
	dir := t.TempDir()
	for _, target := range targets {
		for _, protocol := range protocols {
			t.Run(target.name+"/"+protocol, func(t *testing.T) {
				h, inFlight := target.make(t, hostile(dir))
				s := serve(t, protocol, h)
				n := *rounds
				if target.few {
					n = max(n/5, 2)
				}
				normal := body("GET", "/ok", "", 200, "ok")
				require.Empty(t, normal(t, s))
				for _, a := range attacks {
					if a.only != "" && a.only != protocol || a.notProxied && target.proxied && protocol == "http1" || a.racy && raceEnabled {
						continue
					}
					s.client.CloseIdleConnections()
					before := goroutines()
					for i := range n {
						if wrong := a.do(t, s); wrong != "" {
							t.Fatalf("%s, round %d: %s", a.name, i, wrong)
						}
					}
					require.Empty(t, normal(t, s), "a normal request after %s", a.name)
					settles(t, a.name+": in flight returns to zero", func() bool { return inFlight() == 0 })
					s.client.CloseIdleConnections()
					settles(t, a.name+": goroutines return", func() bool { return runtime.NumGoroutine() <= before+10 })
				}
			})
		}
	}
}
