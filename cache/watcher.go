package cache

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"
)

// A watcher is the ResponseWriter of a request whose answer goes straight to
// the client: the cache has no answer to it, or knows that the last one to its
// key was not fit to keep. It sees the header go by, and may then write the
// body down as it passes. The handler sees the client's own header.
type watcher struct {
	http.ResponseWriter
	c *Cache
	r *http.Request

	result   Result
	job      watchJob
	why      reason
	seen     bool // the header has gone by
	returned bool // the handler has returned
	asker    asker
	fwd      string  // why it was forwarded, for Cache-Status
	keep     *flight // stores the answer as it passes, or nil

	// What some jobs need.
	hash    uint64
	key     string
	started time.Duration
	outer   outerFields
	unfit   *unfitKey
	call    *unsafeCall
}

// A watchJob is what a watcher does with the header.
type watchJob uint8

const (
	jobNone   watchJob = iota
	jobHead            // update what is stored
	jobUnsafe          // invalidate what the request may have changed
	jobUnfit           // see whether the answers are still not fit to keep
)

// pass calls next with the watcher.
func (w *watcher) pass(next http.Handler) {
	defer w.end()
	if w.why == reasonUpgrade {
		next.ServeHTTP(w.ResponseWriter, w.r)
		w.returned = true
		return
	}
	next.ServeHTTP(w, w.r)
	w.returned = true
	if !w.seen {
		w.WriteHeader(http.StatusOK)
	}
}

// end counts the request, and ends what is kept. It runs when the handler
// panics, too.
func (w *watcher) end() {
	c := w.c
	if w.keep != nil {
		var err error
		if !w.returned {
			err = errAborted
		}
		w.keep.end(err, trailersOf(w.ResponseWriter.Header()))
	}
	switch w.job {
	case jobUnsafe:
		if !w.returned {
			c.invalidate(w.r.Context(), w.call, nil, nil) // who knows how far it came
		}
	case jobUnfit:
		c.fillTime.since(c, w.started)
	}
	if !w.returned {
		w.result = Failed
		if w.job == jobUnfit {
			w.why = reasonAborted
		}
	}
	c.done(w.r, w.hash, w.result, w.why)
}

// look does the watcher's job, before the client sees the header.
func (w *watcher) look(status int, h http.Header) {
	c := w.c
	fw, detail := forward{why: w.fwd}, w.why
	if w.why == reasonMethod {
		detail = reasonNone // fwd says so
	}
	switch w.job {
	case jobHead:
		if status == http.StatusOK {
			c.updateFromHead(w.r, w.asker, h, &w.outer, w.key, w.hash, w.started)
		}
	case jobUnsafe:
		if status < 400 {
			w.keep = c.unsafeDone(w.call, w.r, status, h, &w.outer)
		}
	case jobUnfit:
		w.judge(status, h)
		detail = w.why
	}
	fw.stored = w.keep != nil
	c.addStatus(h, fw, detail)
}

func (w *watcher) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *watcher) WriteHeader(status int) {
	if !w.seen && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.seen = true
		w.look(status, w.ResponseWriter.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *watcher) Write(p []byte) (int, error) {
	if !w.seen {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	if w.keep != nil {
		writeDown(w, p[:n], err)
	}
	return n, err
}

// WriteString spares the copy that [io.WriteString] makes for those who have
// none.
func (w *watcher) WriteString(s string) (int, error) {
	if !w.seen {
		w.WriteHeader(http.StatusOK)
	}
	n, err := io.WriteString(w.ResponseWriter, s)
	if w.keep != nil {
		writeDown(w, s[:n], err)
	}
	return n, err
}

// writeDown keeps what has been sent to the client.
func writeDown[T string | []byte](w *watcher, p T, err error) {
	if _, kerr := writeTo(w.keep.ctx, w.keep.entry.live, p); kerr != nil || err != nil {
		w.keep.end(errAborted, nil)
		w.keep = nil
	}
}

func (w *watcher) ReadFrom(src io.Reader) (int64, error) {
	if !w.seen {
		w.WriteHeader(http.StatusOK)
	}
	if w.keep != nil {
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	return io.Copy(w.ResponseWriter, src)
}

func (w *watcher) Flush() { w.FlushError() }

func (w *watcher) FlushError() error {
	if !w.seen {
		if !flushes(w.ResponseWriter) {
			return http.ErrNotSupported
		}
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *watcher) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.seen = true
		switch w.job {
		case jobUnfit:
			w.result, w.why = Bypass, reasonUpgrade
		case jobUnsafe:
			w.c.invalidate(w.r.Context(), w.call, nil, nil) // what it answers nobody sees
		}
	}
	return conn, rw, err
}
