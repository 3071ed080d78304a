package chain

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// books count what passes between the parts, to be held against what the parts
// say of it.
type books struct {
	parts                       *parts
	health, lim, cache, shed, b passage

	pool    *balancer.Balancer // nil without one
	proxied flow               // what came to its proxy

	clients bool // it is their side that is looked at, where nobody sees who panics or leaves
}

// A passage counts what came to a part, and what it let through.
type passage struct{ came, passed flow }

// around puts what counts on both sides of a part.
func (p *passage) around(part func(http.Handler) http.Handler, next http.Handler) http.Handler {
	return p.came.tap(part(p.passed.tap(next)))
}

// A flow counts requests by how they ended. Those for event streams, which
// health does not time, are counted by themselves.
type flow struct {
	requests, streams ends
	failed            atomic.Int64 // by what the handler answers
}

type ends struct {
	all, panicked, left atomic.Int64
	both                atomic.Int64 // panicked, and the client had left
}

// tap counts requests on their way to next. When a request ends, the tap inside
// a part looks first whether its client has left, then the part, then the tap
// outside; and who has left stays away. So the part's number is between the two.
func (f *flow) tap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := &f.requests
		switch r.URL.Path {
		case "/events", "/forever", "/panic-stream":
			n = &f.streams
		case "/hints-failed":
			f.failed.Add(1)
		}
		n.all.Add(1)
		returned := false
		defer func() {
			left := r.Context().Err() == context.Canceled
			if left {
				n.left.Add(1)
			}
			if !returned {
				n.panicked.Add(1)
			}
			if left && !returned {
				n.both.Add(1)
			}
		}()
		next.ServeHTTP(w, r)
		returned = true
	})
}

// aroundClient is around for the clients' side, where requests are only counted.
func (p *passage) aroundClient(part func(http.RoundTripper) http.RoundTripper, next http.RoundTripper) http.RoundTripper {
	return &trips{&p.came, part(&trips{&p.passed, next})}
}

type trips struct {
	f    *flow
	next http.RoundTripper
}

func (t *trips) RoundTrip(r *http.Request) (*http.Response, error) {
	t.f.requests.all.Add(1)
	return t.next.RoundTrip(r)
}

func (t *trips) CloseIdleConnections() {
	(&http.Client{Transport: t.next}).CloseIdleConnections()
}

func (f *flow) all() int64      { return f.requests.all.Load() + f.streams.all.Load() }
func (f *flow) left() int64     { return f.requests.left.Load() + f.streams.left.Load() }
func (f *flow) panicked() int64 { return f.requests.panicked.Load() + f.streams.panicked.Load() }
func (f *flow) both() int64     { return f.requests.both.Load() + f.streams.both.Load() }

// handler is that of parts, with what counts around each part.
func (k *books) handler(next http.Handler) http.Handler {
	p := k.parts
	h := k.shed.around(p.shed.Handler, p.sw.Handler(k.b.around(p.b.Handler, next)))
	return k.health.around(p.health.Handler, k.lim.around(p.lim.Handler, k.cache.around(p.pages.Handler, h)))
}

type collector interface {
	Collect(emit func(name, help, kind string, value float64, labels ...string))
}

// total adds the series of a name that have one of these outcomes, reasons or
// codes; none means all of them.
func total(c collector, name string, outcomes ...string) (sum int64) {
	c.Collect(func(n, _, _ string, v float64, labels ...string) {
		if n != name {
			return
		}
		ok := len(outcomes) == 0
		for i := 0; i < len(labels); i += 2 {
			for _, o := range outcomes {
				ok = ok || (labels[i] == "outcome" || labels[i] == "reason" || labels[i] == "code") && labels[i+1] == o
			}
		}
		if ok {
			sum += int64(v)
		}
	})
	return sum
}

// lies lists each metric that does not agree with what has passed.
func (k *books) lies() string {
	var lies []string
	equal := func(what string, metric, seen int64) {
		if metric != seen {
			lies = append(lies, fmt.Sprintf("%s: %d, really %d", what, metric, seen))
		}
	}
	between := func(what string, low, metric, high int64) {
		if metric < low || metric > high {
			lies = append(lies, fmt.Sprintf("%s: %d, really %d to %d", what, metric, low, high))
		}
	}
	p := k.parts

	const timed = "spillway_http_request_duration_seconds_count"
	came, passed := &k.health.came.requests, &k.health.passed.requests
	equal("health: requests", total(p.health, timed), came.all.Load())
	equal("health: in flight", total(p.health, "spillway_http_requests_inflight"), 0)
	between("health: canceled", passed.left.Load(), total(p.health, timed, "canceled"), came.left.Load())
	failed := k.health.came.failed.Load()
	between("health: 5xx", came.panicked.Load()-came.both.Load()+failed, total(p.health, timed, "5xx"), came.all.Load())
	if k.pool == nil { // whose 502s are 5xx as well
		between("health: 5xx", 0, total(p.health, timed, "5xx"), passed.panicked.Load()-passed.both.Load()+failed)
	}

	const limited = "spillway_ratelimit_requests_total"
	equal("ratelimit: requests", total(p.lim, limited), k.lim.came.all())
	equal("ratelimit: allowed", total(p.lim, limited, "allowed"), k.lim.passed.all())

	const cached = "spillway_cache_requests_total"
	equal("cache: requests", total(p.pages, cached), k.cache.came.all())
	forwarded := total(p.pages, cached, "miss", "bypass", "revalidated", "error")
	gone := total(p.pages, "spillway_cache_uncached_total", "client-gone") // some of them while they waited for another's call
	between("cache: not answered from the store", k.cache.passed.all(), forwarded, k.cache.passed.all()+gone)
	if k.clients {
		const called = "spillway_breaker_requests_total"
		equal("breaker: calls", total(p.b, called), k.b.came.all())
		equal("breaker: let through", total(p.b, called, "success", "slow", "failure", "ignored"), k.b.passed.all())
		return strings.Join(lies, "\n")
	}
	none := gone + total(p.pages, "spillway_cache_uncached_total", "aborted")
	between("cache: errors", max(none, k.cache.passed.panicked()), total(p.pages, cached, "error"), k.cache.passed.panicked()+k.cache.came.left())

	const shed = "spillway_degrade_requests_total"
	equal("degrade: requests", total(p.shed, shed), k.shed.came.all())
	equal("degrade: admitted", total(p.shed, shed, "admitted"), k.shed.passed.all())
	between("degrade: abandoned", 0, total(p.shed, shed, "abandoned"), k.shed.came.left())
	equal("degrade: in flight", total(p.shed, "spillway_degrade_inflight"), 0)

	const called = "spillway_breaker_requests_total"
	equal("breaker: calls", total(p.b, called), k.b.came.all())
	equal("breaker: let through", total(p.b, called, "success", "slow", "failure", "ignored"), k.b.passed.all())
	failed = k.b.came.failed.Load()
	between("breaker: failures", k.b.came.panicked()-k.b.came.both()+failed, total(p.b, called, "failure"), k.b.came.all())
	if k.pool == nil { // whose 502s are failures as well, even if the client has left when they have been sent
		between("breaker: ignored", k.b.passed.left(), total(p.b, called, "ignored"), k.b.came.left())
		between("breaker: failures", 0, total(p.b, called, "failure"), k.b.passed.panicked()-k.b.passed.both()+failed)
		return strings.Join(lies, "\n")
	}
	between("breaker: ignored", k.b.passed.both(), total(p.b, called, "ignored"), k.b.came.left())
	sent := total(k.pool, "spillway_balancer_requests_total")
	again := total(k.pool, "spillway_balancer_retries_total") + total(k.pool, "spillway_balancer_hedges_total")
	tried := sent - again + total(k.pool, "spillway_balancer_unavailable_total")
	between("balancer: requests", k.proxied.all()-k.proxied.left(), tried, k.proxied.all()) // some clients left before they were sent
	return strings.Join(lies, "\n")
}

// balance waits until no metric lies: the last requests are counted a little
// after their clients have the answers.
func (k *books) balance(t testing.TB) {
	if k.lies() == "" {
		return
	}
	defer func() {
		if lies := k.lies(); lies != "" {
			t.Log(lies)
		}
	}()
	require.Eventually(t, func() bool { return k.lies() == "" }, 5*time.Second, time.Millisecond, "no metric lies")
}
