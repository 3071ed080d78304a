package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// ErrWait is wrapped by the errors of Transport's RoundTripper when a request
// was not sent because it would have had to wait too long.
var ErrWait = errors.New("ratelimit: the wait would be too long")

// Transport returns a RoundTripper that keeps the requests it hands to next
// under the limiter's rates, by making them wait, and that obeys what the
// upstreams answer. A nil next means http.DefaultTransport.
//
// There is one pace per upstream: per what Config.Key names, and where that is
// "", as it is for [ClientIP], per host of the URL. Requests to one upstream go
// in the order they came. One whose wait would outlast its context's deadline,
// or Config.MaxWait, fails at once with an error that wraps [ErrWait]; one
// whose context ends gives its turn back.
//
// A 429 or 503 with Retry-After, and a RateLimit field without anything left,
// pause the upstream, for all requests, at most for Config.MaxPause. A 429
// without Retry-After pauses it for a second. A RateLimit field that promises
// less than the rate slows the pace down to that for as long as it says, at
// most for Config.MaxPause too. Answers from a cache (Age) teach nothing.
// SetRate holds at once, also for those who wait already.
//
// Of the Config, only Rate, Also, Key, Cost, MaxWait and MaxPause matter here.
func (l *Limiter) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{l, next}
}

type transport struct {
	l    *Limiter
	next http.RoundTripper
}

// CloseIdleConnections closes those of the transport underneath.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	l := t.l
	key := l.cfg.Key(r)
	if key == "" {
		key = r.URL.Host
	}
	u := l.upstreams.get(key)
	defer l.upstreams.put(u)
	waited, err := u.wait(r.Context(), &l.plan, l.cost(r), l.cfg.MaxWait)
	l.waits.observe(waited)
	if err != nil {
		if r.Context().Err() == nil { // else the caller has left: no outcome
			l.counts.mine().refused.Add(1)
		}
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, fmt.Errorf("%w (upstream %q)", err, key)
	}
	l.counts.mine().allowed.Add(1)
	res, err := t.next.RoundTrip(r)
	if err == nil && res != nil && l.cfg.MaxPause > 0 {
		if a, ok := learn(res, time.Now()); ok {
			if until := u.obey(a, l.cfg.MaxPause); !until.IsZero() {
				l.journal.add("%s: paused until %s: it %s", key, until.UTC().Format("15:04:05Z"), a.why)
			}
		}
	}
	return res, err
}

// sleep returns early, with an error, when ctx ends, and without when stop is
// closed.
func sleep(ctx context.Context, d time.Duration, stop <-chan struct{}) (stopped bool, err error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false, nil
	case <-stop:
		return true, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
