package cache_test

import (
	"fmt"
	"runtime"
	"strconv"
	"testing"
)

// TestLoaderMemory measures the heap of a full cache of 100,000 entries, without
// the keys and the values, which all share.
//
//	go test ./cache -run TestLoaderMemory -loader.figures -v
func TestLoaderMemory(t *testing.T) {
	if !*loaderFigures {
		t.Skip("needs -loader.figures")
	}
	const entries = 100_000
	names := make([]string, entries)
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for _, r := range loaderRivals(t, entries) {
		before := heap()
		for _, k := range names {
			if _, ok := r.get(k); !ok && r.set != nil {
				r.set(k, loaderPayload)
			}
		}
		fmt.Printf("%-14s %4d bytes an entry\n", r.name, (heap()-before)/entries)
		defer r.stop()
	}
}
