// Package chain measures all of Spillway beside the best assembly of other
// libraries that can be had as modules: in process, over loopback, and by
// weight. The command results runs it and writes the table of the README.
//
//	go run ./chain/results          # measure, and print the table
//	go run ./chain/results -write   # and put it into the README
//	go test ./chain                 # a short form
//
// The rivals are in package rivals, in their best configuration: a cache that
// holds only what is safe to hold, no flag provider that talks to a network,
// permits given back by defer. Left out because they can't be had from the
// module proxy: moonrhythm/parapet, platinummonkey/go-concurrency-limits and
// victorspringer/http-cache.
package chain
