package degrade

import (
	"fmt"
	"os"
	"testing"
)

func TestScen(t *testing.T) {
	if os.Getenv("SCEN") == "" {
		t.Skip()
	}
	for _, r := range regimes {
		for seed := uint64(1); seed <= 3; seed++ {
			ts := simulate(r, 0, seed%2 == 0, seed, phase{20, 0.5, 0}, phase{5, .8, 0}, phase{3, 0.8, 5}, phase{10, 0.8, 0}, phase{5, 2, 0})
			c := r.capacity()
			fmt.Printf("%s slow: before %.1f%% during %.1f%% (of 0.2C: %.1f) after[0-1s] %.1f%% [1-10] ref %d good %.1f%%; 2x after %.1f%% lim %s p99 %.0f\n", r.name, pct(ts[1].good, ts[1].offered), pct(ts[2].good, ts[2].offered),
				float64(ts[2].good)/(c*.2*3)*100, float64(sum(ts[3], 0, 10))/(c*.8)*100, ts[3].refused, pct(ts[3].good, ts[3].offered), float64(ts[4].good)/(c*5)*100, span(ts[4].limits), ts[2].quantile(.99))
			ts = simulate(r, 0, seed%2 == 0, seed, phase{20, 0.5, 0}, phase{10, 5, 0})
			fmt.Printf("   step: [0,.5) %.0f [.5,1) %.0f%% [1,3) %.1f%% [3,10) %.1f%% p99 %.0f", float64(sum(ts[1], 0, 5))/c*200, float64(sum(ts[1], 5, 10))/c*200, float64(sum(ts[1], 10, 30))/c*50, float64(sum(ts[1], 30, 100))/c/7*100, ts[1].quantile(.99))
			ts = simulate(r, 0, seed%2 == 0, seed, phase{10, 5, 0})
			fmt.Printf("   cold 5x: [0,1) %.0f%% [1,3) %.1f%% [3,10) %.1f%% crit %.0f%%", float64(sum(ts[0], 0, 10))/c*100, float64(sum(ts[0], 10, 30))/c*50, float64(sum(ts[0], 30, 100))/c/7*100, pct(ts[0].critGood, ts[0].critOffered))
			ts = simulate(r, 0, seed%2 == 0, seed, phase{10, .8, 0})
			fmt.Printf("   cold .8x: good %.1f%% refused %d\n", pct(ts[0].good, ts[0].offered), ts[0].refused)
		}
	}
	r := regime{"db", 10, 20e6, .5}
	for seed := uint64(1); seed <= 3; seed++ {
		for _, aware := range []bool{true, false} {
			a := simulate(r, 0, aware, seed, phase{30, .7, 0}, phase{30, 2, 0}, phase{20, .7, 0})
			b := simulate(r, 0, aware, seed, phase{30, .7, 0}, phase{20, .7, 4}, phase{1, .7, 0}, phase{19, .7, 0})
			fmt.Printf("A: before ref %d over %.0f/s p50 %.0f p99 %.0f after %.0f (ref %d) lim %s | B: slow %.0f p99 %.0f, after %.0f ref %d, then %.0f ref %d\n", a[0].refused, float64(a[1].good)/30, a[1].quantile(.5), a[1].quantile(.99), float64(a[2].good)/20, a[2].refused, span(a[1].limits),
				float64(b[1].good)/20, b[1].quantile(.99), float64(b[2].good), b[2].refused, float64(b[3].good)/19, b[3].refused)
		}
	}
}

func pct(a, b int) float64 { return 100 * float64(a) / float64(b) }
func sum(t *tally, from, to int) int {
	n := 0
	for i := from; i < to; i++ {
		n += t.goodAt[i]
	}
	return n
}
