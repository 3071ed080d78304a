package breaker

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Handler returns a handler that passes requests to next while the circuit lets
// them, and counts the statuses that next answers with; see [DefaultJudge]. It
// answers 503 otherwise, with Retry-After, or calls Config.Fallback.
//
// All requests share the Breaker's own circuit, unless Config.Key tells them
// apart. A client that hangs up counts as nothing. A panic counts as a failure,
// [http.ErrAbortHandler] included, and goes on up.
//
// Handler panics if next is nil.
func (b *Breaker) Handler(next http.Handler) http.Handler {
	if next == nil {
		panic("breaker: Handler: next is nil")
	}
	return &handler{b: b, next: next}
}

type handler struct {
	b    *Breaker
	next http.Handler
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := h.b.fam
	b := h.b
	var now int64
	if f.cfg.Key != nil && b == f.root {
		now = f.now()
		b = f.find(f.cfg.Key(r), now)
	}
	var c call
	if no := c.enter(b, now); no != nil {
		f.refuseHTTP(w, r, no)
		return
	}
	rec := &recorder{ResponseWriter: w, c: c, r: r}
	defer rec.abandon()
	h.next.ServeHTTP(rec, r)
	rec.finish()
}

// refuseHTTP answers a request that is refused.
func (f *family) refuseHTTP(w http.ResponseWriter, r *http.Request, e *OpenError) {
	h := w.Header()
	wait := strconv.FormatInt(max(1, int64((e.RetryAfter()+time.Second-1)/time.Second)), 10)
	h.Set("Retry-After", wait)
	if f.cfg.Fallback != nil {
		f.cfg.Fallback.ServeHTTP(w, r)
		return
	}
	// Neither why nor which key: those are for the operators, not for strangers.
	detail := e.Name + " is unavailable; try again in " + wait + " s"
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Content-Length")
	var body []byte
	if wantsJSON(r.Header) {
		h.Set("Content-Type", "application/problem+json")
		// RFC 9457; its type is about:blank, the default.
		body = []byte(`{"title":"Service Unavailable","status":503,"detail":` + quoted(detail) + `}`)
	} else {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		body = []byte(detail)
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	if r.Method != http.MethodHead {
		_, _ = w.Write(append(body, '\n'))
	}
}

// quoted returns s as a string of JSON (RFC 8259, section 7). To link
// encoding/json for the one name in a refusal would double the package.
func quoted(s string) string {
	b := []byte{'"'}
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ':
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return string(append(b, '"'))
}

// wantsJSON reports whether Accept names JSON, or problem+json, and does not
// refuse it with q=0.
func wantsJSON(h http.Header) bool {
	for _, line := range h["Accept"] {
		for item := range strings.SplitSeq(line, ",") {
			media, params, _ := strings.Cut(item, ";")
			switch strings.ToLower(strings.TrimSpace(media)) {
			case "application/json", "application/problem+json":
				if !zeroQuality(params) {
					return true
				}
			}
		}
	}
	return false
}

func zeroQuality(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, v, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			v = strings.TrimSpace(v)
			return strings.HasPrefix(v, "0") && strings.Trim(v, "0.") == ""
		}
	}
	return false
}
