package degrade

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// At a hundred thousand requests a second the count of those completed wraps
// every 63 days.
func TestACountThatWrapsIsNoFlood(t *testing.T) {
	const second = int64(1e9)
	c := new(core)
	c.init(Config{Limit: 1})
	c.word.Store((countMask - 4) << doneShift)
	c.load.came, c.load.done = countMask-4, countMask-4
	for i := range int64(10) {
		require.Equal(t, 1, c.take())
		c.leave(i*second, second/2, 1)
	}
	require.Zero(t, c.mask.Load(), "all latencies are looked at")

	require.Equal(t, 1, c.take())
	v, _, _, _ := c.wait(10*second, &waiter{})
	require.Equal(t, pending, v)
	require.LessOrEqual(t, c.load.easy.value(10*second)*1e9, 11.0, "let in lately")
}
