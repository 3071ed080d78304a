package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// shares makes n picks and returns how many each backend got, by ID.
func shares(b *balancer.Balancer, n int) map[string]int {
	got := map[string]int{}
	for range n {
		l, err := b.Acquire(nil)
		if err != nil {
			got["none"]++
			continue
		}
		got[l.Endpoint().Backend().ID]++
		l.Done(balancer.Success)
	}
	return got
}

func TestEveryPolicyFollowsTheWeights(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				list := []balancer.Backend{{ID: "a", URL: "http://a", Weight: 1}, {ID: "b", URL: "http://b", Weight: 3}, {ID: "c", URL: "http://c", Weight: 0.5}, {ID: "d", URL: "http://d", Weight: 5.5}}
				policy := p.make()
				if p.name == "HashBy" {
					n := 0
					policy = balancer.HashBounded(func(*http.Request) string { n++; return fmt.Sprint("key", n) }, -1)
				}
				b := must(t, balancer.Config{Backends: list, Policy: policy})
				got := map[string]int{}
				var busy []balancer.Lease
				for range 20000 {
					time.Sleep(50 * time.Microsecond)
					l, err := b.Acquire(&http.Request{})
					require.NoError(t, err)
					got[l.Endpoint().Backend().ID]++
					if busy = append(busy, l); len(busy) == 20 { // some are always under way
						busy[0].Done(balancer.Success)
						busy = busy[1:]
					}
				}
				for _, d := range list {
					require.InDelta(t, d.Weight/10, float64(got[d.ID])/20000, 0.03, d.ID)
				}
			})
		})
	}
}

func TestRoundRobinIsSmoothAndGoesOnWhereItWas(t *testing.T) {
	list := []balancer.Backend{{ID: "a", URL: "http://a", Weight: 5}, {ID: "b", URL: "http://b"}, {ID: "c", URL: "http://c"}}
	b := must(t, balancer.Config{Backends: list, Policy: balancer.RoundRobin()})
	longest, run, last := 0, 0, ""
	for range 700 {
		l, _ := b.Acquire(nil)
		id := l.Endpoint().Backend().ID
		if id == last {
			run++
		} else {
			run, last = 1, id
		}
		longest = max(longest, run)
		l.Done(balancer.Success)
	}
	require.LessOrEqual(t, longest, 3, "the heavy one is not sent all its turns in a row")

	// Setting the same again, again and again, must not favour the first ones.
	list = many(4)
	b = must(t, balancer.Config{Backends: list, Policy: balancer.RoundRobin()})
	got := map[string]int{}
	for range 200 {
		for k, n := range shares(b, 5) {
			got[k] += n
		}
		require.NoError(t, b.SetBackends(list...))
	}
	for _, d := range list {
		require.EqualValues(t, 250, got[d.URL])
	}
}

func TestHashKeepsKeysAndMovesFew(t *testing.T) {
	key := func(r *http.Request) string { return r.Header.Get("K") }
	b := must(t, balancer.Config{Backends: many(10), Policy: balancer.HashBounded(key, -1)})
	where := func() map[string]string {
		m := map[string]string{}
		for i := range 20000 {
			k := fmt.Sprint("user-", i)
			l, err := b.Acquire(&http.Request{Header: http.Header{"K": {k}}})
			require.NoError(t, err)
			m[k] = l.Endpoint().Backend().URL
			l.Done(balancer.Success)
		}
		return m
	}
	before := where()
	require.Equal(t, before, where())
	perBackend := map[string]int{}
	for _, u := range before {
		perBackend[u]++
	}
	for u, n := range perBackend {
		require.InDelta(t, 2000, n, 200, u)
	}
	removed := many(10)[3].URL
	require.NoError(t, b.SetBackends(append(many(10)[:3:3], many(10)[4:]...)...))
	moved := 0
	for k, u := range where() {
		if before[k] != removed && before[k] != u {
			moved++
		}
	}
	require.Less(t, moved, 20000*3/100, "keys of others")
	// The same in another process, whatever the order.
	reversed := many(10)
	for i := range 5 {
		reversed[i], reversed[9-i] = reversed[9-i], reversed[i]
	}
	b = must(t, balancer.Config{Backends: reversed, Policy: balancer.HashBounded(key, -1)})
	require.Equal(t, before, where())
}

func TestHashRefusesWhatIsNoBound(t *testing.T) {
	key := balancer.ByHeader("K")
	for _, bound := range []float64{0, 0.5, 1, math.NaN()} {
		require.PanicsWithValue(t, fmt.Sprintf("balancer: HashBounded: bound is %v, must be above 1, or negative for none", bound),
			func() { balancer.HashBounded(key, bound) })
	}
	for _, bound := range []float64{-1, 1.01, math.Inf(1)} {
		require.NotPanics(t, func() { balancer.HashBounded(key, bound) })
	}
	require.PanicsWithValue(t, "balancer: HashBy: key is nil, must name the key of a request", func() { balancer.HashBy(nil) })
}

func TestHashSpillsOverWhenItsBackendHasTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := must(t, balancer.Config{Backends: many(10), Policy: balancer.HashBy(balancer.ByHeader("K"))})
		hot := &http.Request{Header: http.Header{"K": {"hot"}}}
		most := 0
		for i := range 1000 {
			time.Sleep(time.Millisecond) // the sum of those in flight is a millisecond old
			l, err := b.Acquire(hot)
			require.NoError(t, err)
			most = max(most, l.Endpoint().InFlight())
			require.LessOrEqual(t, float64(l.Endpoint().InFlight()), 1.25*float64(i+1)/10+1.5)
		}
		require.Greater(t, most, 120)
	})
}

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
