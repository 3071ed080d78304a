package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// Observe returns a RoundTripper that sends requests through next and counts
// what comes back as runs of the check called name: an error or a status of
// 500 and above as a failure, anything else as a pass. A nil next means
// [http.DefaultTransport]. While requests flow, the check's own Probe rests:
// real traffic shows more than a ping, and costs the other side nothing.
//
// One result per FailEvery of the check counts, so that a burst is not taken
// for a row of failures. Requests that their caller gave up do not count. Once
// the check is unregistered the requests just pass.
//
// Observe panics if there is no check of that name.
func (h *Checker) Observe(name string, next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	at, found := slices.BinarySearchFunc(h.checks, name, (*check).compare)
	if !found {
		panic(fmt.Sprintf("health: Observe(%q): there is no check of that name", name))
	}
	o := &observer{h: h, c: h.checks[at], next: next}
	o.due.Store(-1)
	return o
}

type observer struct {
	h    *Checker
	c    *check
	next http.RoundTripper
	due  atomic.Int64 // nanoseconds since the Checker's epoch; results before it don't count
}

func (o *observer) RoundTrip(r *http.Request) (*http.Response, error) {
	start := o.h.now()
	resp, err := o.next.RoundTrip(r)
	now, due := o.h.now(), o.due.Load()
	if now < due || r.Context().Err() == context.Canceled {
		return resp, err
	}
	if !o.due.CompareAndSwap(due, now+int64(o.c.cfg.FailEvery)) {
		return resp, err // another request was faster
	}
	res := result{outcome: passed, took: time.Duration(now - start)}
	switch {
	case err != nil:
		res.outcome, res.err = failed, err
	case resp == nil:
		res.outcome, res.err = failed, errors.New("neither a response nor an error")
	case resp.StatusCode >= http.StatusInternalServerError:
		res.outcome, res.err = failed, Public(fmt.Sprintf("answered %d", resp.StatusCode), nil)
	}
	o.h.record(o.c, res, true)
	return resp, err
}

// CloseIdleConnections passes the call on.
func (o *observer) CloseIdleConnections() {
	if c, ok := o.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
