package ratelimit_test

import (
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

// A caller that has found its slot may be interrupted before it takes from it,
// and find another key's when it goes on: a matter of a few instructions, so
// this meets it in most runs, not in all. Here slots change hands all the time.
// Payers, whose debts are over at once, must never be refused, and are if they
// take a debtor's slot for theirs.
func TestASlotThatHasChangedHandsIsNotTakenFrom(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(16)) // the system interrupts anywhere
	l := ratelimit.MustNew(ratelimit.Config{
		Rate:    ratelimit.Rate{Requests: 1_000_000_000, Per: time.Second, Burst: 1_000_000},
		MaxKeys: 1000, // more than there are: none goes to overflow
	})
	var refused atomic.Int64
	var over atomic.Bool
	var wg sync.WaitGroup
	for g := range 12 {
		wg.Go(func() { // who pays
			key := "payer " + strconv.Itoa(g)
			for !over.Load() {
				if d, _ := l.Allow(ctx, key, 1); !d.Allowed {
					refused.Add(1)
				}
			}
		})
	}
	for g := range 4 {
		wg.Go(func() { // who owes, each time by another name, and is forgiven when he owes the next
			name := func(i int) string { return strconv.Itoa(g) + " owes " + strconv.Itoa(i) }
			for i := 1; !over.Load(); i++ {
				l.Charge(ctx, name(i), 1_000_000_000_000)
				l.Forget(ctx, name(i-1))
			}
		})
	}
	time.AfterFunc(time.Second, func() { over.Store(true) })
	wg.Wait()
	require.Zero(t, refused.Load())
	require.Zero(t, l.Stats().Overflowed)
	require.NotZero(t, l.Stats().Forgotten)
}
