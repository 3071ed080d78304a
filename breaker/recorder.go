package breaker

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
)

// A recorder sees the status that a handler answers with, and passes everything
// else on. It is not reused: handlers may write after they have returned.
type recorder struct {
	http.ResponseWriter
	c       call
	r       *http.Request
	status  int
	verdict Verdict
}

// Unwrap is for [http.ResponseController].
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.header(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// header notes the final status. Whether the client is still there is asked
// now: a 5xx that it has seen counts, even if it hangs up on it.
func (w *recorder) header(status int) {
	w.status = status
	f := w.c.b.fam
	if !f.cfg.SlowToEnd {
		w.c.answered()
	}
	w.verdict = w.c.judge(w.r.Context(), Outcome{Status: status, Header: w.Header()})
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.header(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom keeps sendfile.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.header(http.StatusOK)
	}
	return io.Copy(w.ResponseWriter, r)
}

func (w *recorder) Flush() { _ = w.FlushError() }

func (w *recorder) FlushError() error {
	first := w.status == 0
	if first {
		w.header(http.StatusOK)
	}
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if first && errors.Is(err, http.ErrNotSupported) {
		w.status = 0 // nothing was sent: what follows is the answer
	}
	return err
}

func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	first := w.status == 0
	if first {
		w.header(http.StatusSwitchingProtocols)
	}
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if first && err != nil {
		w.status = 0
	}
	return conn, rw, err
}

// finish ends the call after the handler has returned.
func (w *recorder) finish() {
	if w.status == 0 {
		w.header(http.StatusOK)
	}
	if w.verdict == Success && gone(w.r.Context()) {
		w.verdict = Ignore
	}
	w.c.end(w.verdict, w.c.asked(w.status, w.Header()))
}

// abandon is deferred, for a handler that panics.
func (w *recorder) abandon() { w.c.abandon(w.r.Context()) }
