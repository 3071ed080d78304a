package ratelimit

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
)

// An Outcome is how a request was answered.
type Outcome struct {
	Status  int         // 200 if the handler wrote nothing, 0 if it panicked before
	Written int64       // bytes of body
	Header  http.Header // as the handler left it
}

// settle serves r and charges what it has cost in the end.
func (l *Limiter) settle(next http.Handler, w http.ResponseWriter, r *http.Request, a *ask) {
	rec := &recorder{ResponseWriter: w}
	finished := false
	defer func() { // a panic goes on up
		if rec.status == 0 && finished {
			rec.status = http.StatusOK
		}
		cost := l.cfg.Settle(r, Outcome{rec.status, rec.written, w.Header()})
		if cost < 0 {
			l.counts.errors.Add(1)
			return
		}
		more := cost - a.n
		if more < 0 && (!finished || r.Context().Err() != nil) {
			return
		}
		if a.n = more; a.degraded && l.cfg.Outage == DecideLocally {
			for _, lim := range a.limits[:a.all] {
				a.n = max(a.n, -lim.rate.Burst) // no more was charged
			}
			l.mem.Load().charge(a) // that is where it was charged, by the local rates
			return
		}
		if a.degraded && more < 0 {
			return // nothing was charged that could be given back
		}
		if more != 0 {
			l.chargeAsk(context.WithoutCancel(r.Context()), a)
		}
	}()
	next.ServeHTTP(rec, r)
	finished = true
}

// A recorder remembers the status and counts the bytes that pass.
type recorder struct {
	http.ResponseWriter
	status  int
	written int64
}

func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	w.begun()
	n, err := w.ResponseWriter.Write(p)
	w.written += int64(n)
	return n, err
}

// ReadFrom keeps sendfile.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	w.begun()
	n, err := io.Copy(w.ResponseWriter, r)
	w.written += n
	return n, err
}

func (w *recorder) Flush() { w.FlushError() }

func (w *recorder) FlushError() error {
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if !errors.Is(err, http.ErrNotSupported) { // else nothing was sent
		w.begun()
	}
	return err
}

func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

func (w *recorder) begun() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}
