package breaker_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
)

func TestDoCountsAPanicAndGoesOnPanicking(t *testing.T) {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 2})
	boom := errors.New("boom")
	require.PanicsWithValue(t, boom, func() {
		_, _ = breaker.Do(t.Context(), b, func(context.Context) (int, error) { panic(boom) })
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = breaker.Do(context.Background(), b, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
	})
	wg.Wait()
	require.Equal(t, breaker.Open, b.State())
	require.ErrorContains(t, b.Stats().LastFailure.Err, "panicked or its goroutine exited")
}

func TestDoCountsADeadlineAndNotACancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(breaker.Config{})
		wait := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, errors.New("interrupted") }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _ = breaker.Do(ctx, b, wait)
		require.EqualValues(t, 1, b.Stats().Failed)

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, _ = breaker.Do(ctx, b, wait)
		require.EqualValues(t, 1, b.Stats().Failed)
		require.EqualValues(t, 1, b.Stats().Ignored, "whatever the error is called")
	})
}

func TestDoComposesWithSingleflightErrgroupAndBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 3}))
		calls := 0
		fetch := func(context.Context) (int, error) {
			if calls++; time.Now().Before(time.Date(2000, 1, 1, 0, 0, 20, 0, time.UTC)) {
				return 0, errDown
			}
			return 42, nil
		}
		var flights singleflight.Group
		retry := func(ctx context.Context) error { // waits as long as it is told
			for backoff := time.Second; ; backoff *= 2 {
				_, err, _ := flights.Do("key", func() (any, error) { return breaker.Do(ctx, b, fetch) })
				var open *breaker.OpenError
				switch {
				case err == nil:
					return nil
				case errors.As(err, &open):
					time.Sleep(max(open.RetryAfter(), time.Millisecond))
				default:
					time.Sleep(backoff)
				}
			}
		}
		group, ctx := errgroup.WithContext(t.Context())
		for range 10 {
			group.Go(func() error { return retry(ctx) })
		}
		require.NoError(t, group.Wait())
		s := b.Stats()
		require.EqualValues(t, calls, s.Failed+s.Succeeded, "refusals are counted as refusals alone")
		require.NotZero(t, s.Refused)
		require.Less(t, calls, 25)
	})
}

func TestDoOrAnswersARefusalAndNotAFailure(t *testing.T) {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1})
	fail := func(context.Context) (int, error) { return 0, errDown }
	fallback := func(_ context.Context, e *breaker.OpenError) (int, error) { return 7, nil }
	_, err := breaker.DoOr(t.Context(), b, fail, fallback)
	require.ErrorIs(t, err, errDown)
	v, err := breaker.DoOr(t.Context(), b, fail, fallback)
	require.NoError(t, err)
	require.Equal(t, 7, v)
	require.EqualValues(t, 1, b.Stats().Refused)
}

func TestAJudgeThatPanicsFailsTheCall(t *testing.T) {
	b := breaker.MustNew(breaker.Config{Judge: func(breaker.Outcome) breaker.Verdict { panic("a bug") }})
	require.PanicsWithValue(t, "a bug", func() { _ = try(b, errDown) })
	require.EqualValues(t, 1, b.Stats().Failed)
}

func TestNothingAllocatesOnTheWay(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = try(b, nil) }), "Do")
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		done, _ := b.Allow(context.Background())
		done(nil)
	}), 1.0, "Allow: done itself")
	b.ForceOpen(0, "")
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = try(b, nil) }), "forced open")

	b = breaker.MustNew(breaker.Config{ConsecutiveFailures: 1, OpenFor: time.Hour})
	_ = try(b, errDown)
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = try(b, nil) }), "open")

	b = breaker.MustNew(breaker.Config{})
	h, w, r := b.Handler(status(200)), discard{}, get("/")
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { h.ServeHTTP(w, r) }), 1.0, "Handler")
	rt := b.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: brokenBody{}}, nil
	}))
	out := get("http://a/")
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		resp, _ := rt.RoundTrip(out)
		_ = resp.Body.Close()
	}), 1.0+1, "Transport, and the response itself")
}
