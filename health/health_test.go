package health_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

var errDown = errors.New("down")

func pass(context.Context) error { return nil }
func fail(context.Context) error { return errDown }

// get answers one request with h.
func get(h http.Handler, target string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", target, nil))
	return rec
}

// run runs the checks of h for the rest of the bubble's test, and lets the
// first results come in.
func run(t *testing.T, h *health.Checker) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	time.Sleep(2 * time.Second)
	synctest.Wait()
}

var teapot = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })

func TestReadinessFollowsTheChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		h := health.MustNew(health.Config{Checks: map[string]health.Check{
			"db": {Probe: func(context.Context) error {
				if down.Load() {
					return errDown
				}
				return nil
			}},
			"redis": {Probe: fail, Optional: true},
		}})
		front := h.Handler(teapot)
		require.Equal(t, 503, get(front, "/readyz").Code, "no result yet")
		require.Equal(t, 200, get(front, "/livez").Code)
		require.JSONEq(t, `{"status":"fail","notes":["starting"]}`, get(front, "/startupz").Body.String())

		run(t, h)
		require.JSONEq(t, `{"status":"warn"}`, get(front, "/readyz").Body.String())
		require.Equal(t, 200, get(front, "/startupz").Code)
		require.Equal(t, 418, get(front, "/").Code)

		down.Store(true)
		time.Sleep(30 * time.Second)
		rec := get(front, "/readyz")
		require.Equal(t, 503, rec.Code)
		require.JSONEq(t, `{"status":"fail"}`, rec.Body.String())
		require.Equal(t, "5", rec.Header().Get("Retry-After"))
		require.Equal(t, 200, get(front, "/livez").Code, "liveness does not depend on it")
		require.Equal(t, 200, get(front, "/startupz").Code, "started is for good")

		down.Store(false)
		time.Sleep(2 * time.Second)
		require.Equal(t, 200, get(front, "/readyz").Code, "a failing check is run every second")
	})
}

func TestEveryBadFieldOfACheckIsNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		check health.Check
		want  string
	}{
		"no probe":            {health.Check{}, `health: Config.Checks["it"].Probe is nil, must return whether the thing is there`},
		"Every":               {health.Check{Every: -1}, `.Every is -1ns, must not be negative`},
		"FailEvery":           {health.Check{FailEvery: -1}, `.FailEvery is -1ns, must not be negative`},
		"Timeout":             {health.Check{Timeout: -1}, `.Timeout is -1ns, must not be negative`},
		"MaxAge":              {health.Check{MaxAge: -1}, `.MaxAge is -1ns, must not be negative`},
		"EscalateAfter":       {health.Check{EscalateAfter: -1}, `.EscalateAfter is -1ns, must not be negative`},
		"Fall":                {health.Check{Fall: -1}, `.Fall is -1, must not be negative`},
		"Rise":                {health.Check{Rise: -1}, `.Rise is -1, must not be negative`},
		"Jitter":              {health.Check{Jitter: 1.5}, `.Jitter is 1.5, must be at most 1`},
		"Jitter is no number": {health.Check{Jitter: math.NaN()}, `.Jitter is NaN, must be at most 1`},
		"Groups":              {health.Check{Groups: 8}, `.Groups is 0x8, must be made of Live, Ready and Startup`},
		"MaxAge too short":    {health.Check{Every: 10 * time.Second, MaxAge: 20 * time.Second}, `.MaxAge is 20s, must be at least 22s`},
		"overflow":            {health.Check{Every: math.MaxInt64}, `is longer than a lifetime`},
		"restarts the fleet":  {health.Check{Shared: true, EscalateAfter: time.Hour}, `.EscalateAfter is set with Shared, which would restart every replica at once`},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "no probe" {
				tc.check.Probe = pass
			}
			_, err := health.New(health.Config{Checks: map[string]health.Check{"it": tc.check}})
			require.ErrorContains(t, err, tc.want)
			require.ErrorContains(t, err, `health: Config.Checks["it"]`)
			require.PanicsWithError(t, err.Error(), func() {
				health.MustNew(health.Config{Checks: map[string]health.Check{"it": tc.check}})
			})
		})
	}
}

func TestWhatIsWrongBetweenTheFieldsOfACheckIsNamedBesideTheRest(t *testing.T) {
	_, err := health.New(health.Config{Checks: map[string]health.Check{
		"a": {Every: 10 * time.Second, MaxAge: 20 * time.Second, Fall: -1},
		"b": {Probe: pass, Every: -1, MaxAge: time.Second}, // with what would it be compared?
		"c": {Probe: pass, Every: math.MaxInt64},
	}})
	require.EqualError(t, err, strings.TrimSpace(`
health: Config.Checks["a"].Probe is nil, must return whether the thing is there
health: Config.Checks["a"].Fall is -1, must not be negative
health: Config.Checks["a"].MaxAge is 20s, must be at least 22s (twice the time between runs, and Timeout), or a healthy check would be stale
health: Config.Checks["b"].Every is -1ns, must not be negative
health: Config.Checks["c"]: Every, FailEvery, Timeout, MaxAge or EscalateAfter is longer than a lifetime`))
}

func TestNamesOfChecks(t *testing.T) {
	for name, ok := range map[string]bool{
		"db": true, "DB_1.primary-eu": true, strings.Repeat("x", 64): true,
		"": false, "a b": false, "a/b": false, "ü": false, ".": false, "..": false,
		"live": false, "ready": false, "startup": false, "phase": false, strings.Repeat("x", 65): false,
	} {
		_, err := health.New(health.Config{Checks: map[string]health.Check{name: {Probe: pass}}})
		if ok {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, "is not a name", name)
		}
	}
}

func TestTheConfigIsCopied(t *testing.T) {
	checks := map[string]health.Check{"it": {Probe: pass, Affects: []string{"/a"}}}
	affects := checks["it"].Affects
	h := health.MustNew(health.Config{Checks: checks})
	delete(checks, "it")
	affects[0] = "/b"
	require.Equal(t, []string{"/a"}, check(t, h, "it").Affects)
	check(t, h, "it").Affects[0] = "/c"
	require.Equal(t, []string{"/a"}, check(t, h, "it").Affects)
}

func TestWordsForEverything(t *testing.T) {
	require.Equal(t, "unknown pass warn fail unknown", fmt.Sprint(health.Unknown, health.Pass, health.Warn, health.Fail, health.Status(9)))
	require.Equal(t, "live ready startup live|ready ", fmt.Sprint(health.Live, health.Ready, health.Startup, health.Live|health.Ready, health.Group(0)))
	require.Equal(t, "serving draining closing stopping stopped unknown", fmt.Sprint(health.Serving, health.Draining, health.Closing, health.Stopping, health.Stopped, health.Phase(9)))
	require.Equal(t, health.Unknown, health.MustNew(health.Config{}).Status(health.Live|health.Ready), "one group at a time")
}
