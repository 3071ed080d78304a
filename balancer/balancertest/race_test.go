//go:build race

package balancertest_test

// raceEnabled is whether the race detector is on.
const raceEnabled = true
