package chain

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// An attack is one thing that is done often. It reports what was wrong with
// how it was answered.
type attack struct {
	name string
	only string // the protocol, if not all
	do   func(t testing.TB, s *site) string

	// What httputil.ReverseProxy does not do itself over HTTP/1.
	notProxied bool

	// No part gets to see it, and net/http keeps its connection open for half a
	// second: it is done to the chain alone.
	refused bool

	// It takes a while, so that each part alone gets to see it less often still.
	heavy bool

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
		return answer(s, req, status, want)
	}
}

func answer(s *site, req *http.Request, status int, want string) string {
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
	case req.Method == "HEAD" && resp.ContentLength != int64(len("ok")):
		return fmt.Sprintf("length %d", resp.ContentLength)
	}
	return ""
}

// stream asks for an event stream as browsers do.
func stream(s *site, path string) *http.Request {
	req, _ := http.NewRequest("GET", s.url+path, nil)
	req.Header.Set("Accept", "text/event-stream")
	return req
}

// raw sends text on a connection of its own and returns the status line and
// the body.
func raw(t testing.TB, s *site, text string) (line, body string) {
	conn := s.dial(t)
	defer conn.Close()
	io.WriteString(conn, text)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", ""
	}
	got, _ := io.ReadAll(resp.Body)
	return resp.Proto + " " + resp.Status, string(got)
}

// headers are about a MiB of header fields for each one asked for.
func headers(h http.Header, mebibytes int) {
	for i := range mebibytes << 10 {
		h.Add(fmt.Sprintf("X-Big-%d", i), strings.Repeat("b", 1<<10-50)) // HTTP/2 counts 32 more for each
	}
}

// half is a body that breaks off.
func half() io.Reader {
	return io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("this is all")))
}

var attacks = []attack{
	{name: "panicking handler", do: body("GET", "/panic", "", 0, "")},
	{name: "panic after the header", do: body("GET", "/panic-late", "", 0, "")},
	{name: "panic in a stream", do: func(t testing.TB, s *site) string { return answer(s, stream(s, "/panic-stream"), 0, "") }},
	{name: "panic, client gone", do: func(t testing.TB, s *site) string {
		resp, err := s.client.Get(s.url + "/panic-gone")
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		return ""
	}},
	{name: "ErrAbortHandler", do: body("GET", "/abort", "", 0, "")},
	{name: "Goexit", do: body("GET", "/goexit", "", 0, "")},
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
	{name: "hijack by another method", only: "http1", do: body("PUT", "/hijack", "", 200, "hijacked")},
	{name: "no hijack on HTTP/2", only: "http2", do: noHijack},
	{name: "no hijack on h2c", only: "h2c", do: noHijack},
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
	{name: "server-sent events", do: func(t testing.TB, s *site) string {
		return answer(s, stream(s, "/events"), 200, "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\n")
	}},
	{name: "endless events, client gone", do: func(t testing.TB, s *site) string {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		resp, err := s.client.Do(stream(s, "/forever").WithContext(ctx))
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
	{name: "early hints", do: func(t testing.TB, s *site) string { return hinted(s, "/hints", 200, "hinted") }},
	{name: "early hints, and then a failure", do: func(t testing.TB, s *site) string { return hinted(s, "/hints-failed", 500, "failed") }},
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
	{name: "ReadFrom", do: func(t testing.TB, s *site) string {
		before := s.readFrom.Load()
		wrong := body("GET", "/file", "", 200, strings.Repeat("x", 64<<10))(t, s)
		if wrong == "" && !s.proxied && s.readFrom.Load() == before {
			return "the file was copied by hand, where sendfile would have done"
		}
		return wrong
	}},
	{name: "write after return", racy: true, do: func(t testing.TB, s *site) string {
		wrong := body("GET", "/after-return", "", 200, "in time")(t, s)
		if wrong == "" {
			answered <- struct{}{}
		}
		return wrong
	}},
	{name: "HEAD", do: body("HEAD", "/ok", "", 200, "")},
	{name: "OPTIONS", do: body("OPTIONS", "/ok", "", 200, "ok")},
	{name: "OPTIONS *", do: func(t testing.TB, s *site) string {
		req, _ := http.NewRequest("OPTIONS", s.url, nil)
		req.URL.Opaque = "*"
		return answer(s, req, http.StatusBadRequest, "") // of the ServeMux
	}},
	{name: "unknown method", do: body("BREW", "/teapot", "", 418, "")},
	{name: "CONNECT", do: func(t testing.TB, s *site) string {
		req, _ := http.NewRequest("CONNECT", s.url, nil)
		req.URL = &url.URL{Scheme: req.URL.Scheme, Host: req.URL.Host}
		req.Host = "example.org:443"
		return answer(s, req, http.StatusNotFound, "")
	}},
	{name: "absolute-form URL", only: "http1", do: func(t testing.TB, s *site) string {
		if line, got := raw(t, s, "GET http://"+s.addr+"/ok HTTP/1.1\r\nHost: "+s.addr+"\r\nConnection: close\r\n\r\n"); line != "HTTP/1.1 200 OK" || got != "ok" {
			return fmt.Sprintf("%s, %q", line, got)
		}
		return ""
	}},
	{name: "1 MiB of header", heavy: true, do: func(t testing.TB, s *site) string {
		req, _ := http.NewRequest("GET", s.url+"/ok", nil)
		headers(req.Header, 1)
		return answer(s, req, http.StatusOK, "ok")
	}},
	{name: "more header than is taken", only: "http1", refused: true, do: func(t testing.TB, s *site) string {
		line, _ := raw(t, s, "GET /ok HTTP/1.1\r\nHost: x\r\nX-Big: "+strings.Repeat("b", maxHeader+8192)+"\r\n\r\n")
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
	{name: "hang-up before the request", do: func(t testing.TB, s *site) string { s.dial(t).Close(); return "" }},
	{name: "half a header", only: "http1", do: func(t testing.TB, s *site) string {
		conn := s.dial(t)
		io.WriteString(conn, "GET /ok HTTP/1.1\r\nHo")
		conn.Close()
		return ""
	}},
	{name: "half a header on HTTP/2", only: "http2", do: func(t testing.TB, s *site) string {
		config := s.tls.Clone()
		config.NextProtos, config.ServerName = []string{"h2"}, "example.com"
		return halfAFrame(tls.Client(s.dial(t), config))
	}},
	{name: "half a header on h2c", only: "h2c", do: func(t testing.TB, s *site) string { return halfAFrame(s.dial(t)) }},
	{name: "half a body", only: "http1", do: func(t testing.TB, s *site) string {
		conn := s.dial(t)
		io.WriteString(conn, "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
		conn.Close()
		return ""
	}},
	{name: "half a body in chunks or frames", do: func(t testing.TB, s *site) string {
		req, _ := http.NewRequest("POST", s.url+"/upload", half())
		if resp, err := s.client.Do(req); err == nil {
			resp.Body.Close()
		}
		return ""
	}},
	{name: "hang-up after the request", only: "http1", do: func(t testing.TB, s *site) string {
		conn := s.dial(t)
		io.WriteString(conn, "GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
		conn.Close()
		return ""
	}},
	{name: "hang-up after the header of the answer", do: func(t testing.TB, s *site) string {
		resp, err := s.client.Get(s.url + "/file")
		if err != nil {
			return err.Error()
		}
		if err := resp.Body.Close(); err != nil {
			return err.Error()
		}
		return ""
	}},
	{name: "upload", do: body("POST", "/upload", strings.Repeat("u", 100<<10), 200, "102400")},
}

// hinted wants early hints and this answer.
func hinted(s *site, path string, status int, want string) string {
	var hint string
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hint += fmt.Sprint(code, " ", h.Get("Link"))
			return nil
		},
	})
	req, _ := http.NewRequestWithContext(ctx, "GET", s.url+path, nil)
	if wrong := answer(s, req, status, want); wrong != "" {
		return wrong
	}
	if hint != "103 </style.css>; rel=preload" {
		return fmt.Sprintf("the hint was %q", hint)
	}
	return ""
}

// noHijack wants to be told that there is nothing to hijack. Through a proxy
// the upstream is HTTP/1, where there is.
func noHijack(t testing.TB, s *site) string {
	if s.proxied {
		return body("GET", "/hijack", "", 200, "hijacked")(t, s)
	}
	return body("GET", "/hijack", "", http.StatusUpgradeRequired, "no hijacking\n")(t, s)
}

// halfAFrame begins HTTP/2 on conn (RFC 9113, section 3.4), with a frame of
// settings and the first of a frame of headers, and hangs up.
func halfAFrame(conn net.Conn) string {
	defer conn.Close()
	const settings, headers = "\x00\x00\x00\x04\x00\x00\x00\x00\x00", "\x00\x00\x20\x01\x04\x00\x00\x00\x01\x82"
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+settings+headers); err != nil {
		return err.Error()
	}
	return ""
}
