package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

// A gateway is the chain and what has to run beside it.
type gateway struct {
	handler    http.Handler
	health     *health.Checker // nil if it is off
	background []func(context.Context) error
}

// build makes the chain from the inside out: each part wraps the one below.
// The part to copy.
func build(o options) (*gateway, error) {
	g := &gateway{}
	var sources []health.Source // what /metrics and the page show
	mux := http.NewServeMux()

	// Which backend gets the request.
	var next http.Handler
	var checks map[string]health.Check
	if o.on("balancer") {
		pool, err := balancer.New(balancer.Config{
			Name:     "gateway",
			Backends: balancer.URLs(o.backends...),
			Policy:   policies[o.policy](),
			Probe:    balancer.Probe{Path: o.probe},
		})
		if err != nil {
			return nil, err
		}
		next = pool.Proxy()
		g.background = append(g.background, pool.Run)
		sources = append(sources, pool)
		// Optional: without backends there are still cached answers to give.
		checks = map[string]health.Check{"backends": {Optional: true, Probe: func(context.Context) error {
			if pool.Stats().Available == 0 {
				return errors.New("no backend is available")
			}
			return nil
		}}}
	} else {
		backend, err := url.Parse(o.backends[0])
		if err != nil {
			return nil, err
		}
		next = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(backend); r.SetXForwarded() }}
	}

	// Leave alone what is failing: one circuit for each first segment of the path, so
	// that /fail opens and /fast goes on.
	if o.on("breaker") {
		b, err := breaker.New(breaker.Config{Name: "gateway", FailureRatio: o.failures, Key: firstSegment})
		if err != nil {
			return nil, err
		}
		next = b.Handler(next)
		sources = append(sources, b)
	}

	// How much runs at once, and what is left out first.
	if o.on("degrade") {
		shed, err := degrade.New(degrade.Config{Name: "gateway", Limit: o.limit})
		if err != nil {
			return nil, err
		}
		sw, err := degrade.NewSwitch(degrade.SwitchConfig{Name: "gateway", Pressure: []func() float64{shed.Pressure}})
		if err != nil {
			return nil, err
		}
		stream := sw.Feature("stream", degrade.Optional)
		features := http.NewServeMux()
		features.Handle("/", next)
		features.Handle("/stream", stream.Handler(next, http.HandlerFunc(paused)))
		next = shed.Handler(sw.Handler(features))
		g.background = append(g.background, sw.Run)
		sources = append(sources, shed, sw)
		mux.Handle("/-/switch", sw.Admin())
	}

	// Answers kept.
	if o.on("cache") {
		pages, err := cache.New(cache.Config{Name: "gateway", MaxBytes: int64(o.cacheMB) << 20})
		if err != nil {
			return nil, err
		}
		next = pages.Handler(next)
		sources = append(sources, pages)
	}

	// Who may call how often.
	if o.on("ratelimit") {
		lim, err := ratelimit.New(ratelimit.Config{Name: "gateway", Rate: ratelimit.PerSecond(o.rate), Key: ratelimit.ClientIP(o.trust...)})
		if err != nil {
			return nil, err
		}
		next = lim.Handler(next)
		sources = append(sources, lim)
	}

	// Live, ready, draining, and what operators look at. Outermost: a busy
	// service is not a dead one, and must not limit who asks.
	if o.on("health") {
		delay := o.drain
		if delay == 0 {
			delay = -1 // none; the zero value is the default
		}
		h, err := health.New(health.Config{Name: "gateway", Checks: checks, Drain: health.Drain{Delay: delay}})
		if err != nil {
			return nil, err
		}
		g.health = h
		sources = append([]health.Source{g.health}, sources...)
	}
	mux.Handle("/metrics", health.Metrics(sources...))
	mux.Handle("/-/", health.Dashboard(sources...))
	mux.Handle("/", next)
	mux.Handle("/stream", untilDraining(next))
	g.handler = mux
	if g.health != nil {
		g.handler = g.health.Handler(mux)
	}
	return g, nil
}

func firstSegment(r *http.Request) string {
	segment, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	return segment
}

// untilDraining ends streams when the service drains, so that their clients come
// back to another replica. What else is in flight is finished.
func untilDraining(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		go func() {
			select {
			case <-health.DrainStarted(ctx):
				cancel()
			case <-ctx.Done():
			}
		}()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func paused(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Retry-After", "10")
	http.Error(w, "Live events are paused while the service is busy.", http.StatusServiceUnavailable)
}

var policies = map[string]func() balancer.Policy{
	"latency":        func() balancer.Policy { return balancer.Latency(3) },
	"two-choices":    balancer.TwoChoices,
	"least-requests": balancer.LeastRequests,
	"round-robin":    balancer.RoundRobin,
	"random":         balancer.Random,
	"ip-hash":        func() balancer.Policy { return balancer.HashBy(balancer.ByIP()) },
}

func policyNames() []string {
	names := make([]string, 0, len(policies))
	for name := range policies {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// tell says what is served and what to try.
func tell(out io.Writer, addr string, o options, demo []upstream) {
	base := "http://" + addr
	fmt.Fprintf(out, "gateway: %s in front of %s\n", base, strings.Join(o.backends, ", "))
	if len(o.off) > 0 {
		fmt.Fprintf(out, "         without %s\n", strings.Join(o.off, ", "))
	}
	if len(demo) > 0 {
		fmt.Fprintf(out, `
Try, in another terminal:
  curl -i %[1]s/fast            # twice: Cache-Status says that the second is a hit
  curl %[1]s/echo               # what the backends see
  curl -N %[1]s/stream          # server-sent events pass through
  curl -so /dev/null -w '%%{http_code} ' '%[1]s/fail?rate=1&[1-40]'               # 500, then the breaker's 503
  seq 300 | xargs -P64 -I{} curl -so /dev/null -w '%%{http_code}\n' '%[1]s/slow?ms=300' | sort | uniq -c   # the backends do %[3]d at once: 503 for what they can't
  curl -so /dev/null -w '%%{http_code}\n' '%[1]s/echo?[1-500]' | sort | uniq -c   # 429 above %[2]d a second
  kill -9 %[4]d   # %[5]s dies, and no GET fails
`, base, o.rate, len(demo)*upstreamWorkers, demo[0].pid, demo[0].name)
	}
	fmt.Fprintf(out, `
  curl %[1]s/readyz   # /livez, /startupz; numbers at %[1]s/metrics
The live page: %[1]s/-/
Ctrl-C drains: not ready for %[2]v, then what is in flight ends. Twice: at once.
`, base, o.drain)
}
