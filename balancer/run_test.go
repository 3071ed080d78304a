package balancer_test

import (
	"context"
	"errors"
	"math"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestRunCanBeStoppedInTheMiddleAndBegunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		probed := map[string]bool{}
		b := must(t, balancer.Config{Backends: many(5), Probe: balancer.Probe{
			Concurrent: 1, Timeout: time.Second,
			Check: func(ctx context.Context, d balancer.Backend) error {
				mu.Lock()
				probed[d.URL] = true
				mu.Unlock()
				<-ctx.Done() // the others wait for their turn
				return ctx.Err()
			},
		}})
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			require.ErrorIs(t, b.Run(ctx), context.DeadlineExceeded)
			cancel()
		}
		clear(probed)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = b.Run(ctx)
		require.Len(t, probed, 5)
	})
}

func TestForeverIsATimeToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const forever = math.MaxInt64
		var discovered, probed atomic.Int32
		list := many(3)
		for range 20 { // the jitter is random
			b := must(t, balancer.Config{
				DiscoverEvery: forever,
				Discover:      func(context.Context) ([]balancer.Backend, error) { discovered.Add(1); return list, nil },
				Probe: balancer.Probe{Every: forever, Check: func(context.Context, balancer.Backend) error {
					probed.Add(1)
					return nil
				}},
				Policy: first{}, Eject: balancer.Eject{Base: forever},
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			go func() { defer cancel(); time.Sleep(time.Minute) }()
			_ = b.Run(ctx)
			shares(b, 1)
			for range 5 {
				l, err := b.Acquire(nil)
				require.NoError(t, err)
				l.Done(balancer.Failure)
			}
			time.Sleep(time.Hour)
			require.Equal(t, balancer.Ejected, state(b, 0))
			require.NoError(t, b.SetBackends(append(many(4), list...)[3:]...))
		}
		require.EqualValues(t, 20, discovered.Load())
		require.EqualValues(t, 60, probed.Load())
	})
}

func TestADiscoverThatEndsItsGoroutineFailsAndIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		b := must(t, balancer.Config{Discover: func(context.Context) ([]balancer.Backend, error) {
			if calls.Add(1) == 1 {
				runtime.Goexit()
			}
			return many(1), nil
		}})
		probing(t, b)
		synctest.Wait()
		conditions := map[string]bool{}
		for _, text := range b.Conditions() {
			conditions[text] = true
		}
		require.Contains(t, conditions, "discovery fails, the last good set stays: it ended its goroutine")
		time.Sleep(2 * time.Second)
		require.Equal(t, 1, b.Stats().Backends)
	})
}

func TestWarmingAsksLikeAProbeAndSurvivesWhatWrapDoes(t *testing.T) {
	type asked struct{ method, uri, host, token string }
	var seen atomic.Pointer[asked]
	url := server(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			seen.Store(&asked{r.Method, r.RequestURI, r.Host, r.Header.Get("Token")})
		}
	})
	run := func(cfg balancer.Config, until func(*balancer.Balancer) bool) {
		cfg.Backends = []balancer.Backend{{URL: url + "/base", Host: "inner.example"}}
		cfg.Warm = 2
		b := pool(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = b.Run(ctx) }()
		require.True(t, eventually(func() bool { return until(b) }))
		cancel()
		<-done
	}
	run(balancer.Config{Probe: balancer.Probe{Path: "/ready?all=1", Header: http.Header{"Token": {"t"}}}},
		func(*balancer.Balancer) bool { return seen.Load() != nil })
	require.Equal(t, asked{http.MethodHead, "/ready?all=1", "inner.example", "t"}, *seen.Load())

	for _, wrap := range []func(balancer.Backend, http.RoundTripper) http.RoundTripper{
		func(balancer.Backend, http.RoundTripper) http.RoundTripper { panic("boom") },
		func(balancer.Backend, http.RoundTripper) http.RoundTripper {
			return roundTripper(func(*http.Request) (*http.Response, error) { panic("boom") })
		},
		func(balancer.Backend, http.RoundTripper) http.RoundTripper {
			return roundTripper(func(*http.Request) (*http.Response, error) { return nil, nil })
		},
		func(balancer.Backend, http.RoundTripper) http.RoundTripper {
			return roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("no") })
		},
	} {
		run(balancer.Config{Wrap: wrap, Probe: balancer.Probe{Path: "/"}}, func(b *balancer.Balancer) bool { return probes(b) > 0 })
	}
}
