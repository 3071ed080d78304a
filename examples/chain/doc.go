// Package chain holds the tests and benchmarks of the six parts as one
// product: what happens in the seams, where no part alone can be blamed.
//
//	go test ./examples/chain                       # a short form of everything
//	go test ./examples/chain -args -rounds 1000    # the hostile battery, a thousand times each
//	go test ./examples/chain -run TestSoak -args -soak 10m   # the soak, as long as you like
//	go test ./examples/chain -run 'TestScale|Streams' -v -args -scale    # a million of everything
//	go test -run '^$' -bench . ./examples/chain    # what each part costs, and all of them
package chain
