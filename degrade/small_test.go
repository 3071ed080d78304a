package degrade

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// Few workers, far from overload: from cold, from some seconds after the
// backend was four times slower, and with requests that come in threes. At half
// load nobody is refused whom the same backend would have served without a
// Shedder; at 0.7x, where chance alone makes queues of a dozen, hardly anybody.
func TestHardlyAnybodyIsRefusedFarFromOverloadWithFewWorkers(t *testing.T) {
	if seeds() == 1 {
		t.Skip("needs the mean of several seeds")
	}
	for _, workers := range []int{2, 3, 6} {
		for _, ms := range []float64{20, 100, 250} {
			r := regime{fmt.Sprintf("%d workers, %v ms", workers, ms), workers, ms * 1e6, 0}
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				for _, load := range []float64{0.5, 0.7} {
					seconds := max(60, 3000/r.capacity())
					for name, phases := range map[string][]phase{
						"cold":   {{seconds: seconds, load: load}},
						"slow":   {{seconds: 20, load: load}, {seconds: 10, load: load, slow: 4}, {seconds: max(15, 800/r.capacity()), load: load}, {seconds: seconds, load: load}},
						"threes": {{seconds: 20, load: load}, {seconds: seconds, load: load, batch: 3}},
					} {
						var offered, refused, lost, bare float64
						for seed := uint64(1); seed <= 8; seed++ {
							aware := seed%2 == 1
							with := simulate(r, 0, aware, seed, phases...)
							without := simulate(r, maxSlots, aware, seed, phases...)
							a, b := with[len(with)-1], without[len(without)-1]
							offered += float64(a.offered)
							refused += float64(a.refused)
							lost += float64(a.refused + a.late)
							bare += float64(b.late)
						}
						percent := func(n float64) float64 { return 100 * n / offered }
						table("%s %vx %-6s  refused %.2f %%, lost %.2f %%, without a Shedder %.2f %%\n", r.name, load, name, percent(refused), percent(lost), percent(bare))
						more := percent(lost) - percent(bare)
						switch {
						case load == 0.5 && name != "threes" && bare == 0:
							require.Zero(t, refused, "%s at %vx", name, load)
						case name == "threes" && load == 0.7:
							require.LessOrEqual(t, more, 2.5, "%s at %vx", name, load)
						default:
							require.LessOrEqual(t, more, 0.6, "%s at %vx", name, load)
						}
					}
				}
			})
		}
	}
}

// A service that has just been started gets many requests at one moment. It
// knows nothing yet, and lets them wait rather than refuse any.
func TestAColdServiceRefusesNobodyOfItsFirstBurst(t *testing.T) {
	for _, workers := range []int{4, 10, 32, 10000} {
		for _, ms := range []float64{10, 100, 300} {
			for _, sigma := range []float64{-1, 0} {
				for _, n := range []int{16, 64, 256} {
					r := regime{"", workers, ms * 1e6, sigma}
					burst := func(fixed int, seed uint64) *tally {
						s := &sim{core: newCore(fixed), r: r, patience: 1e9, rng: rand.New(rand.NewPCG(seed, 1)), phases: []phase{{seconds: 1e-9, load: 1e-9, batch: n}}}
						s.run()
						return s.tallies[0]
					}
					good, bare := 0, 0
					for seed := range uint64(4) {
						a := burst(0, seed)
						require.Zero(t, a.refused, "%d at once, %d workers, %v ms", n, workers, ms)
						good += a.good
						bare += burst(maxSlots, seed).good
					}
					table("%3d at once, %5d workers, %3v ms (sigma %2v): %.1f in a second, %.1f without a Shedder\n", n, workers, ms, sigma, float64(good)/4, float64(bare)/4)
				}
			}
		}
	}
}
