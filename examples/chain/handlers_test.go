package chain

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
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
	handle("/panic-stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 0\n\n")
		http.NewResponseController(w).Flush()
		panic("hostile")
	})
	handle("/panic-gone", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
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
		var conn net.Conn
		var buf *bufio.ReadWriter
		err := error(http.ErrNotSupported)
		if h, ok := w.(http.Hijacker); ok { // as was done before there was http.ResponseController
			conn, buf, err = h.Hijack()
		}
		if err != nil {
			http.Error(w, "no hijacking", http.StatusUpgradeRequired)
			return
		}
		defer conn.Close()
		buf.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nhijacked")
		buf.Flush()
	})
	handle("/echo-socket", func(w http.ResponseWriter, r *http.Request) { // what a websocket library does
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, "no hijacking", http.StatusUpgradeRequired)
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
	handle("/hints-failed", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, "failed")
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
	handle("/file", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store") // what is stored is copied
		http.ServeFile(w, r, file)
	})
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
