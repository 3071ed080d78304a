//go:build race

package ratelimit_test

const raceEnabled = true // sync.Pool drops things at random then
