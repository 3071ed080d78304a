package degrade_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
)

func get(h http.Handler, edit ...func(*http.Request)) *httptest.ResponseRecorder {
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
	for _, e := range edit {
		e(r)
	}
	h.ServeHTTP(w, r)
	return w
}

func TestPermitsSurviveWhateverAHandlerDoes(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"panic":  func(http.ResponseWriter, *http.Request) { panic("boom") },
		"abort":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"goexit": func(http.ResponseWriter, *http.Request) { runtime.Goexit() },
	} {
		t.Run(name, func(t *testing.T) {
			shed := degrade.MustNew(degrade.Config{Limit: 2, MaxWait: -1})
			h := shed.Handler(handler)
			for range 50 {
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() { _ = recover() }()
					get(h)
				}()
				<-done
			}
			require.Zero(t, shed.Stats().InFlight)
			require.Equal(t, uint64(50), shed.Stats().Admitted)
			require.Equal(t, 200, get(shed.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))).Code)
		})
	}
}

func TestReleasingTwiceGivesBackOnce(t *testing.T) {
	shed := degrade.MustNew(degrade.Config{Limit: 2, MaxWait: -1})
	first, err := shed.Acquire(context.Background(), degrade.Normal)
	require.NoError(t, err)
	_, err = shed.Acquire(context.Background(), degrade.Normal)
	require.NoError(t, err)
	first()
	first()
	require.Equal(t, 1, shed.Stats().InFlight)
}

func TestTheMoreImportantGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shed := degrade.MustNew(degrade.Config{Limit: 1})
		release, err := shed.Acquire(t.Context(), degrade.Normal)
		require.NoError(t, err)
		order := make(chan degrade.Priority)
		for _, p := range []degrade.Priority{degrade.Sheddable, degrade.Critical} {
			go func() {
				release, err := shed.Acquire(t.Context(), p)
				if err == nil {
					release()
					order <- p
				}
			}()
			synctest.Wait()
		}
		release()
		require.Equal(t, degrade.Critical, <-order)
		require.Equal(t, degrade.Sheddable, <-order)
	})
}

func TestWhoHangsUpWhileWaitingCountsAsNeither(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shed := degrade.MustNew(degrade.Config{Limit: 1})
		release, err := shed.Acquire(t.Context(), degrade.Normal)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := shed.Acquire(ctx, degrade.Normal)
			done <- err
		}()
		synctest.Wait()
		require.Equal(t, 1, shed.Stats().Waiting)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		st := shed.Stats()
		require.Equal(t, uint64(1), st.Abandoned)
		require.Equal(t, uint64(1), st.Admitted)
		require.Zero(t, st.Refused)
		require.Zero(t, st.Waiting)
		release()
		require.Zero(t, shed.Stats().InFlight)
	})
}
