package balancer_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// server starts a backend that answers with h, and returns its URL.
func server(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// counts answers with code and counts.
func counts(n *atomic.Int64, code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		n.Add(1)
		w.WriteHeader(code)
	}
}

func pool(t testing.TB, cfg balancer.Config) *balancer.Balancer {
	t.Helper()
	b, err := balancer.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		if c, ok := b.Transport(nil).(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	})
	return b
}

func get(t testing.TB, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestProxySpreadsRequests(t *testing.T) {
	var a, b atomic.Int64
	p := pool(t, balancer.Config{Backends: balancer.URLs(server(t, counts(&a, 200)), server(t, counts(&b, 200))), Policy: balancer.RoundRobin()}).Proxy()
	for range 100 {
		require.Equal(t, 200, get(t, p, "/").Code)
	}
	require.EqualValues(t, 50, a.Load())
	require.EqualValues(t, 50, b.Load())
}

func TestFailedGetIsRetriedOnAnotherBackend(t *testing.T) {
	var bad, good atomic.Int64
	b := pool(t, balancer.Config{Backends: balancer.URLs(server(t, counts(&bad, 503)), server(t, counts(&good, 200)))})
	p := b.Proxy()
	for range 50 {
		require.Equal(t, 200, get(t, p, "/").Code)
	}
	require.EqualValues(t, 50, good.Load())
	require.LessOrEqual(t, bad.Load(), int64(6))
	require.EqualValues(t, bad.Load(), b.Stats().Retries)
}
