package main

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

// degradedHeader is on answers that a feature was left out of.
const degradedHeader = degrade.DegradedHeader

// serveProtected is the part to copy: the shop with all six parts. Nothing in
// it knows the shop's capacity. The intervals are shorter than the defaults
// because an act of the script lasts seconds, and an outage usually longer.
func serveProtected(ctx context.Context, spec childSpec, ln net.Listener, announce func()) error {
	// The backends: which one, and whether at all. PerTry and Hedge are for a
	// backend that hangs: its requests have a second in all.
	var replicas []balancer.Backend
	for i, u := range spec.Backends {
		replicas = append(replicas, balancer.Backend{URL: u, ID: backendName(i)})
	}
	pool := balancer.MustNew(balancer.Config{
		Name:     "catalogue",
		Backends: replicas,
		Probe: balancer.Probe{
			Path: "/readyz", Every: 250 * time.Millisecond, Failing: 100 * time.Millisecond,
			Timeout: 400 * time.Millisecond, Rise: 1, Fall: 2,
		},
		Eject:     balancer.Eject{Base: time.Second, Max: 4 * time.Second},
		Retry:     balancer.Retry{PerTry: 800 * time.Millisecond, When: failedThere},
		Hedge:     balancer.Hedge{Quantile: 0.99, After: 250 * time.Millisecond},
		SlowStart: time.Second,
	})
	catalogue := breaker.MustNew(breaker.Config{Name: "catalogue", OpenFor: time.Second})
	recommendations := breaker.MustNew(breaker.Config{
		Name: "recommendations", Window: 2 * time.Second, SlowCall: 150 * time.Millisecond,
		OpenFor: time.Second, MaxOpen: 4 * time.Second,
	})

	// The load: how much at once, and what is left out first.
	shed := degrade.MustNew(degrade.Config{Name: "shop", Priority: priority, Tenant: tenant})
	features := degrade.MustNewSwitch(degrade.SwitchConfig{
		Name: "shop", Pressure: []func() float64{shed.Pressure},
		EnterAfter: 500 * time.Millisecond, LeaveAfter: 2 * time.Second,
	})
	recommend := features.Feature("recommendations", degrade.Optional)

	// In front: who, and what need not be made again.
	pages := cache.MustNew(cache.Config{Name: "pages", MaxBytes: 64 << 20})
	tenants := ratelimit.MustNew(ratelimit.Config{
		Name:   "tenants",
		Key:    ratelimit.Header("X-Tenant"),
		Rate:   ratelimit.PerSecond(1), // of tenants without a plan
		RateOf: func(r *http.Request) ratelimit.Rate { return ratelimit.PerSecond(spec.Plans[tenant(r)]) },
	})

	backends := pool.Transport(nil)
	service := &shop{
		client:          &http.Client{Transport: catalogue.Transport(backends)},
		recommendations: &http.Client{Transport: recommendations.Transport(backends), Timeout: 300 * time.Millisecond},
		recommend:       recommend.EnabledFor,
		retryIn:         retryIn,
	}
	chain := tenants.Handler(pages.Handler(shed.Handler(features.Handler(service.handler()))))

	h := health.MustNew(health.Config{Name: "shop", Checks: map[string]health.Check{
		"catalogue": {Probe: available(pool), Every: 500 * time.Millisecond},
	}})
	nouns := []health.Source{h, tenants, pages, shed, features, catalogue, recommendations, pool}
	mux := http.NewServeMux()
	mux.Handle("/", chain)
	mux.Handle("/metrics", health.Metrics(nouns...))
	mux.Handle("/-/", health.Dashboard(nouns...))
	mux.Handle("/changes", changesOf([]part{
		{"health", h}, {"ratelimit", tenants}, {"degrade", shed}, {"switch", features},
		{"breaker", catalogue}, {"breaker", recommendations}, {"balancer", pool},
	}))

	go pool.Run(ctx)
	go features.Run(ctx)
	announce()
	return h.Serve(ctx, &http.Server{Handler: h.Handler(mux)}, ln)
}

func tenant(r *http.Request) string { return r.Header.Get("X-Tenant") }

func priority(r *http.Request) degrade.Priority {
	switch {
	case r.Method == http.MethodPost: // the checkout
		return degrade.Critical
	case tenant(r) == greedyTenant:
		return degrade.Sheddable
	}
	return degrade.Normal
}

// failedThere retries whatever is not the request's own fault, a 500 too: the
// deploy that is bad on one backend is not on the others.
func failedThere(resp *http.Response, err error) bool { return err != nil || resp.StatusCode >= 500 }

// retryIn says when to come back after a call that was refused here.
func retryIn(err error) (time.Duration, bool) {
	var refused interface{ RetryAfter() time.Duration } // breaker's, balancer's and degrade's
	if errors.As(err, &refused) {
		return refused.RetryAfter(), true
	}
	return 0, false
}

// available is the health check of the pool.
func available(pool *balancer.Balancer) func(context.Context) error {
	return func(context.Context) error {
		if s := pool.Stats(); s.Available < s.Backends {
			return health.Degraded(errors.New("not every backend is available"))
		}
		return nil
	}
}

// A part can say what has changed in it, as all nouns of Spillway that have
// states can.
type part struct {
	name string
	noun interface {
		Changes() iter.Seq2[time.Time, string]
	}
}

// changesOf serves what has changed in all parts, oldest first.
func changesOf(parts []part) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all := []change{}
		for _, p := range parts {
			for at, text := range p.noun.Changes() {
				all = append(all, change{at, p.name, text})
			}
		}
		slices.SortStableFunc(all, func(a, b change) int { return a.At.Compare(b.At) })
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(all)
	})
}
