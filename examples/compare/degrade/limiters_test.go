package degrade

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/failsafe-go/failsafe-go/priority"
	"github.com/go-kratos/aegis/ratelimit"
	"github.com/go-kratos/aegis/ratelimit/bbr"

	"github.com/go-spillway/spillway/degrade"
)

// A limiter stands in front of the work. release must be called when the work
// is done; nil means that the request is refused.
type limiter func(ctx context.Context, critical bool) (release func())

// rivals are fresh limiters, each as its documentation shows it, with its
// defaults.
func rivals() map[string]func() limiter {
	return map[string]func() limiter{
		"none": func() limiter {
			return func(context.Context, bool) func() { return func() {} }
		},
		"spillway": func() limiter {
			shed := degrade.MustNew(degrade.Config{})
			return func(ctx context.Context, critical bool) func() {
				p := degrade.Normal
				if critical {
					p = degrade.Critical
				}
				release, err := shed.Acquire(ctx, p)
				if err != nil {
					return nil
				}
				return release
			}
		},
		"aegis BBR": func() limiter {
			l := bbr.NewLimiter()
			return func(context.Context, bool) func() {
				done, err := l.Allow()
				if err != nil {
					return nil
				}
				return func() { done(ratelimit.DoneInfo{}) }
			}
		},
		"failsafe adaptive": func() limiter {
			l := adaptivelimiter.NewWithDefaults[any]()
			return func(context.Context, bool) func() {
				p, ok := l.TryAcquirePermit()
				if !ok {
					return nil
				}
				return p.Record
			}
		},
		"failsafe adaptive, queueing": func() limiter {
			l := adaptivelimiter.NewBuilder[any]().WithQueueing(2, 3).Build()
			return func(ctx context.Context, _ bool) func() {
				p, err := l.AcquirePermit(ctx)
				if err != nil {
					return nil
				}
				return p.Record
			}
		},
		"failsafe adaptive, prioritizer": func() limiter {
			z := adaptivelimiter.NewPrioritizer()
			l := adaptivelimiter.NewBuilder[any]().WithQueueing(2, 3).BuildPrioritized(z)
			var mu sync.Mutex
			last := time.Now()
			return func(ctx context.Context, critical bool) func() {
				mu.Lock()
				if time.Since(last) > 100*time.Millisecond {
					last = time.Now()
					z.Calibrate()
				}
				mu.Unlock()
				level := priority.Medium
				if critical {
					level = priority.VeryHigh
				}
				p, err := l.AcquirePermitWithPriority(ctx, level)
				if err != nil {
					return nil
				}
				return p.Record
			}
		},
	}
}

// handler guards next with l, as a middleware would.
func handler(l limiter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		release := l(r.Context(), r.Header.Get("Critical") != "")
		if release == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		defer release()
		next.ServeHTTP(w, r)
	})
}
