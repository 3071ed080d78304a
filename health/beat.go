package health

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A Beat watches a loop: the loop calls [Beat.Touch] on every turn, and
// [Beat.Probe] fails once it has not for MaxAge. Give it to a check of group
// [Live] and the platform restarts a process whose loop hangs:
//
//	beat := &health.Beat{MaxAge: time.Minute}
//	h.Register("consumer", health.Check{Probe: beat.Probe, Groups: health.Live})
//
// It is safe for concurrent use, and must not be copied after first use.
type Beat struct {
	// MaxAge is how long the loop may take for one turn. Zero means one
	// minute. It is judged when the check runs, so the check may fail later by
	// the time between its runs, and never earlier.
	MaxAge time.Duration

	turns atomic.Uint64

	mu   sync.Mutex // protects what follows
	seen uint64     // turns at
	at   time.Time  // the last Probe that saw a new turn; zero before the first
}

// Touch says that the loop is alive. It is one atomic addition and does not
// read the clock.
func (b *Beat) Touch() { b.turns.Add(1) }

// Probe is for Check.Probe. The age counts from its first call, so a loop that
// has never begun is noticed too.
func (b *Beat) Probe(context.Context) error {
	now, turns := time.Now(), b.turns.Load()
	b.mu.Lock()
	defer b.mu.Unlock()
	if turns != b.seen || b.at.IsZero() {
		b.seen, b.at = turns, now
		return nil
	}
	maxAge := b.MaxAge
	if maxAge <= 0 {
		maxAge = time.Minute
	}
	if age := now.Sub(b.at); age > maxAge {
		return Public(fmt.Sprintf("no beat for %s", seconds(age)), nil)
	}
	return nil
}
