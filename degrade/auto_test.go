package degrade_test

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
)

// signal is a pressure that a test sets.
type signal struct{ bits atomic.Uint64 }

func (s *signal) set(v float64)  { s.bits.Store(math.Float64bits(v)) }
func (s *signal) value() float64 { return math.Float64frombits(s.bits.Load()) }

// running starts sw and returns what stops it.
func running(t *testing.T, sw *degrade.Switch) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- sw.Run(ctx) }()
	return func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	}
}

func TestTheLevelRisesFastAndFallsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p signal
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{p.value}})
		reviews, search := sw.Feature("reviews", degrade.Optional), sw.Feature("search", degrade.Useful)
		defer running(t, sw)()

		p.set(2)
		time.Sleep(900 * time.Millisecond)
		require.Equal(t, degrade.Full, sw.Level(), "not for a moment's pressure")
		time.Sleep(600 * time.Millisecond)
		require.Equal(t, degrade.Reduced, sw.Level())
		require.False(t, reviews.Enabled())
		require.True(t, search.Enabled())
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, degrade.Minimal, sw.Level())
		require.False(t, search.Enabled())
		time.Sleep(time.Minute)
		require.Equal(t, degrade.Minimal, sw.Level(), "there are no more levels than features have")

		p.set(0.1)
		time.Sleep(4 * time.Second)
		require.Equal(t, degrade.Minimal, sw.Level(), "it waits before it trusts the calm")
		time.Sleep(3 * time.Second)
		require.Equal(t, degrade.Reduced, sw.Level(), "one level at a time")
		time.Sleep(7 * time.Second)
		require.Equal(t, degrade.Full, sw.Level())
		require.True(t, reviews.Enabled())
	})
}

// A backend whose load is constant: leaving a level brings back the pressure that
// entered it. The switch learns what the level saves and stays.
func TestTheLevelDoesNotFlapAtConstantLoad(t *testing.T) {
	for _, load := range []float64{1.05, 1.3, 1.6} {
		synctest.Test(t, func(t *testing.T) {
			var sw *degrade.Switch
			cost := []float64{1, 0.7, 0.5}
			sw = degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{func() float64 { return load * cost[sw.Level()] }}})
			sw.Feature("reviews", degrade.Optional)
			sw.Feature("search", degrade.Useful)
			defer running(t, sw)()
			time.Sleep(10 * time.Minute)
			n := 0
			for range sw.Changes() {
				n++
			}
			require.LessOrEqual(t, n, 4, "changes in ten minutes at %vx", load)
			require.Less(t, load*cost[sw.Level()], 1.0)
		})
	}
}

// What a short peak leaves behind is a load that has fallen by itself, which
// must not pass for what the level saves.
func TestAShortPeakIsNotPaidForAllDay(t *testing.T) {
	for _, peak := range []float64{1.2, 2, 5, 100, math.Inf(1)} {
		synctest.Test(t, func(t *testing.T) {
			var p signal
			sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{p.value}})
			sw.Feature("reviews", degrade.Optional)
			defer running(t, sw)()
			p.set(0.5)
			time.Sleep(time.Minute)
			p.set(peak)
			time.Sleep(1500 * time.Millisecond)
			require.Equal(t, degrade.Reduced, sw.Level())
			p.set(0.5)
			time.Sleep(20 * time.Minute)
			require.Equal(t, degrade.Full, sw.Level(), "after a peak of %v", peak)
		})
	}
}

// That the belief in what a level saves fades means trying again now and then, which
// becomes rare where it was too soon.
func TestAtConstantLoadTheSwitchTriesAgainMoreAndMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sw *degrade.Switch
		sw = degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{func() float64 {
			return 1.05 * []float64{1, 0.7}[sw.Level()]
		}}})
		sw.Feature("reviews", degrade.Optional)
		defer running(t, sw)()
		time.Sleep(time.Hour)
		hour := sw.Stats().Changes
		require.LessOrEqual(t, hour, uint64(7), "in the first hour")
		time.Sleep(23 * time.Hour)
		require.LessOrEqual(t, sw.Stats().Changes-hour, uint64(12), "in the rest of the day")
	})
}

func TestAPressureWithoutBoundIsShownAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p signal
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{p.value}})
		sw.Feature("reviews", degrade.Optional)
		defer running(t, sw)()
		for _, v := range []float64{math.Inf(1), math.Inf(-1)} { // such as something over nothing
			p.set(v)
			time.Sleep(5 * time.Second)
			w := get(sw.Admin(), func(r *http.Request) { r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost" })
			require.True(t, json.Valid(w.Body.Bytes()), "a pressure of %v: %q", v, w.Body)
		}
	})
}

func TestASignalThatFailsIsNotCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p signal
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{p.value, func() float64 { panic("broken") }}})
		sw.Feature("reviews", degrade.Optional)
		defer running(t, sw)()
		p.set(2)
		time.Sleep(2 * time.Second)
		require.Equal(t, degrade.Reduced, sw.Level())
		p.set(math.NaN())
		time.Sleep(time.Hour)
		require.Equal(t, degrade.Reduced, sw.Level(), "nothing is known, so nothing changes")
	})
}

// Reviews cost 40 % of the work. At 1.3 times what the service can do, most users can keep
// them when the share follows the pressure; with levels alone nobody does.
func TestTheShareFollowsThePressure(t *testing.T) {
	for _, load := range []float64{1.05, 1.3, 1.5} {
		synctest.Test(t, func(t *testing.T) {
			var sw *degrade.Switch
			kept := func() float64 {
				v := 0.0
				sw.Collect(func(name, _, _ string, value float64, labels ...string) {
					if name == "spillway_degrade_feature_share" {
						v = value
					}
				})
				return v
			}
			var p signal
			sw = degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{p.value}})
			sw.Feature("reviews", degrade.Optional).Keep(degrade.Auto)
			defer running(t, sw)()
			sum := 0.0
			for range 1200 {
				p.set(load * (0.6 + 0.4*kept()))
				time.Sleep(250 * time.Millisecond)
				sum += kept()
			}
			fair := (0.875/load - 0.6) / 0.4 // share at the pressure aimed at
			require.InDelta(t, fair, sum/1200, 0.15, "at %vx", load)
			n := 0
			for range sw.Changes() {
				n++
			}
			require.LessOrEqual(t, n, 4, "and the level does not flap")
		})
	}
}
