package ratelimit

import (
	"fmt"
	"sync"
	"time"
)

// A journal remembers the last changes.
type journal struct {
	mu      sync.Mutex
	entries []change // at most 64, oldest first
}

type change struct {
	at   time.Time
	what string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.entries) == 64 {
		j.entries = append(j.entries[:0], j.entries[1:]...)
	}
	j.entries = append(j.entries, change{time.Now(), fmt.Sprintf(format, args...)})
}

func (j *journal) all(yield func(time.Time, string) bool) {
	j.mu.Lock()
	entries := append([]change(nil), j.entries...)
	j.mu.Unlock()
	for _, c := range entries {
		if !yield(c.at, c.what) {
			return
		}
	}
}
