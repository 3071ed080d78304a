package balancer

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Retry says which failed requests are sent to another backend. The zero value
// is the defaults.
//
// A request is retried after a transport error, and after 502, 503 and 504, if
// it is safe to send again: if its method is idempotent (RFC 9110, section
// 9.2.2), if it carries Idempotency-Key, or if it provably was not sent. A
// retry always goes to a backend that this request has not tried and that has
// not asked to be left alone (Retry-After). Nothing is retried once a response
// has been returned, and nothing that Budget does not allow.
type Retry struct {
	// Max is the most retries of one request, at most 7. Default 2; a
	// negative number means none.
	Max int

	// Budget bounds the retries and hedges of all requests. Nil means
	// NewBudget(0.2, 10): a fifth of the requests and ten per second.
	Budget *Budget

	// PerTry bounds the time to the response header of each attempt, within
	// what the request's own context leaves. Zero means no bound: then a
	// backend that hangs costs all the time that the request has.
	PerTry time.Duration

	// Backoff is the longest wait before the first retry; it doubles for each
	// one after. The wait is random, from zero. Default 10 milliseconds, a
	// negative number no wait.
	Backoff time.Duration

	// MaxBody is how much of a request's body is kept to be sent again, for
	// requests that may be retried and have no GetBody. Default 64 KiB; a
	// negative number keeps nothing. A body that has not been read yet can
	// always be sent again.
	MaxBody int64

	// When, if set, says whether an answer is retried, if it is safe. Exactly
	// one of its arguments is nil.
	When func(*http.Response, error) bool
}

func (c *Retry) check(bad func(string, ...any), period func(string, *time.Duration, time.Duration)) {
	switch {
	case c.Max >= maxTries:
		bad("Retry.Max is %d, must be at most %d", c.Max, maxTries-1)
	case c.Max < 0:
		c.Max = 0
	case c.Max == 0:
		c.Max = 2
	}
	period("Retry.PerTry", &c.PerTry, 0)
	if c.Backoff == 0 {
		c.Backoff = 10 * time.Millisecond
	}
	if c.MaxBody == 0 {
		c.MaxBody = 64 << 10
	}
	if c.When == nil {
		c.When = retryable
	}
}

// retryable is the default of Retry.When.
func retryable(resp *http.Response, err error) bool {
	if err != nil {
		return true
	}
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// idempotent reports whether a request can be sent twice, by RFC 9110, section
// 9.2.2, or because its sender says so.
func idempotent(r *http.Request) bool {
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return len(r.Header["Idempotency-Key"]) > 0 || len(r.Header["X-Idempotency-Key"]) > 0
}

// dialFailed reports whether err says that no connection came about.
func dialFailed(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// errPerTry is the cause of an attempt's end by Retry.PerTry.
var errPerTry error = perTryError{}

type perTryError struct{}

func (perTryError) Error() string { return "balancer: no answer within Retry.PerTry" }
func (perTryError) Timeout() bool { return true }

// Is makes it a deadline like any other.
func (perTryError) Is(target error) bool { return target == context.DeadlineExceeded }

// mayRetry takes one from the budget.
func (b *Balancer) mayRetry() bool {
	if !b.budget.take(b.base.Add(b.now())) {
		b.overBudget.Add(1)
		return false
	}
	b.retries.Add(1)
	return true
}

// pause waits before the n-th retry, and reports false if ctx ends.
func (b *Balancer) pause(ctx context.Context, n int) bool {
	most := b.cfg.Retry.Backoff << n
	if most <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(time.Duration(b.rand() % uint64(most)))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// retryAfter reads the Retry-After of a refusal: seconds or a date (RFC 9110,
// section 10.2.3), at most 30 seconds.
func retryAfter(h http.Header, now time.Time) time.Duration {
	s := h.Get("Retry-After")
	if s == "" {
		return 0
	}
	const most = 30 * time.Second
	if n, err := strconv.ParseUint(s, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		return min(time.Duration(n)*time.Second, most)
	}
	if at, err := http.ParseTime(s); err == nil {
		return min(max(at.Sub(now), 0), most)
	}
	return 0
}
