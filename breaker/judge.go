package breaker

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// A Verdict is what a call counts as.
type Verdict uint8

// The verdicts of Config.Judge.
const (
	Success Verdict = iota
	Failure
	Ignore // neither: it isn't counted, and a probe's place is free again
	Trip   // a failure that opens the circuit at once
)

// An Outcome is how a call ended. A Transport asks about a response when its
// header is there, and if that is a Success once more when its body breaks off,
// then with Err.
type Outcome struct {
	// Status is the response's, or 0 if there was none.
	Status int

	// Header is the response's, or nil. It must not be changed.
	Header http.Header

	// Err is the error of the transport, of reading the response's body, or of
	// the function that [Do] called.
	Err error
}

// DefaultJudge is the rule of a Config without a Judge. An error is a failure,
// and so is a status of 500 and above, other than 501 and 505, which say that
// the request won't do. 429 is ignored: the upstream works, for others. So are
// [context.Canceled], which comes from our side of a call, and [ErrOpen], by
// which another Breaker says that there was no call. Anything else is a
// success, 4xx included.
//
// A Judge of one's own can fall back to it:
//
//	Judge: func(o breaker.Outcome) breaker.Verdict {
//		if o.Status == http.StatusTooManyRequests {
//			return breaker.Failure
//		}
//		return breaker.DefaultJudge(o)
//	}
func DefaultJudge(o Outcome) Verdict {
	if o.Err != nil {
		if errors.Is(o.Err, context.Canceled) || errors.Is(o.Err, ErrOpen) {
			return Ignore
		}
		return Failure
	}
	switch o.Status {
	case http.StatusTooManyRequests:
		return Ignore
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return Success
	}
	if o.Status >= 500 {
		return Failure
	}
	return Success
}

// judge asks for a verdict about a call made with ctx, and notes a failure for
// the page.
func (c *call) judge(ctx context.Context, o Outcome) Verdict {
	if (o.Err != nil || o.Status >= 500) && gone(ctx) {
		return Ignore
	}
	var v Verdict
	if judge := c.b.fam.cfg.Judge; judge != nil {
		v = judge(o)
	} else {
		v = DefaultJudge(o)
	}
	if v == Failure || v == Trip {
		c.b.fail(o.Err, o.Status)
	}
	return v
}

var errPanicked = errors.New("the call panicked or its goroutine exited")

// A LastFailure is the last call that counted as a failure.
type LastFailure struct {
	At     time.Time
	Key    string // of the circuit
	Status int    // 0 if there was none
	Err    error  // nil if the status tells
}

func (b *Breaker) fail(err error, status int) {
	l := &LastFailure{At: time.Now(), Key: b.key, Status: status, Err: err}
	b.mu.Lock()
	b.last = l
	b.mu.Unlock()
}

// asked returns what the upstream's answer asks for.
func (c *call) asked(status int, h http.Header) time.Duration {
	if c.b.fam.cfg.MaxRetryAfter == 0 {
		return 0
	}
	return retryAfter(status, h)
}

// askedBy returns what an error asks for, if it has a method RetryAfter() of
// type time.Duration.
func (c *call) askedBy(err error) time.Duration {
	if c.b.fam.cfg.MaxRetryAfter == 0 || errors.Is(err, ErrOpen) {
		return 0
	}
	type asking interface {
		error
		RetryAfter() time.Duration
	}
	if e, ok := errors.AsType[asking](err); ok {
		return e.RetryAfter()
	}
	return 0
}

// retryAfter returns what a 429 or 503 asks for: RFC 9110, section 10.2.3, in
// seconds or as a date. It returns 0 if there is nothing sensible.
func retryAfter(status int, h http.Header) time.Duration {
	if status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return 0
	}
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}
