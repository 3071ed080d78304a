// Package chain holds the tests and benchmarks of the six parts as one
// product: what happens in the seams, where no part alone can be blamed.
//
//	go test ./examples/chain                       # a short form of everything
//	go test ./examples/chain -args -rounds 1000    # the hostile battery, a thousand times each
//	go test -run '^$' -bench . ./examples/chain    # what each part costs, and all of them
package chain
