package degrade

import (
	"iter"
	"sync/atomic"
	"time"
	"unsafe"
)

// Outcomes of a request. The first two are not exclusive.
const (
	outAdmitted = iota
	outQueued
	outRefused
	outAbandoned
	outcomes
)

// The bands that priorities are counted in, so that labels stay few.
const (
	bandCritical = iota
	bandNormal
	bandSheddable
	bands
)

var bandNames = [bands]string{"critical", "normal", "sheddable"}

func band(p Priority) int {
	switch {
	case p > Normal:
		return bandCritical
	case p < Normal:
		return bandSheddable
	}
	return bandNormal
}

const shards = 8

// counts are spread over cache lines, because every request adds to them.
type counts struct {
	shard [shards]struct {
		n [bands][outcomes]atomic.Uint64
		_ [32]byte
	}
}

// add picks a shard that goroutines running at the same time seldom share: the
// address of a local variable tells their stacks apart.
func (c *counts) add(p Priority, outcome int) {
	var here byte
	h := uint64(uintptr(unsafe.Pointer(&here))>>10) * 0x9e3779b97f4a7c15
	c.shard[h>>32%shards].n[band(p)][outcome].Add(1)
}

func (c *counts) of(b, outcome int) uint64 {
	n := uint64(0)
	for i := range c.shard {
		n += c.shard[i].n[b][outcome].Load()
	}
	return n
}

func (c *counts) total() (t [outcomes]uint64) {
	for b := range bands {
		for o := range t {
			t[o] += c.of(b, o)
		}
	}
	return t
}

// waitBounds are the upper bounds of the histogram of waits, in seconds.
var waitBounds = [...]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5}

// waits is a histogram of how long requests waited.
type waits struct {
	n   [len(waitBounds) + 1]atomic.Uint64
	sum atomic.Int64 // ns
}

func (w *waits) add(d time.Duration) {
	i := 0
	for i < len(waitBounds) && d.Seconds() > waitBounds[i] {
		i++
	}
	w.n[i].Add(1)
	w.sum.Add(int64(d))
}

// history keeps the last changes.
type history struct {
	at   []time.Time
	text []string
}

const historySize = 64

func (h *history) add(at time.Time, text string) {
	if len(h.at) == historySize {
		h.at, h.text = append(h.at[:0:0], h.at[1:]...), append(h.text[:0:0], h.text[1:]...)
	}
	h.at, h.text = append(h.at, at), append(h.text, text)
}

func (h *history) all() iter.Seq2[time.Time, string] {
	at, text := append([]time.Time(nil), h.at...), append([]string(nil), h.text...)
	return func(yield func(time.Time, string) bool) {
		for i := range at {
			if !yield(at[i], text[i]) {
				return
			}
		}
	}
}
