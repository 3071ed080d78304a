package breaker_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cep21/circuit/v4"
	"github.com/cep21/circuit/v4/closers/hystrix"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/breaker"
)

// These tests show what the rivals do where package breaker does otherwise.
// gobreaker's are in package breaker itself, which stands on it.

func TestFailsafeSeesNoPanicsOursDoes(t *testing.T) {
	theirs := circuitbreaker.NewBuilder[int]().WithFailureThreshold(3).Build()
	ours := breaker.MustNew(breaker.Config{ConsecutiveFailures: 3})
	for range 3 {
		func() {
			defer func() { _ = recover() }()
			_, _ = failsafe.With(theirs).Get(func() (int, error) { panic("boom") })
		}()
		func() {
			defer func() { _ = recover() }()
			_, _ = breaker.Do(t.Context(), ours, func(context.Context) (int, error) { panic("boom") })
		}()
	}
	require.True(t, theirs.IsClosed())
	require.Zero(t, theirs.Metrics().Executions())
	require.Equal(t, breaker.Open, ours.State())
}

func TestFailsafeWedgesWhenAProbePanicsOursDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs := circuitbreaker.NewBuilder[int]().WithFailureThreshold(1).WithDelay(5 * time.Second).Build()
		ours := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1})
		boom := func() (int, error) { panic("boom") }
		guarded := func() {
			defer func() { _ = recover() }()
			_, _ = failsafe.With(theirs).Get(boom)
		}
		oursGuarded := func() {
			defer func() { _ = recover() }()
			_, _ = breaker.Do(t.Context(), ours, func(context.Context) (int, error) { return boom() })
		}
		theirs.Open()
		oursGuarded()
		time.Sleep(6 * time.Second)
		guarded()
		oursGuarded()
		time.Sleep(24 * time.Hour)
		_, err := failsafe.With(theirs).Get(func() (int, error) { return 1, nil })
		require.ErrorIs(t, err, circuitbreaker.ErrOpen, "a day later")
		_, err = breaker.Do(t.Context(), ours, func(context.Context) (int, error) { return 1, nil })
		require.NoError(t, err)
	})
}

func TestFailsafeTakesABodyThatBreaksOffForASuccessOursDoesNot(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer srv.Close()
	theirs := circuitbreaker.NewBuilder[*http.Response]().WithFailureThreshold(3).Build()
	ours := breaker.MustNew(breaker.Config{ConsecutiveFailures: 3})
	for _, rt := range []http.RoundTripper{failsafehttp.NewRoundTripper(nil, theirs), ours.Transport(nil)} {
		client := &http.Client{Transport: rt}
		for range 50 {
			resp, err := client.Get(srv.URL)
			if err != nil {
				continue
			}
			_, err = io.ReadAll(resp.Body)
			require.Error(t, err)
			resp.Body.Close()
		}
	}
	require.True(t, theirs.IsClosed())
	require.Equal(t, breaker.Open, ours.State())
}

func TestFailsafeNeverSeesAHandlersStatusOursDoes(t *testing.T) {
	theirs := circuitbreaker.NewBuilder[*http.Response]().
		HandleIf(func(r *http.Response, err error) bool { return err != nil || r != nil && r.StatusCode >= 500 }).
		WithFailureThreshold(3).Build()
	ours := breaker.MustNew(breaker.Config{ConsecutiveFailures: 3})
	down := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	for _, h := range []http.Handler{failsafehttp.NewHandler(down, theirs), ours.Handler(down)} {
		for range 100 {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		}
	}
	require.True(t, theirs.IsClosed())
	require.Equal(t, breaker.Open, ours.State())
}

func TestFailsafeOpensWhenCallersHangUpOursDoesNot(t *testing.T) {
	theirs := circuitbreaker.NewBuilder[*http.Response]().WithFailureThreshold(3).Build()
	ours := breaker.MustNew(breaker.Config{ConsecutiveFailures: 3})
	hang := roundTrip(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	for _, rt := range []http.RoundTripper{failsafehttp.NewRoundTripper(hang, theirs), ours.Transport(hang)} {
		for range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://a/", nil)
			require.NoError(t, err)
			_, err = rt.RoundTrip(r)
			require.Error(t, err)
		}
	}
	require.True(t, theirs.IsOpen())
	require.Equal(t, breaker.Closed, ours.State())
}

func TestCep21SeesNoPanicsOursDoes(t *testing.T) {
	theirs := circuit.NewCircuitFromConfig("x", circuit.Config{General: circuit.GeneralConfig{
		ClosedToOpenFactory: hystrix.OpenerFactory(hystrix.ConfigureOpener{RequestVolumeThreshold: 5}),
		OpenToClosedFactory: hystrix.CloserFactory(hystrix.ConfigureCloser{}),
	}})
	ours := breaker.MustNew(breaker.Config{MinCalls: 5})
	for range 50 {
		func() {
			defer func() { _ = recover() }()
			_ = theirs.Execute(t.Context(), func(context.Context) error { panic("boom") }, nil)
		}()
		func() {
			defer func() { _ = recover() }()
			_, _ = breaker.Do(t.Context(), ours, func(context.Context) (int, error) { panic("boom") })
		}()
	}
	require.False(t, theirs.IsOpen())
	require.Equal(t, breaker.Open, ours.State())
}
