package ratelimit_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

func TestWhatAnOutageChargedIsNotGivenBackByTheStore(t *testing.T) {
	for name, outage := range map[string]ratelimit.Outage{"locally": ratelimit.DecideLocally, "let pass": ratelimit.LetPass} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &fakeStore{full: map[string]time.Time{}}
				lim := ratelimit.MustNew(ratelimit.Config{
					Rate: ratelimit.PerHour(100), Store: store, Outage: outage,
					Key:    func(*http.Request) string { return "ann" },
					Cost:   func(*http.Request) int { return 10 },
					Settle: func(*http.Request, ratelimit.Outcome) int { return 0 },
				})
				_, err := lim.Allow(t.Context(), "ann", 50)
				require.NoError(t, err)
				store.breakDown(func() error { return errors.New("down") })
				h := lim.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
					store.repair()
					time.Sleep(time.Second)
					_, _ = lim.Allow(context.Background(), "bob", 1) // has the store asked
					synctest.Wait()
				}))
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
				require.Equal(t, 200, w.Code)
				require.Equal(t, 50, lim.Peek(t.Context(), "ann").Remaining, "the store was not charged, so it gives nothing back")
			})
		})
	}
}

func TestAWaitCutShortIsNotAnsweredAsIfNothingWereSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.Rate{Requests: 1, Per: 10 * time.Second, Burst: 5}, MaxWait: time.Minute,
			Key: func(*http.Request) string { return "ann" },
		})
		h := lim.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		for range 5 {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		}
		go h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)) // is first in line
		defer time.Sleep(time.Minute)                                                // it is served
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/", nil))
		require.Equal(t, http.StatusTooManyRequests, w.Code)
		require.Contains(t, w.Header()["Ratelimit"][0], ";r=0;")
		require.Equal(t, "20", w.Header().Get("Retry-After"))
	})
}

type noAnswer struct{}

func (noAnswer) RoundTrip(*http.Request) (*http.Response, error) { return nil, nil }

func TestARoundTripperWithoutAnAnswerDoesNotPanic(t *testing.T) {
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(10)})
	client := &http.Client{Transport: lim.Transport(noAnswer{})}
	_, err := client.Get("http://b.test") //nolint:bodyclose // there is none
	require.ErrorContains(t, err, "nil *Response")
}
