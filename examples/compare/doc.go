// Package compare measures Spillway beside the libraries that people use
// today for the same jobs, in one run on one machine, so that the ratios hold
// even where the absolute times do not.
//
//	go test -run '^$' -bench . ./...
//
// It is a module of its own: a user of the library never downloads the rivals.
package compare
