package degrade

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The figures that the package promises, in virtual time, for both backends: one
// that notices when its client has left, and one that does not. With
// SPILLWAY_SIM=table in the environment the tests also print what they measured.

var regimes = []regime{
	{"10 workers, 10 ms exponential", 10, 10e6, 0},
	{"10 workers, 10 ms log-normal", 10, 10e6, 1},
	{"64 workers, 100 ms exponential", 64, 100e6, 0},
	{"64 workers, 100 ms log-normal", 64, 100e6, 1},
	{"4 workers, 250 ms exponential", 4, 250e6, 0},
	{"4 workers, 250 ms log-normal", 4, 250e6, 1},
}

// cell is one regime at one load, averaged over seeds and backends.
type cell struct {
	good     float64 // % of the lesser of offered and capacity
	critical float64 // % of offered
	critCap  float64 // critical goodput, % of capacity
	p99      float64 // ms, of those served
	refused  float64
}

func (c cell) String() string {
	return fmt.Sprintf("good %5.1f  critical %5.1f (%5.1f of capacity)  p99 %6.1f ms  refused %.1f", c.good, c.critical, c.critCap, c.p99, c.refused)
}

func measure(r regime, fixed int, load float64, seeds int) (c cell) {
	seconds := max(10, 1600/r.capacity())
	n := float64(seeds)
	for seed := range seeds {
		a := simulate(r, fixed, seed%2 == 1, uint64(seed+1), phase{seconds: 20, load: 0.5}, phase{seconds: seconds, load: load})[1]
		capacity := r.capacity() * seconds
		c.good += 100 * float64(a.good) / min(float64(a.offered), capacity) / n
		c.critical += 100 * float64(a.critGood) / float64(a.critOffered) / n
		c.critCap += 100 * float64(a.critGood) / capacity / n
		c.p99 += a.quantile(.99) / n
		c.refused += float64(a.refused) / n
	}
	return c
}

func table(format string, args ...any) {
	if os.Getenv("SPILLWAY_SIM") == "table" {
		fmt.Printf(format, args...)
	}
}

func seeds() int {
	if testing.Short() || raceEnabled {
		return 1
	}
	return 4
}

func TestGoodputHoldsAtCapacityInEveryRegime(t *testing.T) {
	for _, r := range regimes[:4] {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			alone := measure(r, maxSlots, 0.1, 1).p99
			for _, load := range []float64{0.7, 0.8, 1, 2, 4, 5, 10} {
				if seeds() == 1 && (load != 2 || r.workers != 10) {
					continue
				}
				c := measure(r, 0, load, seeds())
				table("%s %4.1fx  %v (%.1f alone)\n", r.name, load, c, alone)
				atLeast := map[bool]float64{true: 97, false: 99}[load > 1]
				if load == 1 {
					atLeast = 95
				}
				require.GreaterOrEqual(t, c.good, atLeast, "goodput at %vx", load)
				require.LessOrEqual(t, c.p99, 2*alone, "p99 at %vx", load)
				switch {
				case load == 0.7:
					require.Zero(t, c.refused, "nothing is refused at 0.7x")
					require.GreaterOrEqual(t, c.critical, 99.0)
				case load <= 4:
					require.GreaterOrEqual(t, c.critical, 99.0, "criticals at %vx", load)
				default:
					require.GreaterOrEqual(t, c.critCap, 93.0, "critical goodput at %vx", load)
				}
			}
		})
	}
}

// Where service times come near the patience of clients even the best fixed limit
// loses some. The measure is that limit, which nobody knows beforehand.
func TestGoodputComesNearTheBestFixedLimit(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("a sweep of limits")
	}
	for _, r := range regimes[4:] {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			for _, load := range []float64{0.8, 1, 2, 5, 10} {
				first, last := 4, 6
				if load <= 1 {
					first, last = 6, 10 // who waits inside is not refused
				}
				const seeds = 16 // with fewer, chance is as large as the difference
				best := 0.0
				for limit := first; limit <= last; limit++ {
					best = max(best, measure(r, limit, load, seeds).good)
				}
				c := measure(r, 0, load, seeds)
				table("%s %4.1fx  %v (best fixed %.1f)\n", r.name, load, c, best)
				require.GreaterOrEqual(t, c.good, 0.97*best, "goodput at %vx", load)
			}
		})
	}
}

func TestASlowBackendDoesNotShiftTheLimitForGood(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("needs the mean of several seeds")
	}
	for _, r := range regimes[:4] {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			var during, after, later float64
			n := float64(seeds())
			for seed := range seeds() {
				aware := seed%2 == 1
				ts := simulate(r, 0, aware, uint64(seed+1), phase{seconds: 20, load: 0.5}, phase{seconds: 5, load: 0.8}, phase{seconds: 3, load: 0.8, slow: 5}, phase{seconds: 1, load: 0.8}, phase{seconds: 8, load: 0.8}, phase{seconds: 5, load: 2})
				during += 100 * float64(ts[2].good) / (0.2 * r.capacity() * 3) / n
				after += 100 * float64(ts[4].good) / float64(ts[4].offered) / n
				later += 100 * float64(ts[5].good) / (r.capacity() * 5) / n
			}
			table("%s slowed down 5x: %.1f %% of what is left; from 1 s after %.1f %%; then at 2x %.1f %%\n", r.name, during, after, later)
			require.GreaterOrEqual(t, after, 95.0, "from one second after")
			require.GreaterOrEqual(t, later, 95.0, "overload after that")
		})
	}
}

func TestAStepFromHalfToFiveTimesTheLoad(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("needs the mean of several seeds")
	}
	for _, r := range regimes[:4] {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			var first, rest float64
			n := float64(seeds())
			for seed := range seeds() {
				aware := seed%2 == 1
				ts := simulate(r, 0, aware, uint64(seed+1), phase{seconds: 20, load: 0.5}, phase{seconds: 1, load: 5}, phase{seconds: 9, load: 5})
				first += 100 * float64(ts[1].good) / r.capacity() / n
				rest += 100 * float64(ts[2].good) / r.capacity() / 9 / n
			}
			table("%s step to 5x: first second %.1f %%, then %.1f %%\n", r.name, first, rest)
			require.GreaterOrEqual(t, first, 85.0, "the first second")
			require.GreaterOrEqual(t, rest, 97.0, "after one second")
		})
	}
}

// Ten connections of 20 ms (log-normal), clients that give up after a second:
// traffic doubles from 350 to 1000 a second, and falls back; then the database is four times slower.
func TestTrafficDoubledOnADatabase(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("needs the mean of several seeds")
	}
	r := regime{"database", 10, 20e6, 0.5}
	var good, p99, slow, slow99 float64
	n := float64(seeds())
	for seed := range seeds() {
		aware := seed%2 == 1
		ts := simulate(r, 0, aware, uint64(seed+1), phase{seconds: 30, load: 0.7}, phase{seconds: 30, load: 2}, phase{seconds: 1, load: 0.7}, phase{seconds: 19, load: 0.7})
		require.Zero(t, ts[0].refused, "350/s before")
		require.LessOrEqual(t, float64(ts[3].refused), 0.001*float64(ts[3].offered), "350/s, from one second after")
		require.GreaterOrEqual(t, float64(ts[2].good), 0.97*float64(ts[2].offered), "350/s, in the first second after")
		good += float64(ts[1].good) / 30 / n
		p99 += ts[1].quantile(.99) / n

		ts = simulate(r, 0, aware, uint64(seed+1), phase{seconds: 30, load: 0.7}, phase{seconds: 20, load: 0.7, slow: 4}, phase{seconds: 1, load: 0.7}, phase{seconds: 19, load: 0.7})
		slow += float64(ts[1].good) / 20 / n
		slow99 += ts[1].quantile(.99) / n
		require.GreaterOrEqual(t, float64(ts[3].good), 0.99*float64(ts[3].offered), "one second after the database is quick again")
	}
	table("database: overload %.1f/s p99 %.1f ms; slow %.1f/s p99 %.1f ms\n", good, p99, slow, slow99)
	require.GreaterOrEqual(t, good, 499.0, "good answers a second, of 500 possible")
	require.LessOrEqual(t, p99, 80.0)
	require.GreaterOrEqual(t, slow, 115.0, "good answers a second, of 125 possible")
	require.LessOrEqual(t, slow99, 300.0)
}

// A request needs 5 ms for what it is about, 2 ms for one optional feature and
// 3 ms for another. The switch follows the shedder's pressure.
func TestTheSwitchAnswersWhatSheddingAloneWouldRefuse(t *testing.T) {
	phases := []phase{{seconds: 20, load: 0.7}, {seconds: 30, load: 1.3}, {seconds: 30, load: 1.9}, {seconds: 90, load: 0.7}}
	for seed := range uint64(seeds()) {
		s := &sim{core: new(core), r: regimes[0], patience: 1e9, rng: rand.New(rand.NewPCG(seed+1, 1)), phases: phases}
		s.core.init(Config{})
		start := time.Now()
		sw := MustNewSwitch(SwitchConfig{Pressure: []func() float64{func() float64 {
			var st Stats
			s.core.look(s.now, &st)
			return st.Pressure
		}}})
		dear, cheap := sw.Feature("dear", Optional), sw.Feature("cheap", Useful)
		s.factor = func() float64 {
			work := 0.5
			if cheap.Enabled() {
				work += 0.2
			}
			if dear.Enabled() {
				work += 0.3
			}
			return work
		}
		s.tick = func(now int64) { sw.tick(start.Add(time.Duration(now))) }
		s.run()
		var ok [4]float64
		for i, a := range s.tallies {
			ok[i] = 100 * float64(a.good) / float64(a.offered)
		}
		changes := sw.Stats().Changes
		table("switch, seed %d: answered %.1f %% at 0.7x, %.1f %% at 1.3x, %.1f %% at 1.9x, %.1f %% at 0.7x again, with %d changes of level\n", seed+1, ok[0], ok[1], ok[2], ok[3], changes)
		require.GreaterOrEqual(t, ok[0], 99.9)
		require.GreaterOrEqual(t, ok[1], 97.0, "shedding alone answers 77 of 100")
		require.GreaterOrEqual(t, ok[2], 95.0, "shedding alone answers 53 of 100")
		require.GreaterOrEqual(t, ok[3], 99.9)
		require.LessOrEqual(t, changes, uint64(6), "the level does not flap")
		require.Equal(t, Full, sw.Level(), "and is back where it was")
	}
}

// From nothing, at four fifths of the capacity: whatever the first requests
// happened to be like, a few seconds later nobody is refused.
func TestAColdStartFindsTheCapacityWhateverTheSeed(t *testing.T) {
	n := uint64(40)
	if seeds() == 1 {
		n = 4
	}
	for _, r := range regimes[:4] {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			var first, rest float64
			for seed := range n {
				ts := simulate(r, 0, seed%2 == 1, seed+100, phase{seconds: 8, load: 0.8}, phase{seconds: 6, load: 0.8})
				first += 100 * float64(ts[0].refused) / float64(ts[0].offered) / float64(n)
				rest = max(rest, 100*float64(ts[1].refused)/float64(ts[1].offered))
			}
			table("%s cold start at 0.8x: %.1f %% refused in 8 s; then at worst %.1f %%\n", r.name, first, rest)
			require.LessOrEqual(t, first, 8.0)
			require.LessOrEqual(t, rest, 5.0)
		})
	}
}
