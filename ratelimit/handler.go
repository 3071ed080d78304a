package ratelimit

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Handler returns a handler that passes on to next the requests that are
// within the rate, and answers the others with 429. It has the signature that
// middleware chains expect:
//
//	router.Use(lim.Handler)
//
// Answers carry RateLimit and RateLimit-Policy
// (draft-ietf-httpapi-ratelimit-headers-11), unless Config.Headers says
// otherwise. Refusals carry Retry-After in seconds, rounded up, so that a
// client that waits as long as it is told is not refused again on its own
// account.
//
// Handler panics if next is nil.
func (l *Limiter) Handler(next http.Handler) http.Handler {
	if next == nil {
		panic("ratelimit: Handler: next is nil")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var a ask
		p := l.askFor(r, &a)
		if err := l.decide(r.Context(), &a); err != nil {
			if r.Context().Err() == context.Canceled {
				return // nobody is there to answer
			}
			l.counts.mine().refused.Add(1) // the server's own deadline ended the wait
			a.allowed = false
		}
		if !l.cfg.DryRun {
			l.writeFields(w.Header(), p, &a)
		}
		if !a.allowed && l.refuse(w, r, &a) {
			return
		}
		if l.cfg.Settle != nil && a.allowed {
			l.settle(next, w, r, &a)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// refuse answers a request that was refused. It reports false in a dry run.
func (l *Limiter) refuse(w http.ResponseWriter, r *http.Request, a *ask) bool {
	if l.cfg.OnRefuse != nil {
		l.onRefuse(r, a)
	}
	if l.cfg.DryRun {
		return false
	}
	if a.wait != never {
		w.Header()["Retry-After"] = []string{strconv.FormatInt(wholeSeconds(a.wait), 10)}
	}
	if l.cfg.Fallback != nil {
		l.cfg.Fallback.ServeHTTP(w, r)
		return true
	}
	l.answer(w, r, a)
	return true
}

func (l *Limiter) onRefuse(r *http.Request, a *ask) {
	done := false
	defer func() {
		if !done {
			recover()
			l.counts.panics.Add(1)
		}
	}()
	l.cfg.OnRefuse(r, a.keys[0], l.decision(a))
	done = true
}

// answer writes the default 429.
func (l *Limiter) answer(w http.ResponseWriter, r *http.Request, a *ask) {
	status, title := http.StatusTooManyRequests, "Too many requests"
	text := "Too many requests: this request costs more than the limit ever allows."
	if a.degraded && l.cfg.Outage == RefuseAll {
		status, title = http.StatusServiceUnavailable, "Service unavailable"
		text = "Service unavailable: requests cannot be counted right now, try again in a moment."
	} else if a.wait != never {
		s := wholeSeconds(a.wait)
		text = "Too many requests: try again in " + strconv.FormatInt(s, 10) + " seconds."
		if s == 1 {
			text = "Too many requests: try again in 1 second."
		}
	}
	h := w.Header()
	h.Del("Content-Length")
	h["X-Content-Type-Options"] = []string{"nosniff"}
	var body []byte
	if wantsJSON(r.Header) {
		h["Content-Type"] = []string{"application/problem+json"}
		body = fmt.Appendf(nil, `{"detail":"%s","status":%d,"title":"%s"`, text, status, title) // RFC 9457
		if status == http.StatusTooManyRequests {
			body = fmt.Appendf(body, `,"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","violated-policies":[%s]`, a.limits[a.by].item)
		}
		body = append(body, '}')
	} else {
		h["Content-Type"] = []string{"text/plain; charset=utf-8"}
		body = []byte(text)
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(append(body, '\n'))
	}
}

// wantsJSON reports whether Accept names a JSON type, and does not refuse it.
func wantsJSON(h http.Header) bool {
	for _, v := range h["Accept"] {
		for part := range strings.SplitSeq(v, ",") {
			mime, params, _ := strings.Cut(part, ";")
			mime = strings.ToLower(strings.TrimSpace(mime))
			if (mime == "application/json" || mime == "application/problem+json") && !refusedQuality(params) {
				return true
			}
		}
	}
	return false
}

// refusedQuality reports whether params say q=0 (RFC 9110, section 12.4.2).
func refusedQuality(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		if name, v, ok := strings.Cut(strings.TrimSpace(p), "="); ok && strings.EqualFold(name, "q") {
			return strings.HasPrefix(v, "0") && strings.Trim(v, "0.") == ""
		}
	}
	return false
}
