package cache

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"sync"
	"time"
)

// call makes the call of a flight and tells got how it began: a response as it
// came, or an entry to answer from, or an error. It returns when the response
// is stored, or at once if it is not to be.
func (t *transport) call(f *flight, out *http.Request, got func(*http.Response, *entry, Result, reason, error)) {
	c := t.c
	resp, err := t.send(out)
	if err != nil {
		now := c.now()
		if f.stale != nil && !f.strict && f.ctx.Err() == nil && !f.stalePurged() && c.staleIfError(f.stale, 0, now) {
			c.failedOver.Store(max(1, int64(now)))
			f.settle(f.stale, false)
			f.end(nil, nil)
			got(nil, f.stale, Stale, reasonNone, nil)
			return
		}
		f.err = err
		f.settle(nil, false)
		f.end(err, nil)
		got(nil, nil, Failed, reasonAborted, err)
		return
	}
	act, e, result, why := f.respond(resp.StatusCode, resp.Header, nil)
	switch act {
	case actPass:
		f.end(nil, nil)
		if f.background {
			resp.Body.Close()
		}
		got(resp, nil, result, why, nil)
	case actRetry:
		resp.Body.Close()
		f.end(nil, nil)
		got(nil, nil, result, why, nil)
	case actReply:
		f.end(nil, nil)
		got(resp, e, result, why, nil)
		drain(resp.Body)
		f.cancel(nil)
	case actKeep:
		got(resp, e, result, why, nil)
		_, err := e.live.readFrom(f.ctx, resp.Body)
		if cerr := resp.Body.Close(); err == nil && cerr != nil {
			err = cerr
		}
		f.end(err, trailerFields(resp.Trailer))
	}
}

// drainTimeout is how long the end of a body that nobody wants may take.
const drainTimeout = time.Second

// drain reads what is left of a short body, so that its connection can be used
// again, and closes it.
func drain(body io.ReadCloser) {
	late := time.AfterFunc(drainTimeout, func() { body.Close() })
	io.CopyN(io.Discard, body, 4<<10)
	if late.Stop() {
		body.Close()
	}
}

// lead makes the call for everyone who waits.
func (t *transport) lead(r *http.Request, l *lookup, f *flight) (*http.Response, error) {
	c := t.c
	type begun struct {
		resp   *http.Response
		err    error
		result Result
		why    reason
		broken bool // next has panicked with thrown, or called runtime.Goexit
		thrown any
	}
	first := make(chan begun, 1)
	f.keepHeader()
	if e := f.fromTier(r.Context(), l); e != nil {
		f.cancel(nil)
		rep, ok := l.replyFor(c, e, c.now())
		if !ok {
			return nil, nil
		}
		c.done(r, f.hash, Hit, reasonNone)
		return rep.response(r, c.stampAt(e, c.now())), nil
	}
	out := f.request(r, l)
	if out != r { // which is the caller's again when he gives up
		u := *r.URL
		out.URL = &u
	}
	ctx := r.Context()
	go func() {
		defer c.fillTime.since(c, f.started)
		returned := false
		defer func() {
			if !returned { // goes up on the caller's goroutine
				b := begun{broken: true, thrown: recover()}
				f.end(errAborted, nil)
				select {
				case first <- b:
				default: // he has the header already
					c.panicked(b.thrown)
				}
			}
		}()
		var lingers *time.Timer
		t.call(f, out, func(resp *http.Response, e *entry, result Result, why reason, err error) {
			if resp != nil || e != nil {
				bare := false
				if resp, bare = t.begin(ctx, r, l, f, resp, e, result, why); bare {
					lingers = f.linger()
				}
			}
			first <- begun{resp: resp, err: err, result: result, why: why}
		})
		if lingers != nil {
			lingers.Stop()
			f.leaves(1)
		}
		returned = true
	}()
	select {
	case b := <-first:
		if b.resp == nil {
			f.cancel(nil)
		}
		if b.broken {
			c.done(r, f.hash, Failed, reasonAborted)
			if b.thrown == nil {
				runtime.Goexit()
			}
			panic(b.thrown)
		}
		if b.resp != nil || b.err != nil {
			c.done(r, f.hash, b.result, b.why)
		}
		return b.resp, b.err
	case <-ctx.Done():
		// The call goes on if others wait for it. Whoever gets the response
		// closes it.
		f.leaderLeaves()
		c.done(r, f.hash, Failed, reasonClientGone)
		go func() {
			b := <-first
			if b.resp != nil {
				b.resp.Body.Close()
			}
			c.panicked(b.thrown)
		}()
		return nil, context.Cause(ctx)
	}
}

// begin returns the response that the leader's caller gets, and whether that is
// without the body, which is on its way nevertheless. It looks into nothing of r,
// which may be the caller's again.
func (t *transport) begin(ctx context.Context, r *http.Request, l *lookup, f *flight, resp *http.Response, e *entry, result Result, why reason) (out *http.Response, bare bool) {
	c := t.c
	now := c.now()
	fw := f.forward()
	if e == nil { // as it came
		c.addStatus(resp.Header, fw, why)
		resp.Request = r
		resp.Body = &guardedBody{resp.Body, func() { f.cancel(nil) }, sync.Once{}}
		return resp, false
	}
	rep, ok := l.replyFor(c, e, now)
	if !ok {
		rep = reply{e: e, status: e.status}
	}
	if e.live == nil { // from the store
		if resp == nil {
			f.cancel(nil)
		} // or call does, when it has drained resp
		if resp != nil && rep.status != resp.StatusCode {
			fw.status = resp.StatusCode
		}
		if fw.stored = result == Revalidated; result == Stale {
			fw.detail = "stale-if-error"
		}
		st := c.stampOf(e, now, fw.line(c.statusName))
		if result == Revalidated {
			st = st.confirmed(resp.Header)
		}
		out = rep.response(r, st)
		if resp != nil && len(resp.Header["Set-Cookie"]) > 0 {
			out.Header["Set-Cookie"] = resp.Header["Set-Cookie"]
		}
		return out, false
	}
	fw.stored = true
	if rep.bare {
		return rep.response(r, c.stampOf(e, now, fw.line(c.statusName))), true
	}
	if e.status != resp.StatusCode { // the rest of a part, which makes it whole
		out = rep.response(r, c.stampOf(e, now, fw.line(c.statusName)))
		out.ContentLength = e.size
		out.Body = &liveBody{rd: e.live.reader(), ctx: ctx, done: f.leaderLeaves}
		return out, false
	}
	copied := *resp
	copied.Header = resp.Header.Clone()
	c.addStatus(copied.Header, fw, why)
	copied.Request = r
	body := &liveBody{rd: e.live.reader(), ctx: ctx, done: f.leaderLeaves}
	if copied.Trailer == nil { // it may have one that was not announced
		copied.Trailer = http.Header{}
		body.late, body.trailer = &f.trailer, copied.Trailer
	}
	copied.Body = body
	return &copied, false
}

// follow answers from what f's leader gets. ok is false if the request has to
// find its own way.
func (t *transport) follow(r *http.Request, l *lookup, f *flight) (resp *http.Response, err error, ok bool) {
	c := t.c
	leave := sync.OnceFunc(f.leave)
	stays := false // until it has read the body
	defer func() {
		if !stays {
			leave()
		}
	}()
	e, err := f.await(r.Context())
	switch {
	case err == errFillTimeout:
		c.done(r, f.hash, Failed, reasonTimeout)
		return nil, err, true
	case err != nil:
		c.done(r, f.hash, Failed, reasonClientGone)
		return nil, err, true
	case e == nil && f.err != nil && !f.abandoned():
		c.done(r, f.hash, Failed, reasonAborted)
		return nil, f.err, true
	}
	rep, st, result, ok := f.answer(r, l, e)
	if !ok {
		return nil, nil, false
	}
	resp = rep.response(r, st)
	if e.live != nil && !rep.bare {
		rd := e.live.reader()
		if rd == nil { // too late: its start is gone
			f.bar()
			return nil, nil, false
		}
		stays = true
		resp.ContentLength = e.size
		resp.Trailer = http.Header{}
		resp.Body = &liveBody{rd: rd, ctx: r.Context(), done: leave, late: &f.common, trailer: resp.Trailer}
	}
	c.done(r, f.hash, result, reasonNone)
	return resp, nil, true
}
