package degrade

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// oracle serves an overload knowing what nobody knows: how many workers there
// are, how long every client waits, and that no request is to be let in before a
// worker is free. The critical come first, the newest first, and who has less
// than left of its second is not begun. It returns what was answered in time, and
// what of that was critical, in % of the capacity.
func oracle(r regime, load float64, seed uint64, seconds, left float64) (good, critical float64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	free := make([]float64, r.workers) // when each worker is free
	var waiting [2][]float64           // when they came: critical, others
	begin := func(now, came float64, class int) {
		i := slices.Index(free, slices.Min(free))
		free[i] = now + r.draw(rng)/1e9
		if free[i]-came <= 1 && came > 10 {
			good++
			if class == 0 {
				critical++
			}
		}
	}
	end := 10 + seconds
	for now := 0.0; now < end; now += rng.ExpFloat64() / (r.capacity() * load) {
		for f := slices.Min(free); f <= now; f = slices.Min(free) {
			class := 0
			for class < 2 && (len(waiting[class]) == 0 || f-waiting[class][len(waiting[class])-1] > 1-left) {
				waiting[class] = nil // the newest is too old, so all are
				class++
			}
			if class == 2 {
				break
			}
			last := len(waiting[class]) - 1
			came := waiting[class][last]
			waiting[class] = waiting[class][:last]
			begin(f, came, class)
		}
		class := 1
		if rng.Float64() < 0.2 {
			class = 0
		}
		if slices.Min(free) <= now {
			begin(now, now, class)
		} else {
			waiting[class] = append(waiting[class], now)
		}
	}
	return 100 * good / (r.capacity() * seconds), 100 * critical / (r.capacity() * seconds)
}

// Where service times come near the deadline not even an oracle serves all that
// is critical. It is the measure there.
func TestCriticalGoodputNearTheDeadlineBesideAnOracle(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("a sweep")
	}
	for _, r := range regimes[4:] {
		for _, load := range []float64{2, 5, 10} {
			best := 0.0
			for _, left := range []float64{0, 0.1, 0.25, 0.5} {
				sum := 0.0
				for seed := range uint64(6) {
					_, critical := oracle(r, load, seed+1, 100, left)
					sum += critical / 6
				}
				best = max(best, sum)
			}
			c := measure(r, 0, load, 6)
			table("%s %4.1fx  critical goodput %.1f %% of capacity, of an oracle %.1f %%\n", r.name, load, c.critCap, best)
			require.GreaterOrEqual(t, c.critCap, 0.75*best, "at %vx", load)
		}
	}
}
