package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

var errDown = errors.New("down")

// steady has no jitter, so that times are exact.
func steady(c breaker.Config) breaker.Config {
	c.Jitter = -1
	return c
}

// try makes one call that ends with err, and returns what the caller gets.
func try(b *breaker.Breaker, err error) error {
	_, got := breaker.Do(context.Background(), b, func(context.Context) (int, error) { return 1, err })
	return got
}

// times makes n calls that end with err.
func times(b *breaker.Breaker, n int, err error) {
	for range n {
		_ = try(b, err)
	}
}

func TestOpensWhenHalfOfTwentyCallsFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{Name: "inventory"}))
		times(b, 10, nil)
		times(b, 9, errDown)
		require.Equal(t, breaker.Closed, b.State(), "19 calls are too few")
		require.ErrorIs(t, try(b, errDown), errDown)
		require.Equal(t, breaker.Open, b.State())

		err := try(b, nil)
		require.ErrorIs(t, err, breaker.ErrOpen)
		var e *breaker.OpenError
		require.ErrorAs(t, err, &e)
		require.Equal(t, "10 of 20 calls failed", e.Why)
		require.Equal(t, 5*time.Second, e.RetryAfter())
		require.Equal(t, "breaker: inventory is open until 2000-01-01T00:00:05Z: 10 of 20 calls failed", e.Error())
	})
}

func TestOpensOnFailuresInARowWhateverMinCallsSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 3, FailureRatio: -1, MinCalls: 1000}))
		for range 100 { // two of three fail, but never three in a row
			times(b, 2, errDown)
			_ = try(b, nil)
		}
		require.Equal(t, breaker.Closed, b.State())

		times(b, 2, errDown)
		time.Sleep(10 * time.Second) // they have left the window
		times(b, 2, errDown)
		require.Equal(t, breaker.Closed, b.State(), "two and two are not four in a row")

		_ = try(b, errDown)
		require.Equal(t, breaker.Open, b.State())
		require.Equal(t, "3 calls failed in a row", b.Stats().Why)
	})
}

func TestProbesAtTheNanosecondAndClosesAfterThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1}))
		_ = try(b, errDown)
		time.Sleep(5*time.Second - 1)
		require.ErrorIs(t, try(b, nil), breaker.ErrOpen, "one nanosecond early")
		time.Sleep(time.Nanosecond)
		require.NoError(t, try(b, nil))
		require.Equal(t, breaker.HalfOpen, b.State())
		require.NoError(t, try(b, nil))
		require.Equal(t, breaker.HalfOpen, b.State())
		require.NoError(t, try(b, nil))
		require.Equal(t, breaker.Closed, b.State())
	})
}

func TestOpenTimeDoublesWithEachFailedProbeUpToTheMaximumAndResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Second, MaxOpen: 5 * time.Second}))
		openTime := func() time.Duration { return time.Until(b.Stats().Until) }
		_ = try(b, errDown)
		for _, want := range []time.Duration{1, 2, 4, 5, 5} {
			require.Equal(t, want*time.Second, openTime())
			time.Sleep(openTime())
			_ = try(b, errDown)
		}
		time.Sleep(openTime())
		times(b, 3, nil)
		require.Equal(t, breaker.Closed, b.State())
		time.Sleep(10*time.Second - 1)
		_ = try(b, errDown)
		require.Equal(t, 5*time.Second, openTime(), "it closed less than a window ago")
		time.Sleep(openTime())
		times(b, 3, nil)
		time.Sleep(10 * time.Second)
		_ = try(b, errDown)
		require.Equal(t, time.Second, openTime(), "after a healthy window")
	})
}

func TestTransportHoldsOneCircuitPerHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(breaker.Config{})
		rt := b.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "noisy" {
				return nil, errDown
			}
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		}))
		for range 100 {
			_, _ = rt.RoundTrip(httptest.NewRequest("GET", "http://noisy/", nil))
		}
		_, err := rt.RoundTrip(httptest.NewRequest("GET", "http://noisy:80/", nil))
		require.ErrorIs(t, err, breaker.ErrOpen)
		_, err = rt.RoundTrip(httptest.NewRequest("GET", "http://quiet/", nil))
		require.NoError(t, err)
		require.Equal(t, breaker.Open, b.For("http://noisy").State())
		require.Equal(t, breaker.Closed, b.For("http://quiet").State())
		require.Equal(t, breaker.Open, b.State(), "the worst of them")
		require.EqualValues(t, 81, b.Stats().Refused)
	})
}

func TestHandlerCountsTheStatusesAndAnswers503(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := breaker.MustNew(steady(breaker.Config{Name: "stock"})).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "boom", http.StatusInternalServerError)
		}))
		for range 20 {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			require.Equal(t, 500, w.Code)
		}
		time.Sleep(100 * time.Millisecond)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, 503, w.Code)
		require.Equal(t, "5", w.Header().Get("Retry-After"), "4.9 seconds, rounded up")
		require.Equal(t, "stock is unavailable; try again in 5 s\n", w.Body.String())
	})
}

func TestSlowCallsOpenAndSoDoThoseStillInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(breaker.Config{SlowCall: time.Second})
		for range 20 {
			go breaker.Do(t.Context(), b, func(context.Context) (int, error) {
				time.Sleep(time.Minute)
				return 0, nil
			})
		}
		synctest.Wait()
		time.Sleep(time.Second)
		require.NoError(t, try(b, nil))
		time.Sleep(250 * time.Millisecond)
		require.ErrorIs(t, try(b, nil), breaker.ErrOpen)
		require.Equal(t, fmt.Sprintf("%d of %d calls took longer than 1s, %d of them still running", 20, 21, 20), b.Stats().Why)
		time.Sleep(time.Minute)
	})
}
