package balancer_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestNoBackendIsA503WithATrueRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := must(t, balancer.Config{Backends: balancer.URLs("http://a"), PanicShare: -1, Healthy: func(balancer.Backend) bool { return false }})
		_, err := b.Acquire(nil)
		require.ErrorIs(t, err, balancer.ErrNoBackend)
		var none *balancer.NoBackendError
		require.ErrorAs(t, err, &none)
		require.GreaterOrEqual(t, none.RetryAfter(), time.Second)
		require.Equal(t, time.Second, none.RetryAfter(), "then Healthy is asked again")
		require.Equal(t, "balancer: default: no backend is available", err.Error())
	})
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		b := must(t, balancer.Config{
			Backends: balancer.URLs("http://a"), PanicShare: -1,
			Probe: balancer.Probe{Every: 20 * time.Second, Check: func(context.Context, balancer.Backend) error {
				if down.Load() {
					return errors.New("no")
				}
				return nil
			}},
		})
		probing(t, b)
		down.Store(true)
		time.Sleep(time.Minute)
		_, err := b.Acquire(nil)
		var none *balancer.NoBackendError
		require.ErrorAs(t, err, &none)
		down.Store(false)
		require.InDelta(t, 20, none.RetryAfter().Seconds(), 4, "two probes must pass, of which the next is soon")
		time.Sleep(none.RetryAfter() + 4*time.Second)
		_, err = b.Acquire(nil)
		require.NoError(t, err)
	})
}

func TestRetryAfterIsTheNextDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		found := func(context.Context) ([]balancer.Backend, error) {
			return []balancer.Backend{{URL: "http://a", Drain: true}}, nil
		}
		for _, c := range []struct {
			cfg           balancer.Config
			before, after time.Duration // Run
		}{
			{balancer.Config{Backends: []balancer.Backend{{URL: "http://a", Drain: true}}}, time.Minute, time.Minute},
			{balancer.Config{Discover: found}, time.Second, 10 * time.Second},
		} {
			b := must(t, c.cfg)
			for _, want := range []time.Duration{c.before, c.after} {
				_, err := b.Acquire(nil)
				var none *balancer.NoBackendError
				require.ErrorAs(t, err, &none)
				require.Equal(t, want, none.RetryAfter())
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_ = b.Run(ctx)
				cancel()
			}
		}
	})
}

func TestChangesAreToldInOrderAndHooksMayPanicAndCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		var told []string
		var b *balancer.Balancer
		b = must(t, balancer.Config{Backends: l.hosts(3), Policy: balancer.RoundRobin(), OnChange: func(c balancer.Change) {
			told = append(told, c.String())
			_ = b.Stats() // no lock is held
			if len(told) == 1 {
				panic("a hook")
			}
		}})
		rt := b.Transport(l)
		l.set("b0", 503)
		send(rt, 30, time.Second)
		l.set("b0", 200)
		time.Sleep(6 * time.Second)
		send(rt, 3, time.Second)
		time.Sleep(11 * time.Second)
		_ = b.Stats()
		require.Equal(t, []string{
			"b0: ejected, was ready: 5 failures in a row",
			"b0: probation, was ejected: 5 failures in a row",
			"b0: warming, was probation",
			"b0: ready, was warming",
		}, told)
		require.EqualValues(t, 1, b.Stats().HookPanics)
		var log []string
		for _, text := range b.Changes() {
			log = append(log, text)
		}
		require.Equal(t, told, log)
	})
}

func TestConditionsNameWhatIsNotNormal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		list := l.hosts(3)
		b := must(t, balancer.Config{Name: "shop", Backends: list, Policy: balancer.RoundRobin()})
		conditions := func() (all []string) {
			for subject, text := range b.Conditions() {
				all = append(all, subject+": "+text)
			}
			return all
		}
		require.Empty(t, conditions())
		l.set("b0", 503)
		send(b.Transport(l), 30, time.Second)
		list[1].Drain = true
		require.NoError(t, b.SetBackends(list...))
		got := conditions()
		require.Len(t, got, 2)
		require.True(t, strings.HasPrefix(got[0], "b0: ejected until 2000-") || strings.HasPrefix(got[0], "b0: ejected until 00:00:"), got[0])
		require.Equal(t, "b1: draining: configured to drain", got[1])
	})
}

func TestMetricsStandFromTheStartAndSeriesOfANameAreAdjacent(t *testing.T) {
	b := must(t, balancer.Config{Name: "shop", Backends: balancer.URLs("http://a", "http://b")})
	collect := func() (names []string, values map[string]float64) {
		values = map[string]float64{}
		b.Collect(func(name, help, kind string, v float64, labels ...string) {
			require.NotEmpty(t, help)
			require.Contains(t, []string{"counter", "gauge", "histogram"}, kind)
			require.Equal(t, []string{"pool", "shop"}, labels[:2])
			require.Zero(t, len(labels)%2)
			names = append(names, name)
			values[name+strings.Join(labels, ",")] += v
		})
		return names, values
	}
	names, values := collect()
	require.Contains(t, values, "spillway_balancer_requests_totalpool,shop,upstream,http://a,outcome,failure")
	require.EqualValues(t, 1, values["spillway_balancer_upstream_uppool,shop,upstream,http://b"])
	require.EqualValues(t, 1, values["spillway_balancer_available_ratiopool,shop"])
	compact := slices.Compact(slices.Clone(names))
	slices.Sort(compact)
	require.Equal(t, len(compact), len(slices.Compact(compact)), "a name is not resumed")
	again, _ := collect()
	require.Equal(t, names, again)
}
