package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// deadline is how long somebody waits for an answer. One that comes later is
// of no use to anybody.
const deadline = time.Second

// A generator sends requests when they are due. It is an open loop: it does not
// wait for answers, so a slow service gets no mercy, and latency counts from
// the moment a request was due, not from when it was sent, so a generator that
// has fallen behind can't hide what it has missed (coordinated omission).
type generator struct {
	client *http.Client
	lag    *hdrhistogram.Histogram // of the sending goroutine, in microseconds; its alone
}

// newGenerator returns a generator that connects to this machine only, unless
// anywhere is set. It follows no redirects and uses no proxy, so that the load
// goes where it was meant to and nowhere else.
func newGenerator(anywhere bool) *generator {
	dialer := &net.Dialer{Timeout: deadline}
	if !anywhere {
		dialer.Control = loopbackOnly
	}
	return &generator{
		client: &http.Client{
			Transport:     transport(dialer),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		lag: newHistogram(),
	}
}

// loopbackOnly refuses every other address, after names have been resolved.
func loopbackOnly(_, address string, _ syscall.RawConn) error {
	if ap, err := netip.ParseAddrPort(address); err != nil || !ap.Addr().Unmap().IsLoopback() {
		return fmt.Errorf("flood: %s is not on this machine; a flood is only for services that are yours: -insist sends it all the same", address)
	}
	return nil
}

// A sink gets every request's outcome. Its methods are safe for concurrent use.
type sink interface {
	offered(a arrival, lag time.Duration) // lag is how late it is sent
	answered(a arrival, o outcome)
}

// A destination is where the generator sends every arrival to.
type destination struct {
	base string // URL
	sink sink
}

// run sends what is due to every destination until the arrivals or ctx end,
// and waits for the answers that are still on their way. It returns how long
// it has been sending.
func (g *generator) run(ctx context.Context, start time.Time, due iter.Seq[arrival], to []destination) time.Duration {
	var inFlight sync.WaitGroup
	defer inFlight.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for a := range due {
		at := start.Add(a.due)
		timer.Reset(time.Until(at))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return time.Since(start)
		}
		lag := max(0, time.Since(at))
		g.lag.RecordValue(max(1, lag.Microseconds()))
		for _, d := range to {
			d.sink.offered(a, lag)
			inFlight.Go(func() { d.sink.answered(a, g.send(a, at, d.base)) })
		}
	}
	return time.Since(start)
}

// closedLoop keeps so many requests at once going for d and returns how many a
// second were answered well: what a service can do when nobody sends it more.
// The first quarter warms it up and does not count.
func (g *generator) closedLoop(ctx context.Context, workers int, d time.Duration, due iter.Seq[arrival], base string) float64 {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	begin := time.Now().Add(d / 4)
	next, stop := iter.Pull(due)
	defer stop()
	var mu sync.Mutex
	var done atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				a, ok := next()
				mu.Unlock()
				if !ok {
					return
				}
				o := g.send(a, time.Now(), base)
				if o.result == good && time.Now().After(begin) && ctx.Err() == nil {
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / (d * 3 / 4).Seconds()
}

// A result is what became of a request. Each has exactly one.
type result uint8

const (
	good    result = iota // answered well, in time
	late                  // no answer within the deadline: the client has gone away
	refused               // 429 or 503: told to come back later
	failed                // any other status, or a broken connection
	results
)

func (r result) String() string { return [...]string{"good", "late", "refused", "errors"}[r] }

// An outcome is a result and what else is known about it.
type outcome struct {
	result     result
	took       time.Duration // since the request was due
	at         time.Time     // when it was known
	cached     bool          // answered from the cache
	reduced    bool          // answered without an optional feature
	retryAfter bool          // a refusal that says when to come back
	why        string        // of failed
}

// send sends one request, waits for its answer until the deadline, and says
// what became of it.
func (g *generator) send(a arrival, due time.Time, base string) (o outcome) {
	defer func() {
		o.at = time.Now()
		o.took = min(o.at.Sub(due), deadline)
	}()
	ctx, cancel := context.WithDeadline(context.Background(), due.Add(deadline))
	defer cancel()
	req, err := a.request(base)
	if err != nil {
		return outcome{result: failed, why: err.Error()}
	}
	resp, err := g.client.Do(req.WithContext(ctx))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	switch {
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded):
		return outcome{result: late}
	case err != nil:
		return outcome{result: failed, why: err.Error()}
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable:
		return outcome{result: refused, retryAfter: resp.Header.Get("Retry-After") != ""}
	case resp.StatusCode >= 400:
		return outcome{result: failed, why: resp.Status}
	}
	return outcome{
		result:  good,
		cached:  strings.Contains(resp.Header.Get("Cache-Status"), "; hit"),
		reduced: resp.Header.Get(degradedHeader) != "",
	}
}

// newHistogram holds microseconds, up to a minute, to two digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Minute.Microseconds(), 2)
}
