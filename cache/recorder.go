package cache

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
)

// inlineBody is how much of a body the leader may hold back before it starts
// to send: as much as net/http would.
const inlineBody = 2 << 10

// A recorder is the ResponseWriter of a handler that leads a flight. What is
// not kept goes straight to the client. What is kept goes to the body that all
// clients read from, so that a slow one holds up nobody; a pump, which ends
// with the request, sends it to the leader's own.
type recorder struct {
	f *flight
	w http.ResponseWriter // nil in the background
	r *http.Request       // the leader's own
	l lookup

	h     http.Header // what the handler sees: a copy of outer, and its own
	outer outerFields

	status int // 0 until the handler has said it
	act    action
	answer *entry // of actReply
	result Result
	why    reason
	once   []string // Set-Cookie of a 304: for the leader's client alone

	bare     bool // the client takes no body
	rd       *bodyReader
	held     int           // bytes in the body that are not sent, while there is no pump
	pumped   chan struct{} // closed when the pump has ended; nil if there is none
	flushing atomic.Bool   // the handler flushes
	thrown   any           // what the pump panicked with
}

func newRecorder(f *flight, w http.ResponseWriter, r *http.Request, l *lookup) *recorder {
	rec := &recorder{f: f, w: w, r: r, l: *l, h: http.Header{}}
	if w != nil {
		rec.outer.note(w.Header())
		putHeader(rec.h, w.Header())
	}
	return rec
}

func (rec *recorder) Header() http.Header { return rec.h }

func (rec *recorder) Unwrap() http.ResponseWriter { return rec.w }

func (rec *recorder) WriteHeader(status int) {
	if rec.status != 0 {
		return
	}
	if status < 100 || status > 999 { // as net/http would, which sees only what goes to a client
		panic("cache: invalid WriteHeader code " + strconv.Itoa(status))
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		rec.interim(status)
		return
	}
	rec.status = status
	rec.act, rec.answer, rec.result, rec.why = rec.f.respond(status, rec.h, &rec.outer)
	switch rec.act {
	case actReply:
		rec.once = rec.h["Set-Cookie"]
		return
	case actRetry:
		return
	}
	if rec.w == nil {
		return
	}
	if rec.act == actKeep {
		rep, ok := rec.l.replyFor(rec.f.c, rec.answer, rec.answer.received)
		rec.bare = ok && rep.bare
		if ok && rep.status == http.StatusNotModified {
			rep.putHeader(rec.w.Header(), rec.f.c.stampOf(rec.answer, rec.answer.received, rec.line()))
			rec.w.WriteHeader(rep.status)
			http.NewResponseController(rec.w).Flush()
			return
		}
		if !rec.bare {
			rec.rd = rec.answer.live.reader()
		}
	}
	if rec.act == actKeep && rec.answer.status != status { // the rest of a part, which makes it whole
		rep := reply{e: rec.answer, status: rec.answer.status}
		rep.putHeader(rec.w.Header(), rec.f.c.stampOf(rec.answer, rec.answer.received, rec.line()))
		rec.w.WriteHeader(rep.status)
		return
	}
	putHeader(rec.w.Header(), rec.h)
	fw := rec.f.forward()
	fw.stored = rec.act == actKeep
	rec.f.c.addStatus(rec.w.Header(), fw, rec.why)
	rec.w.WriteHeader(status)
}

// line is the leader's member of Cache-Status.
func (rec *recorder) line() string {
	fw := rec.f.forward()
	fw.stored = rec.act == actKeep
	fw.detail = rec.why.String()
	return fw.line(rec.f.c.statusName)
}

// interim passes a 1xx on, with the handler's fields and none of those that
// outer layers had set.
func (rec *recorder) interim(status int) {
	if rec.w == nil {
		return
	}
	h := rec.w.Header()
	before := h.Clone()
	clear(h)
	for name, values := range rec.h {
		if !rec.outer.had(name, values) {
			h[name] = values
		}
	}
	rec.w.WriteHeader(status)
	clear(h)
	putHeader(h, before)
}

// putHeader makes dst equal to src.
func putHeader(dst, src http.Header) {
	for name := range dst {
		if _, ok := src[name]; !ok {
			delete(dst, name)
		}
	}
	for name, values := range src {
		dst[name] = values
	}
}

func (rec *recorder) Write(p []byte) (int, error) {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	if rec.act == actPass && rec.w != nil {
		return rec.w.Write(p)
	}
	return record(rec, p)
}

// WriteString spares the copy that [io.WriteString] makes for those who have
// none.
func (rec *recorder) WriteString(s string) (int, error) {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	if rec.act == actPass && rec.w != nil {
		return io.WriteString(rec.w, s)
	}
	return record(rec, s)
}

// record writes what does not go straight to the client.
func record[T string | []byte](rec *recorder, p T) (int, error) {
	switch {
	case rec.act != actKeep:
		return len(p), nil
	case !bodyAllowed(rec.status):
		return 0, http.ErrBodyNotAllowed
	}
	rec.ahead(len(p))
	n, err := writeTo(rec.f.ctx, rec.answer.live, p)
	if err == errNoReader && rec.bare { // the client has its 304; the rest is for nobody
		return len(p), nil
	}
	return n, err
}

// ReadFrom keeps sendfile where nothing is stored, and spares a copy where
// something is.
func (rec *recorder) ReadFrom(src io.Reader) (int64, error) {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	switch {
	case rec.act == actReply, rec.act == actRetry, rec.w == nil && rec.act == actPass:
		return io.Copy(io.Discard, src)
	case rec.act == actPass:
		return io.Copy(rec.w, src) // uses its ReadFrom
	case !bodyAllowed(rec.status):
		return 0, http.ErrBodyNotAllowed
	}
	rec.ahead(inlineBody + 1)
	n, err := rec.answer.live.readFrom(rec.f.ctx, src)
	if err == errNoReader && rec.bare {
		k, err := io.Copy(io.Discard, src)
		return n + k, err
	}
	return n, err
}

func (rec *recorder) Flush() { rec.FlushError() }

func (rec *recorder) FlushError() error {
	if rec.status == 0 {
		if !flushes(rec.w) {
			return http.ErrNotSupported
		}
		rec.WriteHeader(http.StatusOK)
	}
	if rec.w == nil || rec.act == actReply || rec.act == actRetry {
		return nil
	}
	if rec.rd == nil {
		return http.NewResponseController(rec.w).Flush()
	}
	rec.flushing.Store(true)
	rec.ahead(inlineBody + 1) // from now on the pump flushes what it has sent
	rec.answer.live.nudge()
	return nil
}

// flushes reports whether w can flush, without doing it: if it can't, the
// handler has not answered by trying. A wrapper whose FlushError can say that
// what it wraps doesn't is taken for that. A nil one is that of the background.
func flushes(w http.ResponseWriter) bool {
	for w != nil {
		inner, wraps := w.(interface{ Unwrap() http.ResponseWriter })
		if _, ok := w.(interface{ FlushError() error }); ok {
			if !wraps {
				return true
			}
		} else if _, ok := w.(http.Flusher); ok {
			return true
		} else if !wraps {
			return false
		}
		w = inner.Unwrap()
	}
	return true
}

func (rec *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if rec.w == nil || rec.status != 0 {
		return nil, nil, http.ErrNotSupported
	}
	conn, rw, err := http.NewResponseController(rec.w).Hijack()
	if err == nil {
		rec.status, rec.result, rec.why = http.StatusSwitchingProtocols, Bypass, reasonUpgrade
		rec.f.settle(nil, true)
	}
	return conn, rw, err
}

// finish ends the response after the handler has returned.
func (rec *recorder) finish() {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	var trailer []field
	if rec.act == actPass || rec.act == actKeep {
		trailer = trailersOf(rec.h)
	}
	rec.f.end(nil, trailer)
	if rec.w == nil {
		return
	}
	switch {
	case rec.act == actReply:
		rec.reply()
		return
	case rec.pumped != nil:
		<-rec.pumped
		if rec.thrown != nil {
			panic(rec.thrown)
		}
	case rec.rd != nil:
		rec.send(false)
	}
	rec.sendTrailers(trailer)
}

// reply answers the leader's client from the store.
func (rec *recorder) reply() {
	c := rec.f.c
	now := c.now()
	rep, ok := rec.l.replyFor(c, rec.answer, now)
	if !ok { // a part that does not hold the range: it was asked for whole
		rep = reply{e: rec.answer, status: rec.answer.status}
	}
	fw := rec.f.forward()
	if rec.status != rep.status {
		fw.status = rec.status
	}
	fw.stored = rec.result == Revalidated
	if rec.result == Stale {
		fw.detail = "stale-if-error"
	}
	if len(rec.once) > 0 && rec.answer.field("Set-Cookie") == nil {
		rec.w.Header()["Set-Cookie"] = rec.once
	}
	st := c.stampOf(rec.answer, now, fw.line(c.statusName))
	if rec.result == Revalidated {
		st = st.confirmed(rec.h)
	}
	rep.write(rec.w, st)
}

// abort ends the response of a handler that did not return.
func (rec *recorder) abort() {
	rec.f.end(errAborted, nil)
	if rec.pumped != nil {
		<-rec.pumped
	}
}
