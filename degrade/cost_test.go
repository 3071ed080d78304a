package degrade

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type discard struct{ h http.Header }

func (d discard) Header() http.Header       { return d.h }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// Allocations do not depend on the machine's mood.
func TestWhatARequestAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates too")
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { PriorityOf(r.Context()) })
	serve := func(h http.Handler) func() {
		w, r := discard{http.Header{}}, httptest.NewRequest("GET", "/", nil)
		return func() { h.ServeHTTP(w, r) }
	}
	as := func(p Priority) Config {
		return Config{Priority: func(*http.Request) Priority { return p }}
	}
	shed, ctx := MustNew(Config{}), context.Background()
	full, reduced := MustNewSwitch(SwitchConfig{}), MustNewSwitch(SwitchConfig{})
	full.Feature("reviews", Optional)
	reviews := reduced.Feature("reviews", Optional)
	require.NoError(t, reduced.Set(Override{Target: "level", Level: Reduced, Author: "ann", Reason: "test", Expires: time.Now().Add(time.Hour)}))
	for _, c := range []struct {
		name string
		most float64
		f    func()
	}{
		{"admission", 0, serve(shed.Handler(next))},
		{"admission of a critical request", 1, serve(MustNew(as(Critical)).Handler(next))},
		{"admission of a sheddable request", 1, serve(MustNew(as(Sheddable)).Handler(next))},
		{"admission with a timeout that is believed", 5, func() func() {
			h := MustNew(Config{Trust: func(*http.Request) bool { return true }}).Handler(next)
			w, r := discard{http.Header{}}, httptest.NewRequest("GET", "/", nil)
			r.Header.Set(TimeoutHeader, "5000")
			return func() { h.ServeHTTP(w, r) }
		}()},
		{"Acquire and release", 1, func() {
			release, err := shed.Acquire(ctx, Normal)
			if err == nil {
				release()
			}
		}},
		{"Switch.Handler with everything on", 1, serve(full.Handler(next))},
		{"Switch.Handler at a level", 1, serve(reduced.Handler(next))},
		{"an answer that is marked", 7, serve(reduced.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !reviews.EnabledFor(r.Context()) {
				io.WriteString(w, "no reviews just now")
			}
		})))},
	} {
		got := testing.AllocsPerRun(1000, c.f)
		t.Logf("%-34s %v", c.name, got)
		require.LessOrEqual(t, got, c.most, c.name)
	}
}

// What Acquire hands out is used again; a release that comes late is not.
func TestALateReleaseDoesNotGiveBackAnothersSlot(t *testing.T) {
	shed := MustNew(Config{Limit: 100, MaxWait: -1})
	ctx := context.Background()
	for range 1000 {
		first, err := shed.Acquire(ctx, Normal)
		require.NoError(t, err)
		first()
		second, err := shed.Acquire(ctx, Normal)
		require.NoError(t, err)
		first()
		require.Equal(t, 1, shed.Stats().InFlight)
		second()
		require.Zero(t, shed.Stats().InFlight)
	}
}

// The context of a request that was let in is still the client's: what is in
// it, its deadline and its end.
func TestTheContextOfARequestIsPassedOn(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "value"), time.Hour)
	defer cancel()
	sw := MustNewSwitch(SwitchConfig{})
	shed := MustNew(Config{Priority: func(*http.Request) Priority { return Sheddable }})
	ran := false
	h := shed.Handler(sw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ran = true
		require.Equal(t, "value", r.Context().Value(key{}))
		require.Equal(t, Sheddable, PriorityOf(r.Context()))
		_, ok := r.Context().Deadline()
		require.True(t, ok)
		child, stop := context.WithCancel(r.Context())
		defer stop()
		cancel()
		<-child.Done()
		require.ErrorIs(t, r.Context().Err(), context.Canceled)
	})))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
	require.True(t, ran)
}
