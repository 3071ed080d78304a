package balancer_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// named returns a pool of one backend that answers with a name.
func named(t testing.TB, name string) *balancer.Balancer {
	url := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
	return pool(t, balancer.Config{Name: name, Backends: balancer.URLs(url)})
}

func TestShareOfACanaryIsKeptAndOnlyGrowsIntoItself(t *testing.T) {
	stable, canary := must(t, balancer.Config{Backends: many(1)}), must(t, balancer.Config{Backends: many(1)})
	s, err := balancer.NewSplit(balancer.SplitConfig{Shares: []balancer.Share{{stable, 95}, {canary, 5}}, Key: balancer.ByHeader("User")})
	require.NoError(t, err)
	on := func() map[int]bool {
		m := map[int]bool{}
		for i := range 20000 {
			r := &http.Request{Header: http.Header{"User": {fmt.Sprint("u", i)}}}
			first := s.Pick(r)
			require.Same(t, first, s.Pick(r), "sticky")
			if first == canary {
				m[i] = true
			}
		}
		return m
	}
	five := on()
	require.InDelta(t, 1000, len(five), 150)
	_, err = s.SetShares(balancer.Share{Pool: stable, Weight: 90}, balancer.Share{Pool: canary, Weight: 10})
	require.NoError(t, err)
	ten := on()
	require.InDelta(t, 2000, len(ten), 200)
	for i := range five {
		require.True(t, ten[i], "nobody leaves a canary that grows")
	}
	n := 0
	for range 20000 { // without a key: by chance
		if s.Pick(&http.Request{}) == canary {
			n++
		}
	}
	require.InDelta(t, 2000, n, 250)
}

func TestRulesGoBeforeShares(t *testing.T) {
	stable, canary := named(t, "stable"), named(t, "canary")
	s := balancer.Split(balancer.Share{Pool: stable, Weight: 1}, balancer.Share{Pool: canary, Weight: 0})
	p := s.Proxy()
	ask := func(header string) string {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Canary", header)
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		return w.Body.String()
	}
	require.Equal(t, "stable", ask("1"))
	require.NoError(t, s.SetRules(balancer.Rule{When: func(r *http.Request) bool { return r.Header.Get("X-Canary") == "1" }, To: canary}))
	require.Equal(t, "canary", ask("1"))
	require.Equal(t, "stable", ask("0"))
	_, err := s.SetShares(balancer.Share{Pool: stable, Weight: 1})
	require.NoError(t, err)
	require.Equal(t, "canary", ask("1"), "the rules stay")
}

func TestBlueGreenSwapLosesNoRequest(t *testing.T) {
	blue, green := named(t, "blue"), named(t, "green")
	s := balancer.Split(balancer.Share{Pool: blue, Weight: 1})
	client := &http.Client{Transport: s.Transport()}
	var wg sync.WaitGroup
	var stop atomic.Bool
	var bad, all atomic.Int64
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				resp, err := client.Get("http://service/")
				if err != nil {
					bad.Add(1)
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				all.Add(1)
			}
		})
	}
	get := func() string {
		resp, err := client.Get("http://service/")
		require.NoError(t, err)
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	for range 30 {
		before, err := s.SetShares(balancer.Share{Pool: green, Weight: 1})
		require.NoError(t, err)
		require.Equal(t, "green", get())
		_, err = s.SetShares(before...)
		require.NoError(t, err)
		require.Equal(t, "blue", get())
	}
	stop.Store(true)
	wg.Wait()
	require.Zero(t, bad.Load())
	require.Positive(t, all.Load())
}

func TestSplitNamesWhatIsNotValid(t *testing.T) {
	_, err := balancer.NewSplit(balancer.SplitConfig{
		Shares: []balancer.Share{{nil, 1}, {new(balancer.Balancer), -1}},
		Rules:  []balancer.Rule{{}},
	})
	require.EqualError(t, err, `balancer: SplitConfig.Shares[0].Pool is nil, must be a Balancer
balancer: SplitConfig.Shares[1].Weight is -1, must be from 0 to 1e+06
balancer: SplitConfig.Rules[0].When is nil, must be a condition
balancer: SplitConfig.Rules[0].To is nil, must be a Balancer`)
	require.Panics(t, func() { balancer.Split() })
	s := balancer.Split(balancer.Share{Pool: must(t, balancer.Config{Backends: many(1)}), Weight: 1})
	_, err = s.SetShares()
	require.EqualError(t, err, "balancer: SetShares: Shares is without weight, must have a positive one")
	require.NotNil(t, s.Pick(&http.Request{}), "and nothing has changed")
}

func TestAStickyCookieThatClientsWouldNotTakeIsRefused(t *testing.T) {
	_, err := balancer.New(balancer.Config{Backends: many(1), Sticky: balancer.Sticky{
		Cookie: "lb", Secret: make([]byte, 16), Path: "/a;b", Domain: "two words",
	}})
	require.EqualError(t, err, `balancer: Config.Sticky.Path is "/a;b", must be a path that a cookie can have
balancer: Config.Sticky.Domain is "two words", must be a domain that a cookie can have`)
}

func TestStickyClientMovesWhenItsBackendIsOutAndStaysThere(t *testing.T) {
	var down atomic.Int64
	down.Store(-1)
	cfg := balancer.Config{
		Backends: balancer.URLs("http://b0", "http://b1", "http://b2"),
		Sticky:   balancer.Sticky{Cookie: "lb", Secret: []byte("0123456789abcdef"), Path: "/shop"},
		Healthy:  func(d balancer.Backend) bool { return int64(d.URL[8]-'0') != down.Load() },
	}
	var to string
	rt := must(t, cfg).Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		to = r.URL.Host
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
	}))
	ask := func(rt http.RoundTripper, c *http.Cookie) (string, *http.Cookie) {
		req, _ := http.NewRequest(http.MethodGet, "http://x/", nil)
		if c != nil {
			req.AddCookie(&http.Cookie{Name: "other", Value: "1"})
			req.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
		}
		resp, err := rt.RoundTrip(req)
		require.NoError(t, err)
		if all := resp.Cookies(); len(all) > 0 {
			return to, all[0]
		}
		return to, nil
	}
	home, cookie := ask(rt, nil)
	require.NotNil(t, cookie)
	require.True(t, cookie.HttpOnly && cookie.Secure && cookie.SameSite == http.SameSiteLaxMode && cookie.Path == "/shop")
	require.NotContains(t, cookie.Value, "b0")
	for range 20 {
		got, again := ask(rt, cookie)
		require.Equal(t, home, got)
		require.Nil(t, again)
	}
	down.Store(int64(home[1] - '0'))
	other, moved := ask(rt, nil) // notices that it is down
	for range 20 {
		other, moved = ask(rt, cookie)
		require.NotEqual(t, home, other)
		require.NotNil(t, moved)
	}
	got, again := ask(rt, moved)
	require.Equal(t, other, got)
	require.Nil(t, again)
	_, forged := ask(rt, &http.Cookie{Name: "lb", Value: "b1"})
	require.NotNil(t, forged, "a value that is not ours is replaced")

	// Another process with the same secret sends the client to the same place.
	down.Store(-1)
	rt2 := must(t, cfg).Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		to = r.URL.Host
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
	}))
	got, _ = ask(rt2, cookie)
	require.Equal(t, home, got)
}

func TestASplittersIdleConnectionsAreClosedInAllItsPools(t *testing.T) {
	closed := make(chan string, 2)
	watched := func(name string) *balancer.Balancer {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				closed <- name
			}
		}
		s.Start()
		t.Cleanup(s.Close)
		return pool(t, balancer.Config{Name: name, Backends: balancer.URLs(s.URL)})
	}
	s := balancer.MustNewSplit(balancer.SplitConfig{
		Shares: []balancer.Share{{Pool: watched("stable"), Weight: 1}},
		Rules:  []balancer.Rule{{When: func(r *http.Request) bool { return r.Method == http.MethodHead }, To: watched("testers")}},
	})
	rt := s.Transport()
	require.Equal(t, 200, do(rt, http.MethodGet))
	require.Equal(t, 200, do(rt, http.MethodHead))
	rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
	require.Eventually(t, func() bool { return len(closed) == 2 }, 10*time.Second, time.Millisecond)
	require.ElementsMatch(t, []string{"stable", "testers"}, []string{<-closed, <-closed})
}

func TestASplitterCountsWhatEachPoolGetsAndWhy(t *testing.T) {
	stable, canary := named(t, "stable"), named(t, "canary")
	s, err := balancer.NewSplit(balancer.SplitConfig{
		Name:   "shop",
		Shares: []balancer.Share{{Pool: stable, Weight: 3}, {Pool: canary, Weight: 1}},
		Key:    balancer.ByHeader("User"),
		Rules:  []balancer.Rule{{When: func(r *http.Request) bool { return r.Header.Get("Tester") != "" }, To: canary}},
	})
	require.NoError(t, err)
	collect := func() (got []string) {
		s.Collect(func(name, help, kind string, value float64, labels ...string) {
			require.NotEmpty(t, help)
			require.Equal(t, map[bool]string{true: "counter", false: "gauge"}[strings.HasSuffix(name, "_total")], kind)
			got = append(got, fmt.Sprint(strings.TrimPrefix(name, "spillway_balancer_split_"), labels, " ", value))
		})
		return got
	}
	require.Equal(t, []string{
		"requests_total[split shop pool stable by share] 0",
		"requests_total[split shop pool stable by rule] 0",
		"requests_total[split shop pool canary by share] 0",
		"requests_total[split shop pool canary by rule] 0",
		"share_ratio[split shop pool stable] 0.75",
		"share_ratio[split shop pool canary] 0.25",
	}, collect(), "from the start")

	front := httptest.NewServer(s.Proxy())
	t.Cleanup(front.Close)
	want := map[string]int{}
	for i := range 20 {
		req, err := http.NewRequest("GET", front.URL, nil)
		require.NoError(t, err)
		req.Header.Set("User", fmt.Sprint("u", i))
		if i < 3 {
			req.Header.Set("Tester", "yes")
		}
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		resp.Body.Close()
		want[string(body)]++
	}
	require.Equal(t, []balancer.SplitStats{
		{Pool: "stable", Share: 0.75, ByShare: uint64(want["stable"])},
		{Pool: "canary", Share: 0.25, ByShare: uint64(want["canary"] - 3), ByRule: 3},
	}, s.Stats(), "each request once")

	_, err = s.SetShares(balancer.Share{Pool: stable, Weight: 1})
	require.NoError(t, err)
	require.Equal(t, []balancer.SplitStats{
		{Pool: "stable", Share: 1, ByShare: uint64(want["stable"])},
		{Pool: "canary", ByShare: uint64(want["canary"] - 3), ByRule: 3},
	}, s.Stats(), "the rule still leads there, so nothing is forgotten")
	require.NoError(t, s.SetRules())
	require.Len(t, s.Stats(), 1)

	_, err = s.SetShares(balancer.Share{Pool: stable, Weight: -1})
	require.Error(t, err)
	var changes []string
	for at, text := range s.Changes() {
		require.WithinDuration(t, time.Now(), at, time.Minute)
		changes = append(changes, text)
	}
	require.Equal(t, []string{"shop: shares are now stable 100 %, canary 0 %"}, changes)
}
