// Package ratelimit_test measures Spillway's ratelimit and its rivals in one run
// on one machine. Absolute figures depend on the machine; compare within a run:
//
//	go test ./ratelimit -bench . -cpu 1,2
package ratelimit_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/go-chi/httprate"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/sethvargo/go-limiter/httplimit"
	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"
	"golang.org/x/time/rate"

	"github.com/go-spillway/spillway/ratelimit"
)

var ctx = context.Background()

// A limiter decides for a key, under a limit of n per period with as large a
// burst.
type limiter struct {
	name string
	make func(n int, per time.Duration, maxKeys int) func(key string) bool
}

var limiters = []limiter{
	{"spillway", func(n int, per time.Duration, maxKeys int) func(string) bool {
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.Rate{Requests: n, Per: per}, MaxKeys: maxKeys})
		return func(key string) bool {
			d, _ := l.Allow(ctx, key, 1)
			return d.Allowed
		}
	}},
	// As most services do it: a map of rate.Limiter behind an LRU.
	{"x-time-rate-lru", func(n int, per time.Duration, maxKeys int) func(string) bool {
		var mu sync.Mutex
		lru, _ := simplelru.NewLRU[string, *rate.Limiter](maxKeys, nil)
		return func(key string) bool {
			mu.Lock()
			l, ok := lru.Get(key)
			if !ok {
				l = rate.NewLimiter(rate.Limit(float64(n)/per.Seconds()), n)
				lru.Add(key, l)
			}
			mu.Unlock()
			return l.Allow()
		}
	}},
	{"go-limiter", func(n int, per time.Duration, maxKeys int) func(string) bool {
		s, err := memorystore.New(&memorystore.Config{Tokens: uint64(n), Interval: per})
		if err != nil {
			panic(err)
		}
		return func(key string) bool {
			_, _, _, ok, _ := s.Take(ctx, key)
			return ok
		}
	}},
	{"httprate", func(n int, per time.Duration, maxKeys int) func(string) bool {
		// Without names for its header fields it sends none, and can be asked
		// without an HTTP exchange.
		l := httprate.NewRateLimiter(n, per, httprate.WithResponseHeaders(httprate.ResponseHeaders{}))
		r := httptest.NewRequest("GET", "/", nil)
		return func(key string) bool { return !l.OnLimit(nil, r, key) }
	}},
	{"throttled", func(n int, per time.Duration, maxKeys int) func(string) bool {
		s, err := memstore.NewCtx(maxKeys)
		if err != nil {
			panic(err)
		}
		l, err := throttled.NewGCRARateLimiterCtx(s, throttled.RateQuota{MaxRate: throttled.PerDuration(n, per), MaxBurst: n - 1})
		if err != nil {
			panic(err)
		}
		return func(key string) bool {
			limited, _, err := l.RateLimitCtx(ctx, key, 1)
			return err == nil && !limited
		}
	}},
}

// A middleware limits by the peer's address.
type middleware struct {
	name string
	make func(perSecond int) func(http.Handler) http.Handler
}

var middlewares = []middleware{
	{"bare", func(int) func(http.Handler) http.Handler { return func(h http.Handler) http.Handler { return h } }},
	{"spillway", func(perSecond int) func(http.Handler) http.Handler {
		return ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(perSecond)}).Handler
	}},
	{"httprate", func(perSecond int) func(http.Handler) http.Handler {
		return httprate.LimitBy(perSecond, time.Second, func(r *http.Request) (string, error) {
			host, _, err := net.SplitHostPort(r.RemoteAddr)
			return httprate.CanonicalizeIP(host), err
		})
	}},
	{"go-limiter", func(perSecond int) func(http.Handler) http.Handler {
		s, err := memorystore.New(&memorystore.Config{Tokens: uint64(perSecond), Interval: time.Second})
		if err != nil {
			panic(err)
		}
		m, err := httplimit.NewMiddleware(s, httplimit.IPKeyFunc())
		if err != nil {
			panic(err)
		}
		return m.Handle
	}},
	{"throttled", func(perSecond int) func(http.Handler) http.Handler {
		s, err := memstore.NewCtx(1 << 16)
		if err != nil {
			panic(err)
		}
		l, err := throttled.NewGCRARateLimiterCtx(s, throttled.RateQuota{MaxRate: throttled.PerSec(perSecond), MaxBurst: perSecond - 1})
		if err != nil {
			panic(err)
		}
		return (&throttled.HTTPRateLimiterCtx{RateLimiter: l, VaryBy: &throttled.VaryBy{RemoteAddr: true}}).RateLimit
	}},
}
