//go:build race

package degrade

// raceEnabled shortens the simulations, which have one goroutine each.
const raceEnabled = true
