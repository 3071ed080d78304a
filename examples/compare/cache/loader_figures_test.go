package cache_test

import (
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

var loaderFigures = flag.Bool("loader.figures", false, "measure the figures of the Loader, which takes minutes and a quiet machine")

// TestLoaderHitCost measures hits on 50,000 keys drawn by Zipf, in slices that
// take turns, so that what else the machine does hits all alike.
//
// On so many keys a hit is bound by memory: most of it is the wait for the
// entry, and for the bucket that leads there. A reading of the clock, 26 ns by
// itself, costs twice that in between, since it lets nothing overlap: so hits
// that come fast share one. The other half of what a hit once cost was chains:
// with the oldest entry first, a hot key is found without a look at another.
//
//	go test ./cache -run TestLoaderHitCost -loader.figures -v
func TestLoaderHitCost(t *testing.T) {
	if !*loaderFigures {
		t.Skip("needs -loader.figures")
	}
	const among, rounds, slice = 50_000, 9, 60 * time.Millisecond
	keys := loaderKeys(1<<20, among)
	rivals := loaderRivals(t, 2*among)
	for _, r := range rivals {
		defer r.stop()
		for _, k := range keys {
			if _, ok := r.get(k); !ok && r.set != nil {
				r.set(k, loaderPayload)
			}
		}
	}
	// time of one operation with n goroutines: elapsed / operations of all
	cost := func(r loaderRival, n int) float64 {
		total := 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		from := time.Now()
		for g := range n {
			wg.Go(func() {
				ops, at := 0, g*len(keys)/n
				for time.Since(from) < slice {
					for range 2000 {
						r.get(keys[at&(1<<20-1)])
						at++
					}
					ops += 2000
				}
				mu.Lock()
				total += ops
				mu.Unlock()
			})
		}
		wg.Wait()
		return float64(time.Since(from)) / float64(total)
	}
	serial, parallel := make([][]float64, len(rivals)), make([][]float64, len(rivals))
	for range rounds {
		for i, r := range rivals {
			serial[i] = append(serial[i], cost(r, 1))
			parallel[i] = append(parallel[i], cost(r, runtime.GOMAXPROCS(0)))
		}
	}
	best := func(of []float64) float64 { return slices.Min(of) }
	median := func(of []float64) float64 { slices.Sort(of); return of[len(of)/2] }
	fmt.Printf("%-14s %22s %22s\n", "hit, ns", "serial min (median)", "parallel min (median)")
	for i, r := range rivals {
		fmt.Printf("%-14s %13.0f (%6.0f) %13.0f (%6.0f)\n", r.name,
			best(serial[i]), median(serial[i]), best(parallel[i]), median(parallel[i]))
	}
	own := [2]float64{best(serial[0]), best(parallel[0])}
	for i, r := range rivals {
		rival := [2]float64{best(serial[i]), best(parallel[i])}
		switch r.name {
		case "otter":
			if own[0] > 1.5*rival[0] || own[1] > 1.5*rival[1] {
				t.Errorf("a hit costs %.0f and %.0f ns on one and on all cores, more than 1.5 times the %.0f and %.0f of otter", own[0], own[1], rival[0], rival[1])
			}
		case "golang-lru", "expirable", "ttlcache", "ristretto":
			if own[0] > rival[0] || own[1] > rival[1] {
				t.Errorf("a hit costs %.0f and %.0f ns on one and on all cores, more than the %.0f and %.0f of %s", own[0], own[1], rival[0], rival[1], r.name)
			}
		}
	}
	if own[1] > own[0] {
		t.Errorf("a hit costs %.0f ns on all cores, more than the %.0f on one", own[1], own[0])
	}
}
