package health_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

func TestABusyPortIsAnErrorAtOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	h := health.MustNew(health.Config{})
	err = h.ListenAndServe(t.Context(), &http.Server{Addr: ln.Addr().String(), Handler: h.Handler(teapot)})
	require.ErrorContains(t, err, "address already in use")
}

func TestTheEndOfTheContextDrainsAndReturnsNil(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	entered, release := make(chan struct{}), make(chan struct{})
	var order []string
	h := health.MustNew(health.Config{
		Drain: health.Drain{
			Delay: 200 * time.Millisecond,
			Hooks: []func(context.Context) error{
				func(context.Context) error { order = append(order, "first"); return nil },
				func(context.Context) error { order = append(order, "second"); return nil },
			},
		},
		OnChange: func(c health.Change) {
			if c.Subject == "phase" {
				order = append(order, c.To)
			}
		},
	})
	srv := &http.Server{Handler: h.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-health.DrainStarted(r.Context())
		<-release
		io.WriteString(w, "done")
	}))}
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, srv, ln) }()

	type answer struct {
		body  string
		close bool
		mark  string
		err   error
	}
	slow := make(chan answer, 1)
	go func() {
		resp, err := http.Get("http://" + ln.Addr().String() + "/slow")
		if err != nil {
			slow <- answer{err: err}
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		slow <- answer{string(body), resp.Close, resp.Header.Get("Spillway-Draining"), err}
	}()
	<-entered
	cancel()
	require.Eventually(t, func() bool { return !h.Ready() }, 5*time.Second, time.Millisecond)
	resp, err := http.Get("http://" + ln.Addr().String() + "/readyz")
	require.NoError(t, err, "still listening")
	resp.Body.Close()
	require.Equal(t, 503, resp.StatusCode)
	close(release)
	require.Equal(t, answer{"done", true, "1", nil}, <-slow)
	require.NoError(t, <-done)
	require.Equal(t, []string{"draining", "closing", "stopping", "first", "second", "stopped"}, order)
}
