package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/go-spillway/spillway/breaker"
)

func callFails(context.Context) (int, error) { return 0, errors.New("timeout") }
func callWorks(context.Context) (int, error) { return 1, nil }

// What a refusal says, and for how long it holds.
func ExampleOpenError() {
	b := breaker.MustNew(breaker.Config{Name: "inventory", ConsecutiveFailures: 2, Jitter: -1})
	ctx := context.Background()
	_, _ = breaker.Do(ctx, b, callFails)
	_, _ = breaker.Do(ctx, b, callFails)

	_, err := breaker.Do(ctx, b, callWorks)
	var open *breaker.OpenError
	if errors.As(err, &open) {
		fmt.Println(open.Name, "is", open.State, "because", open.Why)
		fmt.Println("try again in", open.RetryAfter().Round(time.Second))
	}
	// Output:
	// inventory is open because 2 calls failed in a row
	// try again in 5s
}

// A new breaker watches before it acts: it decides, counts and reports, and
// refuses nothing.
func ExampleBreaker_SetDryRun() {
	b := breaker.MustNew(breaker.Config{Name: "search", ConsecutiveFailures: 1, DryRun: true})
	ctx := context.Background()
	_, _ = breaker.Do(ctx, b, callFails)
	v, err := breaker.Do(ctx, b, callWorks)
	fmt.Println(v, err, "-", b.State(), "-", b.Stats().Spared, "would have been refused")

	b.SetDryRun(false)
	_, err = breaker.Do(ctx, b, callWorks)
	fmt.Println(errors.Is(err, breaker.ErrOpen))
	// Output:
	// 1 <nil> - open - 1 would have been refused
	// true
}

// When the dependency is back and nobody wants to wait for the probes.
func ExampleBreaker_Reset() {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1})
	_, _ = breaker.Do(context.Background(), b, callFails)
	fmt.Println(b.State())
	b.Reset()
	fmt.Println(b.State())
	// Output:
	// open
	// closed
}

// What a status page shows.
func ExampleBreaker_Stats() {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 2})
	ctx := context.Background()
	_, _ = breaker.Do(ctx, b, callWorks)
	_, _ = breaker.Do(ctx, b, callFails)
	_, _ = breaker.Do(ctx, b, callFails)
	_, _ = breaker.Do(ctx, b, callWorks) // refused

	s := b.Stats()
	fmt.Println(s.State, "-", s.Why)
	fmt.Println(s.Succeeded, "succeeded,", s.Failed, "failed,", s.Refused, "refused")
	fmt.Println("last failure:", s.LastFailure.Err)
	// Output:
	// open - 2 calls failed in a row
	// 1 succeeded, 2 failed, 1 refused
	// last failure: timeout
}

// The last changes, oldest first.
func ExampleBreaker_Changes() {
	b := breaker.MustNew(breaker.Config{Name: "mail", ConsecutiveFailures: 1})
	_, _ = breaker.Do(context.Background(), b, callFails)
	b.Reset()
	for _, what := range b.Changes() {
		fmt.Println(what)
	}
	// Output:
	// mail: opened: a call failed
	// mail: closed: reset
}

// Metrics, for package health or a registry of one's own.
func ExampleBreaker_Collect() {
	b := breaker.MustNew(breaker.Config{Name: "mail"})
	_, _ = breaker.Do(context.Background(), b, callWorks)
	b.Collect(func(name, _, kind string, value float64, labels ...string) {
		if name == "spillway_breaker_requests_total" && value > 0 {
			fmt.Println(name, kind, value, labels)
		}
	})
	// Output: spillway_breaker_requests_total counter 1 [breaker mail outcome success]
}

// Whether it is worth trying at all: true again once a probe has room, without
// any call.
func ExampleBreaker_Ready() {
	b := breaker.MustNew(breaker.Config{Name: "reviews", ConsecutiveFailures: 1})
	fmt.Println(b.Ready())
	_, _ = breaker.Do(context.Background(), b, callFails)
	fmt.Println(b.Ready())
	// Output:
	// true
	// false
}

// An answer of one's own in place of the 503.
func ExampleConfig_fallback() {
	b := breaker.MustNew(breaker.Config{
		Fallback: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "yesterday's prices")
		}),
	})
	b.ForceOpen(time.Minute, "")
	h := b.Handler(http.NotFoundHandler())
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/prices", nil))
	fmt.Println(w.Code, w.Header().Get("Retry-After"), w.Body)
	// Output: 200 60 yesterday's prices
}

// A circuit for each route of a mux.
func ExampleByRoute() {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1, Key: breaker.ByRoute})
	mux := http.NewServeMux()
	answer := func(status int) http.Handler {
		return b.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	}
	mux.Handle("GET /stock/{sku}", answer(http.StatusInternalServerError))
	mux.Handle("GET /price/{sku}", answer(http.StatusOK))
	for _, path := range []string{"/stock/1", "/stock/2", "/price/1"} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Println(path, w.Code)
	}
	// Output:
	// /stock/1 500
	// /stock/2 503
	// /price/1 200
}

// Calls that succeed, but slower than anybody waits, open it too.
func ExampleConfig_slowCall() {
	b := breaker.MustNew(breaker.Config{Name: "reports", SlowCall: time.Millisecond, MinCalls: 2})
	slow := func(context.Context) (int, error) {
		<-time.After(2 * time.Millisecond)
		return 1, nil
	}
	for range 2 {
		_, _ = breaker.Do(context.Background(), b, slow)
	}
	_, err := breaker.Do(context.Background(), b, slow)
	_, why, _ := strings.Cut(err.Error(), "Z: ")
	fmt.Println(why)
	// Output: 2 of 2 calls took longer than 1ms
}
