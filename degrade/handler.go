package degrade

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Handler returns a handler that passes to next the requests that there is room
// for, and answers the others 503 with Retry-After, or lets Config.Fallback
// answer them. A request whose client hung up while it waited is answered
// nothing. The slot is given back when next returns, panics or ends its
// goroutine. In next, [PriorityOf] returns the priority of the request. Handler
// panics if next is nil.
func (s *Shedder) Handler(next http.Handler) http.Handler {
	if next == nil {
		panic("degrade: Handler: next is nil")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		came := r
		exempt := s.cfg.Exempt != nil && s.cfg.Exempt(r)
		r, believed := s.believe(r)
		if exempt {
			serve(next, w, r, came)
			return
		}
		t := ticket{}
		r, cancel := s.read(r, believed, &t)
		if cancel != nil {
			defer cancel()
		}
		tenant := ""
		if s.cfg.Tenant != nil {
			tenant = s.cfg.Tenant(r)
		}
		long := s.longLived(r) // before there is a slot that a panic would lose
		if err := s.acquire(r.Context(), &t, tenant); err != nil {
			s.answer(w, r, err)
			return
		}
		if long {
			s.streams.Add(1)
			defer s.streams.Add(-1)
			s.core.leave(s.now(), -1, t.n)
			serve(next, w, r, came)
			return
		}
		defer s.release(&t, r.Context())
		serve(next, w, r, came)
	})
}

// serve calls next with r, which may be a copy of the request that came. The
// files of a form that next reads into a copy are removed here, because net/http
// removes those of its own request only.
func serve(next http.Handler, w http.ResponseWriter, r, came *http.Request) {
	next.ServeHTTP(w, r)
	if form := r.MultipartForm; form != nil && form != came.MultipartForm {
		form.RemoveAll()
	}
}

// believe reports whether r has fields of ours that are to be believed. Those
// that are not are gone from the request that it returns, or a proxy would hand
// them to a service that believes us.
func (s *Shedder) believe(r *http.Request) (*http.Request, bool) {
	if r.Header[PriorityHeader] == nil && r.Header[TimeoutHeader] == nil {
		return r, false
	}
	if s.cfg.Trust != nil && s.cfg.Trust(r) {
		return r, true
	}
	r = r.WithContext(r.Context()) // a handler must not change what it is given
	r.Header = r.Header.Clone()
	delete(r.Header, PriorityHeader)
	delete(r.Header, TimeoutHeader)
	return r, false
}

// read finds out the priority of r, and heeds the deadline that a client has
// sent along who is believed. A request that is Normal keeps its context, which
// saves the copy.
func (s *Shedder) read(r *http.Request, believed bool, t *ticket) (*http.Request, context.CancelFunc) {
	ctx, cancel, known := r.Context(), context.CancelFunc(nil), false
	if believed {
		t.p, known = ParsePriority(header(r.Header, PriorityHeader))
		if ms, ok := parseTimeout(header(r.Header, TimeoutHeader)); ok {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		}
	}
	if !known && s.cfg.Priority != nil {
		t.p = s.cfg.Priority(r).clamp()
	}
	switch {
	case t.p != Normal:
		r = carry(r, ctx, t.p)
	case cancel != nil:
		r = r.WithContext(ctx)
	}
	return r, cancel
}

func (s *Shedder) longLived(r *http.Request) bool {
	if s.cfg.LongLived != nil {
		return s.cfg.LongLived(r)
	}
	accept := r.Header["Accept"]
	return r.Header["Upgrade"] != nil || len(accept) > 0 && strings.HasPrefix(accept[0], "text/event-stream")
}

// answer refuses r.
func (s *Shedder) answer(w http.ResponseWriter, r *http.Request, err error) {
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok {
		if errors.Is(err, context.DeadlineExceeded) {
			refused = &RefusedError{Name: s.name, Reason: reasons[tooLate], retry: time.Second}
		} else {
			return // nobody is there to read an answer
		}
	}
	h := w.Header()
	seconds := int((refused.retry + time.Second - 1) / time.Second)
	h["Retry-After"] = []string{strconv.Itoa(max(seconds, 1))}
	h["X-Content-Type-Options"] = nosniff
	h["Cache-Control"] = noStore
	if s.cfg.Fallback != nil {
		s.cfg.Fallback.ServeHTTP(w, r)
		return
	}
	unavailable(w, r, textBody, problemBody)
}

// unavailable writes a 503, as a problem (RFC 9457) for those who want JSON.
func unavailable(w http.ResponseWriter, r *http.Request, text, problem []byte) {
	h := w.Header()
	h["X-Content-Type-Options"] = nosniff
	body := text
	if wantsJSON(r) {
		h["Content-Type"] = typeProblem
		body = problem
	} else {
		h["Content-Type"] = typeText
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

// Values shared by all answers; they are never changed.
var (
	nosniff     = []string{"nosniff"}
	noStore     = []string{"no-store"}
	typeText    = []string{"text/plain; charset=utf-8"}
	typeProblem = []string{"application/problem+json"}
	textBody    = text("The service is overloaded. Please try again after the time in Retry-After.")
	problemBody = problem("The service is overloaded. Please try again after the time in Retry-After.")
	offText     = text("This part of the service is switched off for a while.")
	offProblem  = problem("This part of the service is switched off for a while.")
)

func text(s string) []byte { return []byte(s + "\n") }

func problem(detail string) []byte {
	return []byte(`{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"` + detail + `"}` + "\n")
}

// wantsJSON reports whether Accept names a JSON type.
func wantsJSON(r *http.Request) bool {
	for _, a := range r.Header["Accept"] {
		if strings.Contains(a, "application/json") || strings.Contains(a, "application/problem+json") {
			return true
		}
	}
	return false
}
