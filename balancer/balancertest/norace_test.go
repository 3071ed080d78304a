//go:build !race

package balancertest_test

const raceEnabled = false
