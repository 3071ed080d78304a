package chain

import (
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
	parts   *parts
	pool    *balancer.Balancer                                       // nil without one
	before  struct{ health, lim, cache, shed, b, next atomic.Int64 } // requests that came to each
	streams atomic.Int64                                             // requests for event streams, which health does not count
}

func tap(n *atomic.Int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		next.ServeHTTP(w, r)
	})
}

// handler is that of parts, with a tap in front of each part.
func (k *books) handler(next http.Handler) http.Handler {
	p, n := k.parts, &k.before
	h := tap(&n.b, p.b.Handler(tap(&n.next, next)))
	h = tap(&n.shed, p.shed.Handler(p.sw.Handler(h)))
	h = tap(&n.health, p.health.Handler(tap(&n.lim, p.lim.Handler(tap(&n.cache, p.pages.Handler(h))))))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" || r.URL.Path == "/forever" {
			k.streams.Add(1)
		}
		h.ServeHTTP(w, r)
	})
}

type collector interface {
	Collect(emit func(name, help, kind string, value float64, labels ...string))
}

// total adds the series of a name that have one of these outcomes or reasons;
// none means all of them.
func total(c collector, name string, outcomes ...string) (sum int64) {
	c.Collect(func(n, _, _ string, v float64, labels ...string) {
		if n != name {
			return
		}
		ok := len(outcomes) == 0
		for i := 0; i < len(labels); i += 2 {
			for _, o := range outcomes {
				ok = ok || (labels[i] == "outcome" || labels[i] == "reason") && labels[i+1] == o
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
	between := func(what string, low, seen, high int64) {
		if seen < low || seen > high {
			lies = append(lies, fmt.Sprintf("%s: %d to %d, really %d", what, low, high, seen))
		}
	}
	p, n := k.parts, &k.before
	equal("health: requests", total(p.health, "spillway_http_request_duration_seconds_count"), n.health.Load()-k.streams.Load())
	equal("health: in flight", total(p.health, "spillway_http_requests_inflight"), 0)
	equal("ratelimit: requests", total(p.lim, "spillway_ratelimit_requests_total"), n.lim.Load())
	equal("ratelimit: allowed", total(p.lim, "spillway_ratelimit_requests_total", "allowed"), n.cache.Load())
	equal("cache: requests", total(p.pages, "spillway_cache_requests_total"), n.cache.Load())
	forwarded := total(p.pages, "spillway_cache_requests_total", "miss", "bypass", "revalidated", "error")
	gone := total(p.pages, "spillway_cache_uncached_total", "client-gone") // some of them while they waited for another's call
	between("cache: not answered from the store", forwarded-gone, n.shed.Load(), forwarded)
	equal("degrade: requests", total(p.shed, "spillway_degrade_requests_total"), n.shed.Load())
	equal("degrade: admitted", total(p.shed, "spillway_degrade_requests_total", "admitted"), n.b.Load())
	equal("degrade: in flight", total(p.shed, "spillway_degrade_inflight"), 0)
	equal("breaker: calls", total(p.b, "spillway_breaker_requests_total"), n.b.Load())
	equal("breaker: let through", total(p.b, "spillway_breaker_requests_total", "success", "slow", "failure", "ignored"), n.next.Load())
	if k.pool != nil {
		sent := total(k.pool, "spillway_balancer_requests_total")
		again := total(k.pool, "spillway_balancer_retries_total") + total(k.pool, "spillway_balancer_hedges_total")
		came := sent - again + total(k.pool, "spillway_balancer_unavailable_total")
		gone := total(p.b, "spillway_breaker_requests_total", "ignored") // some of them before they were sent
		between("balancer: requests", came, n.next.Load(), came+gone)
	}
	return strings.Join(lies, "\n")
}

// balance waits until no metric lies: the last requests are counted a little
// after their clients have the answers.
func (k *books) balance(t testing.TB) {
	defer func() {
		if lies := k.lies(); lies != "" {
			t.Log(lies)
		}
	}()
	require.Eventually(t, func() bool { return k.lies() == "" }, 5*time.Second, 5*time.Millisecond, "no metric lies")
}
