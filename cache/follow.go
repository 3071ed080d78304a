package cache

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// follow answers from what f's leader gets. It reports false if the request
// has to find its own way.
func (h *handler) follow(w http.ResponseWriter, r *http.Request, l *lookup, f *flight) bool {
	c := h.c
	defer f.leave()
	e, err := f.await(r.Context())
	switch {
	case err == errFillTimeout, err != nil && outOfTime(r):
		h.tooLate(w, r, f)
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
	if rd == nil { // too late: its start is gone
		f.bar()
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
			for _, t := range f.common { // not announced: nobody knew
				w.Header()[http.TrailerPrefix+t.name] = t.values
			}
			c.done(r, f.hash, Collapsed, reasonNone)
			return true
		case r.Context().Err() == context.Canceled:
			c.done(r, f.hash, Failed, reasonClientGone)
			return true
		case err != nil && !started && outOfTime(r):
			h.tooLate(w, r, f)
			return true
		case err != nil && !started:
			return false
		case err != nil: // or else what was sent would count as whole
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

// outOfTime reports whether a deadline that a layer around the cache has set is
// past. Then the client is still there, and must not take what it gets for an
// answer.
func outOfTime(r *http.Request) bool { return r.Context().Err() == context.DeadlineExceeded }

// tooLate answers a client that has waited for f for too long.
func (h *handler) tooLate(w http.ResponseWriter, r *http.Request, f *flight) {
	gatewayTimeout(w, "the answer takes too long")
	h.c.done(r, f.hash, Failed, reasonTimeout)
}

// wait waits for the header of f's response. The handler may be deaf to its
// context, so those who wait look at the clock themselves, a moment later.
func (f *flight) wait(ctx context.Context) error {
	if f.ready == nil { // it had come before
		return nil
	}
	var late <-chan time.Time
	if d := f.c.fillTimeout; d > 0 {
		timer := time.NewTimer(f.started + d + min(d/10, time.Second) - f.c.now())
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-f.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-late:
		f.bar()
		return errFillTimeout
	}
}

// await waits and returns what those who wait may answer from, if it suits
// them: nil if there is nothing.
func (f *flight) await(ctx context.Context) (*entry, error) {
	err := f.wait(ctx)
	switch err {
	case nil:
		return f.share, nil
	case errFillTimeout:
		if e := f.standIn(); e != nil {
			return e, nil
		}
	}
	return nil, err
}

// standIn returns what those who have waited too long may be answered with, or
// nil.
func (f *flight) standIn() *entry {
	f.shard.mu.Lock()
	e := f.stale // fromTier may just be setting it
	if e != nil && f.stalePurgedLocked() {
		e = nil
	}
	f.shard.mu.Unlock()
	now := f.c.now()
	if e == nil || e.part || f.strict || !f.c.staleIfError(e, http.StatusGatewayTimeout, now) {
		return nil
	}
	f.c.failedOver.Store(max(1, int64(now)))
	return e
}

// answer returns what a request that has waited for f is answered with from e,
// which await has returned. ok is false if that does not suit it.
func (f *flight) answer(r *http.Request, l *lookup, e *entry) (rep reply, st stamp, result Result, ok bool) {
	c := f.c
	if e == nil || !c.normal.matches(e, r.Header) {
		return rep, st, Failed, false
	}
	now := c.now()
	if rep, ok = l.replyFor(c, e, now); !ok {
		return rep, st, Failed, false
	}
	fw := f.forward()
	fw.collapsed = true
	result = Collapsed
	if e == f.stale {
		result, fw.detail = Stale, "stale-if-error"
	}
	return rep, c.stampOf(e, now, fw.line(c.statusName)), result, true
}

// freed reports whether those who have waited in vain are to call the origin
// themselves, and not to wait again.
func (f *flight) freed() bool {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	return f.free
}
