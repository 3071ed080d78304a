package health_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

func TestSeveralServersStopTogetherWhenTheLastRequestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{Drain: health.Drain{Delay: -1}})
		release := make(chan struct{})
		handler := h.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
		go handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))

		ctx, cancel := context.WithCancel(t.Context())
		var servers sync.WaitGroup
		for range 3 {
			servers.Go(func() {
				ln := newSilent()
				require.NoError(t, h.Serve(ctx, &http.Server{Handler: handler}, &onceSilent{silent: ln}))
			})
		}
		synctest.Wait()
		start := time.Now()
		cancel()
		time.Sleep(time.Second)
		close(release)
		servers.Wait()
		require.Less(t, time.Since(start), 2*time.Second, "nobody waits for the whole Timeout")
	})
}

// onceSilent may be closed more than once, as a server does.
type onceSilent struct {
	*silent
	once sync.Once
}

func (l *onceSilent) Close() error {
	l.once.Do(func() { _ = l.silent.Close() })
	return nil
}

// dying is a listener that fails after a while.
type dying struct {
	*onceSilent
	after time.Duration
}

func (l dying) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	case <-time.After(l.after):
		return nil, errors.New("the network is gone")
	}
}

func TestAServerThatFailsWhileItDrainsIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ln := dying{&onceSilent{silent: newSilent()}, 2 * time.Second}
		err := h.Serve(ctx, &http.Server{Handler: h.Handler(nil)}, ln)
		require.ErrorContains(t, err, "the network is gone")
	})
}

type noAnswer struct{}

func (noAnswer) RoundTrip(*http.Request) (*http.Response, error) { return nil, nil }

func TestObservingARoundTripperWithoutAnAnswerDoesNotPanic(t *testing.T) {
	h := health.MustNew(health.Config{Checks: map[string]health.Check{"b": {Probe: func(context.Context) error { return nil }}}})
	client := &http.Client{Transport: h.Observe("b", noAnswer{})}
	_, err := client.Get("http://b.test") //nolint:bodyclose // there is none
	require.ErrorContains(t, err, "nil *Response")
	require.False(t, h.Ready())
}

func TestWhatWaitsForAHookThatHangsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free, told := make(chan struct{}), 0
		h := health.MustNew(health.Config{OnChange: func(health.Change) { <-free; told++ }})
		go h.SetMaintenance(true, "") // waits for the hook
		synctest.Wait()
		for range 2100 {
			h.SetMaintenance(false, "")
			h.SetMaintenance(true, "")
		}
		require.Equal(t, uint64(104), h.Stats().HookMissed, "beyond 4096")
		require.Equal(t, 104.0, value(t, h, "spillway_health_hook_missed_total"))
		close(free)
		synctest.Wait()
		require.Equal(t, 1+4096, told)
		h.SetMaintenance(false, "")
		require.Equal(t, 1+4096+1, told, "told again")
	})
}

func TestAHookThatEndsItsGoroutineEndsNoCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		h := health.MustNew(health.Config{
			Checks:   map[string]health.Check{"db": {Probe: fail, FailEvery: time.Second, Jitter: -1}},
			OnChange: func(health.Change) { told++; runtime.Goexit() },
		})
		run(t, h)
		time.Sleep(time.Minute)
		require.Greater(t, h.Stats().Runs, uint64(50), "once a second")
		require.Equal(t, 2, told, "the check, and the startup that waited for its first result")
	})
}
