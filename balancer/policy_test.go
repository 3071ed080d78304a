package balancer_test

import (
	"fmt"
	"math"
	"net/http"
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
