package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/go-spillway/spillway/breaker"
)

// A price lookup that fails opens the breaker; then calls are refused at once.
func Example() {
	b := breaker.MustNew(breaker.Config{Name: "prices", MinCalls: 4})
	fetch := func(context.Context) (int, error) { return 0, errors.New("connection refused") }

	for range 4 {
		_, err := breaker.Do(context.Background(), b, fetch)
		fmt.Println(err)
	}
	_, err := breaker.Do(context.Background(), b, fetch)
	fmt.Println(errors.Is(err, breaker.ErrOpen), b.State())
	// Output:
	// connection refused
	// connection refused
	// connection refused
	// connection refused
	// true open
}

// Each mistake in a Config is named.
func ExampleNew_invalid() {
	_, err := breaker.New(breaker.Config{FailureRatio: 50, Probes: -1})
	fmt.Println(err)
	// Output:
	// breaker: Config.FailureRatio is 50, must be above 0 and at most 1, or negative to turn it off
	// breaker: Config.Probes is -1, must be positive
}

func ExampleMustNew() {
	b := breaker.MustNew(breaker.Config{
		Name:                "payments",
		ConsecutiveFailures: 5,               // besides the failure ratio
		SlowCall:            2 * time.Second, // slower than this is as good as failed
		Ramp:                10 * time.Second,
	})
	fmt.Println(b.Name(), b.State())
	// Output: payments closed
}

// One host that fails doesn't stop calls to another.
func ExampleBreaker_Transport() {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	defer up.Close()
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	defer down.Close()

	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 2})
	client := &http.Client{Transport: b.Transport(nil)}
	for _, url := range []string{down.URL, down.URL, down.URL, up.URL} {
		resp, err := client.Get(url)
		if errors.Is(err, breaker.ErrOpen) {
			fmt.Println("refused")
			continue
		}
		fmt.Println(resp.StatusCode)
		resp.Body.Close()
	}
	// Output:
	// 500
	// 500
	// refused
	// 200
}

func ExampleBreaker_Handler() {
	b := breaker.MustNew(breaker.Config{Name: "stock", ConsecutiveFailures: 1, Jitter: -1})
	h := b.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no database", http.StatusInternalServerError)
	}))
	for range 2 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/stock/42", nil))
		fmt.Print(w.Code, " ", w.Header().Get("Retry-After"), " ", w.Body)
	}
	// Output:
	// 500  no database
	// 503 5 stock is unavailable; try again in 5 s
}

// A keyed circuit: one tenant's failures don't stop another's calls.
func ExampleBreaker_For() {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1})
	fail := func(context.Context) (string, error) { return "", errors.New("quota") }
	work := func(context.Context) (string, error) { return "done", nil }
	ctx := context.Background()

	_, _ = breaker.Do(ctx, b.For("tenant-1"), fail)
	_, err := breaker.Do(ctx, b.For("tenant-1"), work)
	fmt.Println(errors.Is(err, breaker.ErrOpen))
	v, _ := breaker.Do(ctx, b.For("tenant-2"), work)
	fmt.Println(v)
	// Output:
	// true
	// done
}

// What to answer instead of a refusal.
func ExampleDoOr() {
	b := breaker.MustNew(breaker.Config{Name: "rates"})
	b.ForceOpen(time.Hour, "moving to the new provider")

	rate, err := breaker.DoOr(context.Background(), b,
		func(context.Context) (float64, error) { return 1.09, nil },
		func(_ context.Context, e *breaker.OpenError) (float64, error) {
			fmt.Println("using yesterday's:", e.Why)
			return 1.07, nil
		})
	fmt.Println(rate, err)
	// Output:
	// using yesterday's: forced open: moving to the new provider
	// 1.07 <nil>
}

// A retry loop stops at a refusal, which isn't counted as a failure.
func ExampleDo_retry() {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 2})
	calls := 0
	for attempt := range 5 {
		_, err := breaker.Do(context.Background(), b, func(context.Context) (int, error) {
			calls++
			return 0, errors.New("timeout")
		})
		if errors.Is(err, breaker.ErrOpen) {
			fmt.Printf("gave up at attempt %d after %d calls\n", attempt+1, calls)
			break
		}
	}
	fmt.Println(b.Stats().Failed, "failed,", b.Stats().Refused, "refused")
	// Output:
	// gave up at attempt 3 after 2 calls
	// 2 failed, 1 refused
}

// For a page or a log. Whoever decides whether to call asks Ready: an open
// circuit stays open until a call comes.
func ExampleBreaker_State() {
	b := breaker.MustNew(breaker.Config{Name: "reviews", ConsecutiveFailures: 1})
	fmt.Println(b.State())
	_, _ = breaker.Do(context.Background(), b, func(context.Context) (int, error) { return 0, errors.New("timeout") })
	fmt.Println(b.State())
	// Output:
	// closed
	// open
}

// An operator's hand: with an end, so that it can't be forgotten.
func ExampleBreaker_ForceOpen() {
	b := breaker.MustNew(breaker.Config{Name: "search"})
	b.ForceOpen(time.Hour, "reindexing")
	fmt.Println(b.State(), "-", b.Stats().Why)
	b.Release()
	fmt.Println(b.State())
	// Output:
	// open - forced open: reindexing
	// closed
}

// For calls that aren't functions: a message that is answered much later.
func ExampleBreaker_Allow() {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1})
	done, err := b.Allow(context.Background())
	if err != nil {
		return // refused
	}
	// … publish, and when the answer is there, or isn't:
	done(errors.New("no answer"))
	fmt.Println(b.State())
	// Output: open
}

// 429 counts as a failure, and everything else as usual.
func ExampleDefaultJudge() {
	b := breaker.MustNew(breaker.Config{
		ConsecutiveFailures: 1,
		Judge: func(o breaker.Outcome) breaker.Verdict {
			if o.Status == http.StatusTooManyRequests {
				return breaker.Failure
			}
			return breaker.DefaultJudge(o)
		},
	})
	h := b.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	fmt.Println(b.State())
	// Output: open
}

// The hook may call the Breaker.
func ExampleConfig_onChange() {
	var b *breaker.Breaker
	b = breaker.MustNew(breaker.Config{
		Name:                "mail",
		ConsecutiveFailures: 1,
		OnChange: func(c breaker.Change) {
			fmt.Println(c, "/", b.State())
		},
	})
	_, _ = breaker.Do(context.Background(), b, func(context.Context) (int, error) { return 0, errors.New("down") })
	b.Reset()
	// Output:
	// mail: opened: a call failed / open
	// mail: closed: reset / closed
}

func ExampleBreaker_Conditions() {
	b := breaker.MustNew(breaker.Config{Name: "mail"})
	b.ForceOpen(0, "provider is down")
	for subject, what := range b.Conditions() {
		fmt.Println(subject+":", what)
	}
	// Output: mail: forced open: provider is down
}
