package breaker_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/sony/gobreaker/v2"

	"github.com/go-spillway/spillway/breaker"
)

// TestFiguresCascade has three services over real sockets, each asking the next
// with two seconds of patience, the last one stuck, and a hundred requests a
// second for five seconds at the first.
func TestFiguresCascade(t *testing.T) {
	if !*figures {
		t.Skip("measures for some tens of seconds: run with -figures")
	}
	fresh := func() http.RoundTripper {
		tr := http.DefaultTransport.(*http.Transport).Clone()
		tr.MaxIdleConnsPerHost = 1000
		return tr
	}
	failed := func(r *http.Response, err error) bool { return err != nil || r != nil && r.StatusCode >= 500 }
	var out strings.Builder
	fmt.Fprintf(&out, "\n%-34s %10s %10s %10s %12s %12s\n", "", "p50", "p99", "calls at", "most calls", "most calls")
	fmt.Fprintf(&out, "%-34s %10s %10s %10s %12s %12s\n", "", "", "", "the stuck", "in front", "in middle")
	for _, g := range []struct {
		name  string
		guard func() http.RoundTripper
	}{
		{"no breaker", fresh},
		{"gobreaker, as its README has it", func() http.RoundTripper {
			cb := gobreaker.NewCircuitBreaker[*http.Response](gobreaker.Settings{
				Timeout: 5 * time.Second, Interval: 10 * time.Second, BucketPeriod: time.Second,
				ReadyToTrip: func(c gobreaker.Counts) bool {
					return c.Requests >= 20 && float64(c.TotalFailures)/float64(c.Requests) >= 0.5
				},
			})
			next := fresh()
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				return cb.Execute(func() (*http.Response, error) { return next.RoundTrip(r) })
			})
		}},
		{"failsafe-go", func() http.RoundTripper {
			return failsafehttp.NewRoundTripper(fresh(), circuitbreaker.NewBuilder[*http.Response]().
				HandleIf(failed).WithFailureRateThreshold(0.5, 20, 10*time.Second).WithDelay(5*time.Second).Build())
		}},
		{"spillway", func() http.RoundTripper {
			return breaker.MustNew(breaker.Config{}).Transport(fresh())
		}},
		{"spillway, slow mark at 500 ms", func() http.RoundTripper {
			return breaker.MustNew(breaker.Config{SlowCall: 500 * time.Millisecond}).Transport(fresh())
		}},
	} {
		p50, p99, atBack, front, middle := cascade(g.guard)
		fmt.Fprintf(&out, "%-34s %10v %10v %10d %12d %12d\n", g.name, p50, p99, atBack, front, middle)
	}
	t.Log(out.String())
}

func cascade(guard func() http.RoundTripper) (p50, p99 time.Duration, atBack, front, middle int64) {
	var stuck atomic.Int64
	release := make(chan struct{})
	back := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		stuck.Add(1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	relay := func(next string, peak *int64) *httptest.Server {
		client := &http.Client{Transport: guard(), Timeout: 2 * time.Second}
		var mu sync.Mutex
		var inFlight int64
		count := func(d int64) {
			mu.Lock()
			inFlight += d
			*peak = max(*peak, inFlight)
			mu.Unlock()
		}
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			count(1)
			defer count(-1)
			resp, err := client.Get(next)
			switch {
			case errors.Is(err, breaker.ErrOpen), errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, circuitbreaker.ErrOpen):
				w.WriteHeader(http.StatusServiceUnavailable)
			case err != nil:
				w.WriteHeader(http.StatusGatewayTimeout)
			default:
				w.WriteHeader(resp.StatusCode)
				_, _ = io.Copy(w, resp.Body)
				resp.Body.Close()
			}
		}))
	}
	mid := relay(back.URL, &middle)
	first := relay(mid.URL, &front)

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	tick := time.NewTicker(10 * time.Millisecond)
	for range 500 {
		<-tick.C
		wg.Go(func() {
			start := time.Now()
			if resp, err := client.Get(first.URL); err == nil {
				resp.Body.Close()
			}
			mu.Lock()
			took = append(took, time.Since(start))
			mu.Unlock()
		})
	}
	tick.Stop()
	wg.Wait()
	close(release)
	first.Close()
	mid.Close()
	back.Close()
	slices.Sort(took)
	round := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	return round(took[len(took)/2]), round(took[len(took)*99/100]), stuck.Load(), front, middle
}
