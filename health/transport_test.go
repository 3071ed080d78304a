package health_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

func TestABeatThatStopsFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		beat := &health.Beat{MaxAge: time.Minute}
		h := one(health.Check{Probe: beat.Probe, Groups: health.Live, Every: 10 * time.Second, Fall: 1})
		run(t, h)
		for range 10 {
			beat.Touch()
			time.Sleep(50 * time.Second)
			require.Equal(t, health.Pass, h.Status(health.Live))
		}
		time.Sleep(30 * time.Second)
		require.Equal(t, health.Fail, h.Status(health.Live))
		require.Contains(t, check(t, h, "it").Reason, "no beat for 1m1")
		beat.Touch()
		time.Sleep(2 * time.Second)
		require.Equal(t, health.Pass, h.Status(health.Live))
	})
}

func TestALoopThatNeverBeganIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		beat := new(health.Beat)
		h := one(health.Check{Probe: beat.Probe, Groups: health.Live, Fall: 1})
		run(t, h)
		require.Equal(t, health.Pass, h.Status(health.Live))
		time.Sleep(80 * time.Second)
		require.Equal(t, health.Fail, h.Status(health.Live))
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRealTrafficCountsAsARunOfACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probes atomic.Int32
		var status atomic.Int32
		status.Store(200)
		h := one(health.Check{Every: 10 * time.Second, Probe: func(context.Context) error { probes.Add(1); return nil }})
		rt := h.Observe("it", roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: int(status.Load()), Body: http.NoBody}, nil
		}))
		request := func(ctx context.Context) {
			_, err := rt.RoundTrip(httptest.NewRequestWithContext(ctx, "GET", "http://inventory/", nil))
			require.NoError(t, err)
		}
		run(t, h)
		n := probes.Load()
		for range 600 {
			request(t.Context())
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, n, probes.Load(), "the probe rests while requests flow")

		status.Store(503)
		for range 1000 {
			request(t.Context())
		}
		require.True(t, h.Ready(), "a burst of failures is one failure")
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for range 50 {
			request(gone)
			time.Sleep(100 * time.Millisecond)
		}
		require.True(t, h.Ready(), "callers that gave up say nothing")
		request(t.Context())
		n = probes.Load()
		for range 50 {
			request(t.Context())
			time.Sleep(130 * time.Millisecond) // no divisor of FailEvery
		}
		require.Equal(t, n, probes.Load(), "it rests while they fail, too")
		require.False(t, h.Ready())
		require.Equal(t, "answered 503", check(t, h, "it").Reason)

		n = probes.Load()
		time.Sleep(3 * time.Second)
		require.Greater(t, probes.Load(), n, "without requests the probe is back")
		require.True(t, h.Ready())
		require.Panics(t, func() { h.Observe("nothing", nil) })
	})
}

func TestAMeasuredValueIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := one(health.Check{Probe: func(ctx context.Context) error {
			health.Measure(ctx, 42, "%")
			return nil
		}})
		run(t, h)
		r := check(t, h, "it")
		require.Equal(t, 42.0, r.Value)
		require.Equal(t, "%", r.Unit)
		health.Measure(t.Context(), 1, "%") // elsewhere it does nothing
	})
}
