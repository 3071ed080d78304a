package health

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
)

// A writer sees the status of a response, and marks it while draining. It is
// not pooled: a handler may keep it.
type writer struct {
	http.ResponseWriter
	h        *Checker
	status   int32 // of the final header; zero before it
	hijacked bool
	stream   bool // of events
}

// mark looks at the header for the last time, and tells the client, if the
// service is draining, to come back on another connection. It is called right
// before the header is written, so that a response that was begun before the
// drain is marked as well.
func (w *writer) mark(code int) {
	header := w.Header()
	if t := header["Content-Type"]; len(t) > 0 {
		w.stream = strings.HasPrefix(t[0], "text/event-stream")
	}
	if w.h.phase.Load() == int32(Serving) {
		return
	}
	header["Spillway-Draining"] = yes
	if code != http.StatusSwitchingProtocols {
		header["Connection"] = closing
	}
}

func (w *writer) WriteHeader(code int) {
	if w.status == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		w.mark(code)
		w.status = int32(code)
	}
	w.ResponseWriter.WriteHeader(code)
}

// begin does what the first Write does to the header.
func (w *writer) begin() {
	if w.status == 0 && !w.hijacked {
		w.mark(http.StatusOK)
		w.status = http.StatusOK
	}
}

func (w *writer) Write(p []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(p)
}

// WriteString keeps io.WriteString from copying.
func (w *writer) WriteString(s string) (int, error) {
	w.begin()
	return io.WriteString(w.ResponseWriter, s)
}

// ReadFrom keeps sendfile.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	w.begin()
	return io.Copy(w.ResponseWriter, r)
}

func (w *writer) Flush() { _ = w.FlushError() }

func (w *writer) FlushError() error {
	first := w.status == 0
	w.begin()
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if first && errors.Is(err, http.ErrNotSupported) {
		w.status = 0 // nothing was sent: what follows is the answer
	}
	return err
}

func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = w.hijacked || err == nil
	return conn, rw, err
}

func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
