package health_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

// This one is for the race detector.
func TestEverythingAtOnce(t *testing.T) {
	var n atomic.Int64
	h := health.MustNew(health.Config{
		Checks: map[string]health.Check{"it": {Every: time.Millisecond, Probe: func(ctx context.Context) error {
			health.Measure(ctx, 1, "1")
			if n.Add(1)%3 == 0 {
				return errDown
			}
			return nil
		}}},
		Authorize: func(*http.Request) bool { return true },
		Drain:     health.Drain{Delay: -1},
		OnChange:  func(health.Change) { n.Add(1) },
	})
	page := health.Dashboard(h).Allow(func(*http.Request) bool { return true }, h.MaintenanceActions()...)
	metrics := health.Metrics(h)
	rt := h.Observe("it", roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 503, Body: http.NoBody}, nil
	}))
	front := h.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx, &http.Server{Handler: front}, newSilent()) }()

	var wg sync.WaitGroup
	for i, f := range []func(int){
		func(int) { get(front, "/readyz") },
		func(int) { get(front, "/readyz?verbose&exclude=it") },
		func(int) { get(front, "/livez/it") },
		func(int) { get(front, "/") },
		func(i int) { _ = h.Register("x"+strconv.Itoa(i%5), health.Check{Probe: pass, Every: time.Millisecond}) },
		func(i int) { h.Unregister("x" + strconv.Itoa(i%5)) },
		func(i int) { h.SetMaintenance(i%2 == 0, "why") },
		func(int) { _, _ = rt.RoundTrip(httptest.NewRequest("GET", "http://x/", nil)) },
		func(int) { get(metrics, "/metrics") },
		func(int) { get(page, "/-/?state") },
		func(int) { h.Stats(); h.Ready() },
		func(int) {
			for range h.Changes() {
			}
			for range h.Conditions() {
			}
		},
	} {
		wg.Go(func() {
			for j := range 200 {
				f(i + j)
			}
		})
	}
	wg.Wait()
	cancel()
	require.NoError(t, <-served)
	require.Zero(t, h.Stats().InFlight)
	require.False(t, h.Ready())
}
