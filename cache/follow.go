package cache

import (
	"errors"
	"io"
	"net/http"
)

// follow answers from what f's leader gets. It reports false if the request
// has to find its own way.
func (h *handler) follow(w http.ResponseWriter, r *http.Request, l *lookup, f *flight) bool {
	c := h.c
	defer f.leave()
	e, err := f.await(r.Context())
	switch {
	case err == errFillTimeout:
		gatewayTimeout(w, "the answer takes too long")
		c.done(r, f.hash, Failed, reasonTimeout)
		return true
	case err != nil:
		c.done(r, f.hash, Failed, reasonClientGone)
		return true
	}
	rep, st, result, ok := f.answer(r, l, e)
	if !ok {
		return false
	}
	if e.live == nil || rep.bare {
		rep.write(w, st)
		c.done(r, f.hash, result, reasonNone)
		return true
	}
	rd := e.live.reader()
	if rd == nil {
		return false
	}
	defer rd.close()
	return h.stream(w, r, f, rd, &rep, st)
}

// stream sends a body that is still growing. It reports false if that broke
// off before anything was sent.
func (h *handler) stream(w http.ResponseWriter, r *http.Request, f *flight, rd *bodyReader, rep *reply, st stamp) bool {
	c := h.c
	rc := http.NewResponseController(w)
	started := false
	for {
		if started && rd.caughtUp() {
			rc.Flush()
		}
		p, err := rd.next(r.Context())
		switch {
		case errors.Is(err, io.EOF):
			if !started {
				rep.putHeader(w.Header(), st)
				w.WriteHeader(rep.status)
			}
			for _, t := range f.trailer { // not announced: nobody knew
				w.Header()[http.TrailerPrefix+t.name] = t.values
			}
			c.done(r, f.hash, Collapsed, reasonNone)
			return true
		case r.Context().Err() != nil:
			c.done(r, f.hash, Failed, reasonClientGone)
			return true
		case err != nil && !started:
			return false
		case err != nil:
			c.done(r, f.hash, Failed, reasonAborted)
			panic(http.ErrAbortHandler)
		}
		if !started {
			rep.putHeader(w.Header(), st)
			w.WriteHeader(rep.status)
			started = true
		}
		if _, err := w.Write(p); err != nil {
			c.done(r, f.hash, Failed, reasonClientGone)
			return true
		}
	}
}
