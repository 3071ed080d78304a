package balancer_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestNewBackendGetsItsShareLittleByLittle(t *testing.T) {
	for _, p := range policies {
		if p.name == "HashBy" {
			continue // a key has one place, so the share moves by keys
		}
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := must(t, balancer.Config{Backends: many(9), Policy: p.make()})
				shares(b, 1000)
				time.Sleep(time.Millisecond)
				require.NoError(t, b.SetBackends(many(10)...))
				fresh := many(10)[9].URL
				require.Equal(t, balancer.Warming, state(b, 9))
				var got []int
				for range 10 {
					got = append(got, 0)
					for range 100 {
						time.Sleep(10 * time.Millisecond)
						got[len(got)-1] += shares(b, 30)[fresh]
					}
				}
				require.Less(t, got[0], 40, "of 3000 in the first second: %v", got)
				require.Greater(t, got[9], 150, "in the tenth: %v", got)
				require.Less(t, got[9], 450, "%v", got)
				require.Greater(t, got[5], got[1], "%v", got)
				require.Equal(t, balancer.Ready, state(b, 9))
			})
		})
	}
}

func TestWhollyNewSetNeedsNoSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := must(t, balancer.Config{Backends: many(4), Policy: balancer.RoundRobin()})
		require.NoError(t, b.SetBackends(many(8)[4:]...))
		got := shares(b, 400)
		for _, d := range many(8)[4:] {
			require.Equal(t, 100, got[d.URL])
		}
	})
}

func TestThoseThatStayKeepTheirState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		list := l.hosts(4)
		b := must(t, balancer.Config{Backends: list, Policy: balancer.RoundRobin()})
		l.set("b0", 503)
		send(b.Transport(l), 40, time.Second)
		require.Equal(t, balancer.Ejected, state(b, 0))
		list[0].Weight = 7
		require.NoError(t, b.SetBackends(list[:3]...))
		s := b.Backends()[0]
		require.Equal(t, balancer.Ejected, s.State)
		require.EqualValues(t, 7, s.Backend.Weight)
		require.EqualValues(t, 5, s.Failure)
		require.EqualValues(t, 45, b.Stats().Success+b.Stats().Failure, "counts of those that left stay too")
	})
}

func TestLeaverFinishesItsRequestsAndClosesItsConnections(t *testing.T) {
	release := make(chan struct{})
	var conns atomic.Int64
	old := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = io.WriteString(w, "done")
	}))
	old.Config.ConnState = countConns(&conns)
	old.Start()
	t.Cleanup(old.Close)
	b := pool(t, balancer.Config{Backends: balancer.URLs(old.URL)})
	req, _ := http.NewRequest(http.MethodGet, "http://x/", nil)
	resp, err := b.Transport(nil).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, b.SetBackends(balancer.URLs("http://127.0.0.1:1")...))
	list := b.Backends()
	require.Len(t, list, 2)
	require.True(t, list[1].Leaving)
	require.Equal(t, 1, list[1].InFlight)
	close(release)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "done", string(body))
	require.Len(t, b.Backends(), 1)
	require.Eventually(t, func() bool { return conns.Load() == 0 }, 10*time.Second, time.Millisecond)
}

// countConns counts open connections.
func countConns(n *atomic.Int64) func(net.Conn, http.ConnState) {
	return func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			n.Add(1)
		case http.StateClosed, http.StateHijacked:
			n.Add(-1)
		}
	}
}

func TestTiersSpillOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Int64
		var list []balancer.Backend
		for i := range 10 {
			list = append(list, balancer.Backend{ID: fmt.Sprint("main", i), URL: fmt.Sprint("http://main", i)},
				balancer.Backend{ID: fmt.Sprint("spare", i), URL: fmt.Sprint("http://spare", i), Tier: 1})
		}
		b := must(t, balancer.Config{Backends: list, Policy: balancer.Random(), SlowStart: -1, Healthy: func(d balancer.Backend) bool {
			return d.Tier == 1 || int64(d.ID[4]-'0') >= down.Load()
		}})
		spare := func() float64 {
			shares(b, 200)
			time.Sleep(1100 * time.Millisecond)
			n := 0
			for id, k := range shares(b, 4000) {
				if strings.HasPrefix(id, "spare") {
					n += k
				}
			}
			return float64(n) / 4000
		}
		for _, c := range []struct {
			down int64
			want float64
		}{{0, 0}, {2, 0}, {5, 1 - 1.4*0.5}, {8, 1 - 1.4*0.2}, {10, 1}, {0, 0}} {
			down.Store(c.down)
			require.InDelta(t, c.want, spare(), 0.04, "%d of 10 down", c.down)
		}
	})
}

func TestZoneIsPreferredAsFarAsItsCapacityGoes(t *testing.T) {
	zone := func(local, other int) float64 {
		var list []balancer.Backend
		for i := range local + other {
			d := balancer.Backend{URL: fmt.Sprint("http://h", i), Zone: "b"}
			if i < local {
				d.Zone = "a"
			}
			list = append(list, d)
		}
		b := must(t, balancer.Config{Backends: list, Zone: "a", Policy: balancer.Random()})
		n := 0
		for range 8000 {
			l, _ := b.Acquire(nil)
			if l.Endpoint().Backend().Zone == "a" {
				n++
			}
			l.Done(balancer.Success)
		}
		return float64(n) / 8000
	}
	require.EqualValues(t, 1, zone(5, 5), "half of the capacity for half of the requests")
	require.EqualValues(t, 1, zone(8, 2))
	require.InDelta(t, 0.4, zone(2, 8), 0.03, "a fifth of the capacity for half of the requests")
	require.EqualValues(t, 0, zone(0, 5))
}

func TestSubsetIsStableAndEvenEnough(t *testing.T) {
	use := func(key string, n int) map[string]bool {
		b := must(t, balancer.Config{Backends: many(n), Subset: 20, SubsetKey: key})
		m := map[string]bool{}
		for _, s := range b.Backends() {
			m[s.Backend.URL] = true
		}
		require.Len(t, m, 20)
		return m
	}
	require.Equal(t, use("web-1", 200), use("web-1", 200))
	require.NotEqual(t, use("web-1", 200), use("web-2", 200))
	kept := 0
	after := use("web-1", 199)
	for u := range use("web-1", 200) {
		if after[u] {
			kept++
		}
	}
	require.GreaterOrEqual(t, kept, 19)
	clients := map[string]int{}
	for i := range 200 {
		for u := range use(fmt.Sprint("web-", i), 200) {
			clients[u]++
		}
	}
	for u, n := range clients {
		require.InDelta(t, 20, n, 18, u)
	}
	require.Len(t, clients, 200)
}
