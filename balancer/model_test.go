package balancer_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// Whatever happens in whatever order, nothing is lost: requests and answers are
// counted, nobody gets a request who must not, and when all is well again,
// everybody is back.
func TestOddDaysEndWell(t *testing.T) {
	days := 500
	if testing.Short() {
		days = 100
	}
	for day := range days {
		oddDay(t, uint64(day))
	}
}

func oddDay(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	now := time.Unix(1e9, 0)
	well := map[string]bool{}
	list := func(all bool) (list []balancer.Backend) {
		for i := range 6 {
			id := fmt.Sprint("b", i)
			if all || r.IntN(3) > 0 {
				list = append(list, balancer.Backend{
					ID: id, URL: fmt.Sprint("http://", id, "/", r.IntN(8)/7), Tier: r.IntN(9) / 8, Zone: []string{"here", "there"}[r.IntN(2)],
					Weight: []float64{1, 1, 3}[r.IntN(3)], Drain: !all && r.IntN(5) == 0,
				})
			}
		}
		return append(list, balancer.Backend{ID: "last", URL: "http://last"})
	}
	members := map[string]balancer.Backend{}
	set := func(list []balancer.Backend) []balancer.Backend {
		clear(members)
		for _, d := range list {
			members[d.ID] = d
			if _, ok := well[d.ID]; !ok {
				well[d.ID] = true
			}
		}
		return list
	}
	b, err := balancer.New(balancer.Config{
		Backends: set(list(false)), Zone: []string{"", "here"}[r.IntN(2)], PanicShare: []float64{0, -1}[r.IntN(2)],
		Policy: policies[r.IntN(len(policies))].make(), Eject: balancer.Eject{Consecutive: 1 + r.IntN(3), MaxShare: r.Float64()},
		Healthy: func(d balancer.Backend) bool { return well[d.ID] },
		Now:     func() time.Time { return now }, Rand: r.Uint64,
	})
	require.NoError(t, err)
	var held []balancer.Lease
	var done uint64
	for range 300 {
		switch k := r.IntN(20); {
		case k < 8:
			l, err := b.Acquire(nil)
			if err != nil {
				require.Zero(t, b.Stats().Available, "seed %d: %v", seed, b.Backends())
				continue
			}
			d, ok := members[l.Endpoint().Backend().ID]
			require.True(t, ok && !d.Drain, "seed %d: %v", seed, l.Endpoint().Backend())
			held = append(held, l)
		case k < 15 && len(held) > 0:
			i := r.IntN(len(held))
			l := held[i]
			held = append(held[:i], held[i+1:]...)
			l.Done(balancer.Verdict(r.IntN(4)))
			done++
			if next, ok := l.Retry(nil); ok {
				require.NotSame(t, l.Endpoint(), next.Endpoint())
				held = append(held, next)
			}
		case k < 17:
			now = now.Add(time.Duration(r.IntN(int(4 * time.Second))))
		case k < 18:
			id := fmt.Sprint("b", r.IntN(6))
			well[id] = !well[id]
		default:
			require.NoError(t, b.SetBackends(set(list(false))...))
		}
		s := b.Stats()
		require.Equal(t, len(held), s.InFlight, "seed %d", seed)
		require.Equal(t, done, s.Success+s.Failure+s.Refused+s.Ignored, "seed %d", seed)
	}
	for i := range held {
		held[i].Done(balancer.Ignored)
	}
	for id := range well {
		well[id] = true
	}
	require.NoError(t, b.SetBackends(set(list(true))...))
	for range 1500 {
		now = now.Add(100 * time.Millisecond)
		if l, err := b.Acquire(nil); err == nil {
			l.Done(balancer.Success)
		}
	}
	s := b.Stats()
	require.Equal(t, 7, s.Available, "seed %d: %v", seed, b.Backends())
	require.Zero(t, s.InFlight)
	require.False(t, s.Panic)
	for subject, text := range b.Conditions() {
		require.Fail(t, "not normal", "%s: %s", subject, text)
	}
}
