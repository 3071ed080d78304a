package balancer_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestDiscoveryKeepsTheLastGoodSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer atomic.Pointer[func() ([]balancer.Backend, error)]
		set := func(f func() ([]balancer.Backend, error)) { answer.Store(&f) }
		set(func() ([]balancer.Backend, error) { return many(3), nil })
		b := must(t, balancer.Config{Name: "shop", Discover: func(context.Context) ([]balancer.Backend, error) { return (*answer.Load())() }})
		_, err := b.Acquire(nil)
		require.ErrorIs(t, err, balancer.ErrNoBackend)
		probing(t, b)
		synctest.Wait()
		require.Len(t, b.Backends(), 3)
		for name, f := range map[string]func() ([]balancer.Backend, error){
			"it fails":  func() ([]balancer.Backend, error) { return nil, errors.New("no such host") },
			"none":      func() ([]balancer.Backend, error) { return nil, nil },
			"nonsense":  func() ([]balancer.Backend, error) { return balancer.URLs("nonsense"), nil },
			"it panics": func() ([]balancer.Backend, error) { panic("oops") },
		} {
			set(f)
			time.Sleep(11 * time.Second)
			require.Len(t, b.Backends(), 3, name)
			n := 0
			for subject, text := range b.Conditions() {
				require.Equal(t, "shop", subject)
				require.Contains(t, text, "discovery fails, the last good set stays: ")
				n++
			}
			require.Equal(t, 1, n, name)
		}
		set(func() ([]balancer.Backend, error) { return many(5), nil })
		time.Sleep(11 * time.Second)
		require.Len(t, b.Backends(), 5)
	})
}

func TestDiscoveryThatFailsIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		b := must(t, balancer.Config{DiscoverEvery: 10 * time.Second, Discover: func(context.Context) ([]balancer.Backend, error) {
			at = append(at, time.Now())
			return nil, errors.New("not yet")
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = b.Run(ctx)
		for i, seconds := range []float64{1, 2, 4, 8, 10, 10} {
			require.InEpsilon(t, seconds, at[i+1].Sub(at[i]).Seconds(), 0.1, "give or take a tenth")
		}
		require.InDelta(t, 9, len(at), 1)
	})
}

func TestUnreachableBackendMakesDiscoveryLookAgain(t *testing.T) {
	var calls atomic.Int64
	gone := refuses(t)
	good := server(t, func(http.ResponseWriter, *http.Request) {})
	b := pool(t, balancer.Config{DiscoverEvery: time.Hour, Discover: func(context.Context) ([]balancer.Backend, error) {
		if calls.Add(1) == 1 {
			return balancer.URLs(gone), nil
		}
		return balancer.URLs(good), nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = b.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	require.Eventually(t, func() bool { return len(b.Backends()) == 1 }, 10*time.Second, time.Millisecond)
	rt := b.Transport(nil)
	require.Eventually(t, func() bool { return do(rt, http.MethodGet) == 200 }, 20*time.Second, 10*time.Millisecond)
	require.GreaterOrEqual(t, calls.Load(), int64(2), "long before the hour is over")
}

// The same in a bubble, where it can be said when, and how often.
func TestDiscoveryLooksAgainOnceForABackendThatCannotBeReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		b := must(t, balancer.Config{DiscoverEvery: time.Hour, Discover: func(context.Context) ([]balancer.Backend, error) {
			return balancer.URLs([]string{"http://gone", "http://good"}[min(calls.Add(1)-1, 1)]), nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = b.Run(ctx); close(done) }()
		defer func() { cancel(); <-done }()
		rt := b.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "gone" {
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
		}))
		time.Sleep(500 * time.Millisecond)
		require.Zero(t, do(rt, http.MethodGet))
		time.Sleep(499 * time.Millisecond)
		require.EqualValues(t, 1, calls.Load(), "not more than once a second")
		time.Sleep(2 * time.Millisecond)
		require.EqualValues(t, 2, calls.Load())
		require.Equal(t, 200, do(rt, http.MethodGet))
		time.Sleep(50 * time.Minute)
		require.EqualValues(t, 2, calls.Load(), "and no more before the hour is over")
	})
}

func TestFileListsBackends(t *testing.T) {
	path := filepath.Join(t.TempDir(), "backends.json")
	require.NoError(t, os.WriteFile(path, []byte(`["http://a", {"URL": "http://b", "Weight": 2.5, "Tier": 1, "Zone": "z"}]`), 0o600))
	list, err := balancer.File(path)(t.Context())
	require.NoError(t, err)
	require.Equal(t, []balancer.Backend{{URL: "http://a"}, {URL: "http://b", Weight: 2.5, Tier: 1, Zone: "z"}}, list)
	require.NoError(t, os.WriteFile(path, []byte(`["http://a", 3]`), 0o600))
	_, err = balancer.File(path)(t.Context())
	require.ErrorContains(t, err, "entry 1")
}

func TestDNSKeepsTheNameForTLS(t *testing.T) {
	list, err := balancer.DNS("https://localhost:8443/api")(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, list)
	for _, d := range list {
		require.Equal(t, "localhost", d.ServerName)
		require.Equal(t, "localhost:8443", d.Host)
		require.Contains(t, []string{"https://127.0.0.1:8443/api", "https://[::1]:8443/api"}, d.URL)
	}
}
