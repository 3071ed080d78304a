// Package spillway is the chain as a user of Spillway writes it.
package spillway

import (
	"net/http"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

// Chain guards next: health, ratelimit, cache, degrade with a feature, breaker.
func Chain(next http.Handler) http.Handler {
	h := health.MustNew(health.Config{})
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(100_000_000), Key: ratelimit.ClientIP()})
	pages := cache.MustNew(cache.Config{MaxBytes: 16 << 20})
	shed := degrade.MustNew(degrade.Config{})
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	page := sw.Feature("page", degrade.Optional)
	b := breaker.MustNew(breaker.Config{})
	return h.Handler(lim.Handler(pages.Handler(shed.Handler(sw.Handler(page.Handler(b.Handler(next), nil))))))
}

// Proxy sends requests to backends.
func Proxy(backends ...string) http.Handler {
	return balancer.MustNew(balancer.Config{Backends: balancer.URLs(backends...)}).Proxy()
}
