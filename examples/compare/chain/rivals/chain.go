// Package rivals is the chain as it can be put together from other libraries.
package rivals

import (
	"context"
	"errors"
	"hash/maphash"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	probes "github.com/alexliesenfeld/health"
	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/go-chi/httprate"
	"github.com/go-chi/stampede"
	"github.com/open-feature/go-sdk/openfeature"
	"github.com/open-feature/go-sdk/openfeature/memprovider"
	"github.com/sony/gobreaker/v2"
	"github.com/vulcand/oxy/v2/forward"
	"github.com/vulcand/oxy/v2/roundrobin"
)

// Chain guards next: alexliesenfeld/health, httprate, stampede, failsafe-go's
// adaptive limiter, OpenFeature, gobreaker.
func Chain(next http.Handler) http.Handler {
	checker := probes.NewChecker(probes.WithDisabledAutostart())
	ready := probes.NewHandler(checker)
	client := func(r *http.Request) (string, error) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		return httprate.CanonicalizeIP(host), err
	}
	limited := httprate.LimitBy(1_000_000_000, time.Minute, client)(cached(shed(feature(broken(next)))))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/livez":
			w.WriteHeader(http.StatusOK)
		case "/readyz":
			ready.ServeHTTP(w, r)
		default:
			limited.ServeHTTP(w, r)
		}
	})
}

// cached answers from stampede what may be shared. By itself stampede keys by
// the path alone, and keeps what says private or no-store: so the key is the
// whole URL, and only routes that are known to be public go through it.
func cached(next http.Handler) http.Handler {
	seed := maphash.MakeSeed()
	key := func(r *http.Request) uint64 {
		return maphash.Comparable(seed, [3]string{r.Host, r.URL.Path, r.URL.RawQuery})
	}
	keep := stampede.HandlerWithKey(10_000, time.Hour, key)(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.HasPrefix(r.URL.Path, "/public/") ||
			r.Header["Authorization"] != nil || r.Header["Cookie"] != nil {
			next.ServeHTTP(w, r)
			return
		}
		keep.ServeHTTP(w, r)
	})
}

// shed refuses what the adaptive limiter has no permit for. failsafe's own
// handler costs more, and loses the permit when next panics.
func shed(next http.Handler) http.Handler {
	limiter := adaptivelimiter.NewWithDefaults[any]()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		permit, ok := limiter.TryAcquirePermit()
		if !ok {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "The service is busy; try again.", http.StatusServiceUnavailable)
			return
		}
		defer func() {
			if r.Context().Err() == context.Canceled {
				permit.Drop()
			} else {
				permit.Record()
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// feature asks OpenFeature whether the page is on.
func feature(next http.Handler) http.Handler {
	err := openfeature.SetProviderAndWait(memprovider.NewInMemoryProvider(map[string]memprovider.InMemoryFlag{
		"page": {State: memprovider.Enabled, DefaultVariant: "on", Variants: map[string]any{"on": true, "off": false}},
	}))
	if err != nil {
		panic(err)
	}
	client := openfeature.NewDefaultClient()
	var nobody openfeature.EvaluationContext
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !client.Boolean(r.Context(), "page", true, nobody) {
			http.Error(w, "This page is switched off.", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

var errStatus = errors.New("server error")

// broken stops calling next while it fails.
func broken(next http.Handler) http.Handler {
	cb := gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Interval:     10 * time.Second,
		BucketPeriod: time.Second,
		Timeout:      5 * time.Second,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.Requests >= 20 && float64(c.TotalFailures) >= 0.5*float64(c.Requests)
		},
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered := false
		_, err := cb.Execute(func() (struct{}, error) {
			entered = true
			sw := &statusWriter{ResponseWriter: w}
			next.ServeHTTP(sw, r)
			switch {
			case r.Context().Err() == context.Canceled:
				return struct{}{}, context.Canceled
			case sw.status >= 500:
				return struct{}{}, errStatus
			}
			return struct{}{}, nil
		})
		if err != nil && !entered {
			w.Header().Set("Retry-After", "5")
			http.Error(w, "The service is unavailable; try again.", http.StatusServiceUnavailable)
		}
	})
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Proxy sends requests to backends in turn.
func Proxy(backends ...string) http.Handler {
	rr, err := roundrobin.New(forward.New(true))
	if err != nil {
		panic(err)
	}
	for _, b := range backends {
		u, err := url.Parse(b)
		if err != nil {
			panic(err)
		}
		if err := rr.UpsertServer(u); err != nil {
			panic(err)
		}
	}
	return rr
}
