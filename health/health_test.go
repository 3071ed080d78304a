package health_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
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
