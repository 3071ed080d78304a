package health_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

func TestCriticality(t *testing.T) {
	for name, tc := range map[string]struct {
		check health.Check
		ready health.Status
		live  health.Status
	}{
		"critical":                {health.Check{}, health.Fail, health.Pass},
		"optional":                {health.Check{Optional: true}, health.Warn, health.Pass},
		"informational":           {health.Check{Informational: true}, health.Pass, health.Pass},
		"optional, informational": {health.Check{Optional: true, Informational: true}, health.Pass, health.Pass},
		"shared":                  {health.Check{Shared: true}, health.Warn, health.Pass},
		"live":                    {health.Check{Groups: health.Live}, health.Pass, health.Fail},
		"live and ready":          {health.Check{Groups: health.Live | health.Ready}, health.Fail, health.Fail},
		"live and ready, shared":  {health.Check{Groups: health.Live | health.Ready, Shared: true}, health.Warn, health.Fail},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.check.Probe = fail
				h := one(tc.check)
				run(t, h)
				require.Equal(t, tc.ready, h.Status(health.Ready))
				require.Equal(t, tc.live, h.Status(health.Live))
				require.Equal(t, tc.ready.String() != "fail", h.Ready())
			})
		})
	}
}

func TestDegradedIsAWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := one(health.Check{Probe: func(context.Context) error {
			return fmt.Errorf("replica: %w", health.Degraded(health.Public("lags by 40 s", errors.New("host db-3"))))
		}})
		run(t, h)
		require.Equal(t, health.Warn, h.Status(health.Ready))
		require.Equal(t, "lags by 40 s", check(t, h, "it").Reason)
		require.ErrorContains(t, check(t, h, "it").Err, "db-3")
		require.NoError(t, health.Degraded(nil))
	})
}

func TestASharedDependencyDoesNotEmptyTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ready int
		for range 10 {
			h := one(health.Check{Probe: fail, Shared: true})
			run(t, h)
			if h.Ready() {
				ready++
			}
		}
		require.Equal(t, 10, ready, "all replicas answer, with what they have")
	})
}

func TestAFailureThatLastsEscalatesToLiveness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		h := one(health.Check{EscalateAfter: 5 * time.Minute, Optional: true, Probe: func(context.Context) error {
			if down.Load() {
				return errDown
			}
			return nil
		}})
		front := h.Handler(teapot)
		run(t, h)
		time.Sleep(5*time.Minute - 2*time.Second - time.Nanosecond)
		require.Equal(t, 200, get(front, "/livez").Code)
		time.Sleep(time.Nanosecond)
		require.Equal(t, 503, get(front, "/livez").Code)
		require.Equal(t, 200, get(front, "/readyz").Code)
		require.True(t, check(t, h, "it").Escalated)
		down.Store(false)
		time.Sleep(2 * time.Second)
		require.Equal(t, 200, get(front, "/livez").Code)
	})
}

func TestStartupWaitsForItsChecksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var warm atomic.Bool
		var calls atomic.Int32
		h := health.MustNew(health.Config{Checks: map[string]health.Check{
			"cache": {Groups: health.Startup, Probe: func(context.Context) error {
				calls.Add(1)
				if !warm.Load() {
					return errors.New("cold")
				}
				return nil
			}},
			"db": {Probe: fail, Optional: true},
		}})
		front := h.Handler(teapot)
		run(t, h)
		time.Sleep(time.Minute)
		require.Equal(t, 503, get(front, "/startupz").Code)
		require.JSONEq(t, `{"status":"fail","notes":["starting"]}`, get(front, "/readyz").Body.String())
		require.Equal(t, 200, get(front, "/livez").Code, "a slow start is no reason to restart")
		warm.Store(true)
		time.Sleep(2 * time.Second)
		require.Equal(t, 200, get(front, "/startupz").Code)
		require.Equal(t, 200, get(front, "/readyz").Code)
		n := calls.Load()
		warm.Store(false)
		time.Sleep(24 * time.Hour)
		require.Equal(t, n, calls.Load(), "it has done its work")
		require.Equal(t, 200, get(front, "/readyz").Code, "and does not go stale")
	})
}

func TestADatabaseThatIsDownAtTheStartDoesNotKeepTheProcessFromStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := one(health.Check{Probe: fail})
		front := h.Handler(teapot)
		run(t, h)
		require.Equal(t, 200, get(front, "/startupz").Code, "or the platform would restart it for ever")
		require.Equal(t, 503, get(front, "/readyz").Code)
	})
}

func TestChecksAreRegisteredWhileTheServiceRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{})
		require.True(t, h.Ready(), "with nothing to wait for")
		run(t, h)
		release := make(chan struct{})
		require.NoError(t, h.Register("db", health.Check{Probe: func(context.Context) error { <-release; return errDown }}))
		require.True(t, h.Ready(), "it does not count before its first result")
		require.ErrorContains(t, h.Register("db", health.Check{Probe: pass}), `health: Register("db"): there is a check of that name`)
		require.ErrorContains(t, h.Register("x", health.Check{}), `health: Register("x").Probe is nil`)
		close(release)
		time.Sleep(2 * time.Second)
		require.False(t, h.Ready())
		h.Unregister("db")
		h.Unregister("db")
		require.True(t, h.Ready())
		require.Empty(t, h.Report().Checks)
	})
}

func TestWhoForgetsToRunTheChecksIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := one(health.Check{Probe: func(context.Context) error { <-release; return nil }, Timeout: 5 * time.Second})
		conditions := func() (out string) {
			for subject, text := range h.Conditions() {
				out += subject + ": " + text
			}
			return out
		}
		require.Equal(t, "service: not started: nothing runs the checks; call Run, Serve or ListenAndServe", conditions())
		require.Contains(t, check(t, h, "it").Reason, "nothing runs the checks")
		run(t, h)
		require.Equal(t, "service: starting: waits for it", conditions())
		require.Equal(t, "no result yet", check(t, h, "it").Reason)
		close(release)
		synctest.Wait()
		require.Empty(t, conditions())
	})
}
