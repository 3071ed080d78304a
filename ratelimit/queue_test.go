package ratelimit_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

var onePerSecond = ratelimit.Rate{Requests: 1, Per: time.Second, Burst: 1}

func TestRequestsWaitInOrderForABoundedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: onePerSecond, MaxWait: 3 * time.Second})
		start := time.Now()
		type served struct {
			who int
			at  time.Duration
		}
		var order []served
		var refused []int
		var mu sync.Mutex
		var wg sync.WaitGroup
		h := l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }))
		for i := range 6 {
			wg.Go(func() {
				w := get(h)
				mu.Lock()
				defer mu.Unlock()
				if w.Code == 204 {
					order = append(order, served{i, time.Since(start)})
					return
				}
				require.Equal(t, 429, w.Code)
				require.Equal(t, "4", w.Header().Get("Retry-After"), "behind three others")
				require.Zero(t, time.Since(start), "refused at once")
				refused = append(refused, i)
			})
			synctest.Wait()
		}
		wg.Wait()
		require.Equal(t, []served{{0, 0}, {1, time.Second}, {2, 2 * time.Second}, {3, 3 * time.Second}}, order)
		require.Equal(t, []int{4, 5}, refused)
		s := l.Stats()
		require.EqualValues(t, 4, s.Allowed)
		require.EqualValues(t, 2, s.Refused)
	})
}

func TestAWaitShorterThanATokenIsNotOverestimated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: onePerSecond, MaxWait: 500 * time.Millisecond})
		start := time.Now()
		require.True(t, allow(t, l, "k", 1).Allowed)
		require.False(t, allow(t, l, "k", 1).Allowed, "a second is too long")
		require.Zero(t, time.Since(start))
		time.Sleep(600 * time.Millisecond)
		require.True(t, allow(t, l, "k", 1).Allowed, "400 ms are not")
		require.Equal(t, time.Second, time.Since(start))
	})
}

func TestNobodyPushesIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.Rate{Requests: 1, Per: time.Second, Burst: 2}, MaxWait: 10 * time.Second})
		start := time.Now()
		d, err := l.Allow(ctx, "k", 2)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := l.Allow(ctx, "k", 2)
			require.NoError(t, err)
			require.Equal(t, 2*time.Second, time.Since(start))
		})
		time.Sleep(1500 * time.Millisecond) // there is one token now, for the first in line
		d, err = l.Allow(ctx, "k", 1)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		require.Equal(t, 3*time.Second, time.Since(start))
		wg.Wait()
	})
}

func TestWhoLeavesTheLineLeavesItsPlaceToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: onePerSecond, MaxWait: 3 * time.Second})
		start := time.Now()
		allow(t, l, "k", 1)
		leaving, leave := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				_, err := l.Allow(leaving, "k", 1)
				require.ErrorIs(t, err, context.Canceled)
				require.Equal(t, 500*time.Millisecond, time.Since(start), "at once")
			})
		}
		synctest.Wait()
		wg.Go(func() {
			require.True(t, allow(t, l, "k", 1).Allowed)
			require.Equal(t, time.Second, time.Since(start))
		})
		synctest.Wait()
		require.False(t, allow(t, l, "k", 1).Allowed, "the line is full")
		time.Sleep(500 * time.Millisecond)
		leave()
		synctest.Wait()
		require.True(t, allow(t, l, "k", 1).Allowed, "there is room in line again")
		require.Equal(t, 2*time.Second, time.Since(start))
		wg.Wait()
		s := l.Stats()
		require.EqualValues(t, 3, s.Allowed)
		require.EqualValues(t, 1, s.Refused, "who left is neither")
	})
}

func TestAClientThatLeavesTheLineIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: onePerSecond, MaxWait: time.Minute})
		served := 0
		h := l.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
		get(h)
		gone, leave := context.WithCancel(ctx)
		time.AfterFunc(100*time.Millisecond, leave)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(gone))
		require.Equal(t, 1, served)

		// A deadline that the server set is answered.
		late, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		w = httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(late))
		require.Equal(t, 1, served)
		require.Equal(t, 429, w.Code)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
	})
}

// However many wait, come and go, the bound holds.
func TestTheBoundHoldsForThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.Rate{Requests: 10, Per: time.Second, Burst: 3}, MaxWait: time.Second})
		start := time.Now()
		var at []time.Duration
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				c := ctx
				if i%3 == 0 {
					var cancel context.CancelFunc
					c, cancel = context.WithTimeout(ctx, time.Duration(i%7)*100*time.Millisecond)
					defer cancel()
				}
				if d, err := l.Allow(c, "k", 1); err == nil && d.Allowed {
					mu.Lock()
					at = append(at, time.Since(start))
					mu.Unlock()
				}
			})
			time.Sleep(time.Duration(i%5) * 20 * time.Millisecond)
		}
		wg.Wait()
		for i := range at {
			for j := i; j < len(at); j++ {
				require.LessOrEqual(t, float64(j-i+1), 3+10*(at[j]-at[i]).Seconds()+1e-9)
			}
		}
		require.Greater(t, float64(len(at)), 0.95*(3+10*time.Since(start).Seconds()))
	})
}
