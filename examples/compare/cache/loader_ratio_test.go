package cache_test

import (
	"fmt"
	"math/rand"
	"strconv"
	"testing"
)

// TestLoaderHitRatio asks for a million keys as Zipf draws them, with room for
// a tenth of them; then the same with a scan over 50,000 keys that nobody asks
// for again after every 100,000 requests, not counted itself.
//
// Without -loader.figures it is a tenth of that.
//
//	go test ./cache -run TestLoaderHitRatio -loader.figures -v -timeout 20m
func TestLoaderHitRatio(t *testing.T) {
	capacity, among, requests := 10_000, 100_000, 4<<20/10
	if *loaderFigures {
		capacity, among, requests = 100_000, 1_000_000, 4<<20
	}
	names := make([]string, among)
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	ratio := map[bool]map[string]float64{false: {}, true: {}}
	var order []string
	for _, scans := range []bool{false, true} {
		order = order[:0]
		for _, r := range loaderRivals(t, capacity) {
			zipf := rand.NewZipf(rand.New(rand.NewSource(1)), 1.01, 1, uint64(among-1))
			ask := func(k string) bool {
				_, ok := r.get(k)
				if !ok && r.set != nil {
					r.set(k, loaderPayload)
				}
				return ok
			}
			hits, scanned := 0, 0
			for i := range requests {
				if ask(names[zipf.Uint64()]) {
					hits++
				}
				if scans && i%capacity == capacity-1 {
					for range capacity / 2 {
						scanned++
						ask("scan:" + strconv.Itoa(scanned))
					}
				}
			}
			r.stop()
			ratio[scans][r.name] = 100 * float64(hits) / float64(requests)
			order = append(order, r.name)
		}
	}
	fmt.Printf("%-14s %8s %12s\n", "hit ratio, %", "zipf", "with scans")
	for _, name := range order {
		fmt.Printf("%-14s %8.2f %12.2f\n", name, ratio[false][name], ratio[true][name])
	}
	for scans, floor := range map[bool]float64{false: 81.2, true: 79.5} {
		own := ratio[scans]["spillway"]
		if *loaderFigures && own < floor {
			t.Errorf("scans %v: %.2f %% are hits, want %.1f", scans, own, floor)
		}
		for _, rival := range []string{"golang-lru-2q", "otter", "theine", "ristretto"} {
			if own < ratio[scans][rival] {
				t.Errorf("scans %v: %.2f %% are hits, %s has %.2f", scans, own, rival, ratio[scans][rival])
			}
		}
	}
}
