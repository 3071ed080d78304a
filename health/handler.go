package health

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// retryAfter is the Retry-After of a probe that fails, in seconds.
const retryAfter = "5"

// probeCounts counts the probes of one group.
type probeCounts struct {
	ok, failed atomic.Uint64
	last       atomic.Int64 // nanoseconds since epoch
}

// Handler returns a handler that answers /livez, /readyz and /startupz and
// passes every other request to next. Put it outermost. A nil next answers 404,
// for a port of its own.
//
// The answers are application/health+json: {"status":"pass"}, 200 for pass
// and warn, 503 with Retry-After for fail, for GET and HEAD. For requests that
// Config.Authorize allows there are also ?verbose, which lists the checks,
// ?exclude=name, which leaves some out (repeatable), and /readyz/name, which
// shows a single check; to anybody else the first two are the plain form and
// the last one does not exist.
//
// Other requests are counted and timed, event streams excepted, whose length
// says nothing.
//
// While the service drains, every response carries "Spillway-Draining: 1" and,
// unless it upgrades, "Connection: close", which over HTTP/2 sends GOAWAY.
func (h *Checker) Handler(next http.Handler) http.Handler {
	if next == nil {
		next = http.NotFoundHandler()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch p := r.URL.Path; {
		case p == "/readyz":
			h.probe(w, r, 1)
		case p == "/livez":
			h.probe(w, r, 0)
		case p == "/startupz":
			h.probe(w, r, 2)
		case strings.HasPrefix(p, "/readyz/"):
			h.probeOne(w, r, 1, p[len("/readyz/"):])
		case strings.HasPrefix(p, "/livez/"):
			h.probeOne(w, r, 0, p[len("/livez/"):])
		case strings.HasPrefix(p, "/startupz/"):
			h.probeOne(w, r, 2, p[len("/startupz/"):])
		default:
			h.serve(w, r, next)
		}
	})
}

// Header values of probes. They are shared by all responses, so nobody may
// write to them; net/http doesn't, and appending to a full slice copies it.
var (
	healthJSON = []string{"application/health+json"}
	noStore    = []string{"no-store"}
	noSniff    = []string{"nosniff"}
	retryLater = []string{retryAfter}
	yes        = []string{"1"}
	closing    = []string{"close"}
)

// probe answers one probe of group i.
func (h *Checker) probe(w http.ResponseWriter, r *http.Request, i int) {
	if !getOrHead(w, r) {
		return
	}
	if r.URL.RawQuery != "" {
		q := r.URL.Query()
		if (q.Has("verbose") || q.Has("exclude")) && h.authorized(r) {
			h.writeVerbose(w, r, i, q["exclude"])
			return
		}
	}
	now := h.now()
	a := &h.loadAt(now).answers[i]
	h.count(i, a.code, now)
	h.writeProbe(w, r, a)
}

// writeProbe writes a rendered answer. It does not allocate.
func (h *Checker) writeProbe(w http.ResponseWriter, r *http.Request, a *answer) {
	header := w.Header()
	if h.phase.Load() != int32(Serving) {
		header["Spillway-Draining"] = yes
		header["Connection"] = closing
	}
	header["Content-Type"] = healthJSON
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
	header["Content-Length"] = a.length
	if a.code == http.StatusServiceUnavailable {
		header["Retry-After"] = retryLater
	}
	w.WriteHeader(a.code)
	if r.Method != http.MethodHead {
		w.Write(a.body)
	}
}

func (h *Checker) count(i, code int, now int64) {
	c := &h.probes[i]
	if code == http.StatusOK {
		c.ok.Add(1)
	} else {
		c.failed.Add(1)
	}
	c.last.Store(now)
}

func getOrHead(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	refuse(w, r, http.StatusMethodNotAllowed, "Only GET and HEAD are allowed here.")
	return false
}

// refuse answers with one line of text. A HEAD has no body.
func refuse(w http.ResponseWriter, r *http.Request, code int, line string) {
	header := w.Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		w.Write([]byte(line + "\n"))
	}
}

func (h *Checker) authorized(r *http.Request) (ok bool) {
	if h.cfg.Authorize == nil {
		return false
	}
	defer func() {
		if recover() != nil {
			h.hookPanics.Add(1)
			ok = false
		}
	}()
	return h.cfg.Authorize(r)
}

// serve passes a request that is not a probe to next.
func (h *Checker) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	start := h.now()
	st := h.served.mine()
	st.inflight.Add(1)
	if h.phase.Load() != int32(Serving) {
		h.lastArrival.Store(start)
	}
	came := r
	var sw *writer
	if r.Context().Value(drainingKey{}) == nil { // the server isn't ours
		v := &visit{Context: r.Context(), writer: writer{ResponseWriter: w, h: h}}
		v.r = *r.WithContext(v)
		r, sw = &v.r, &v.writer
	} else {
		sw = &writer{ResponseWriter: w, h: h}
	}
	returned := false
	defer func() {
		if returned && sw.status == 0 && !sw.hijacked {
			sw.mark(http.StatusOK) // what net/http sends for us
			sw.status = http.StatusOK
		}
		class := classOf(int(sw.status))
		switch {
		case r.Context().Err() == context.Canceled:
			// The client is gone: neither good nor bad, also where a handler that
			// can't write any more panics, as reverse proxies do.
			class = classCanceled
		case !returned:
			class = class5xx // a panic, which goes on up
		}
		if !sw.stream {
			st.requests[class].observe(time.Duration(h.now() - start))
		}
		if st.inflight.Add(-1) == 0 && h.phase.Load() >= int32(Closing) {
			select {
			case h.idle <- struct{}{}:
			default:
			}
		}
	}()
	next.ServeHTTP(sw, r)
	if form := r.MultipartForm; form != nil && form != came.MultipartForm {
		form.RemoveAll() // net/http removes the files of its own request only
	}
	returned = true
}

// drainingKey is the context key of the Checker that a request came through.
type drainingKey struct{}

// A visit is a request to a server that isn't run by [Checker.Serve]: a context
// that says which Checker it came through, the request with that context, and
// its writer, in one allocation.
type visit struct {
	context.Context
	r      http.Request
	writer writer
}

// Value returns the Checker for its key.
func (v *visit) Value(key any) any {
	if key == any(drainingKey{}) {
		return v.writer.h
	}
	return v.Context.Value(key)
}

// DrainStarted returns a channel that is closed when the service starts to
// drain. It is for handlers that live long, such as streams of events and
// websockets, given the context of their request: they should end soon after.
// It is nil, which blocks for ever, if the request did not come through
// [Checker.Handler].
func DrainStarted(ctx context.Context) <-chan struct{} {
	if h, ok := ctx.Value(drainingKey{}).(*Checker); ok {
		return h.draining
	}
	return nil
}
