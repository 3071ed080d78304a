package health

import (
	"sync/atomic"
	"unsafe"
)

// served counts the requests that are served, in stripes: every request writes
// to one, and cores that write to the same cache line wait for each other.
type served [8]stripe

type stripe struct {
	inflight atomic.Int64
	requests [classCount]histogram
	_        [64]byte
}

// mine returns a stripe that goroutines running at the same time seldom share:
// the address of a local variable tells their stacks apart. A request must
// leave the stripe that it came to.
func (s *served) mine() *stripe {
	var here byte
	h := uint64(uintptr(unsafe.Pointer(&here))>>10) * 0x9e3779b97f4a7c15
	return &s[h>>61]
}

// inflight returns how many are being served. It is not zero while there is one
// that was served from the beginning of the call to its end.
func (s *served) inflight() (n int64) {
	for i := range s {
		n += s[i].inflight.Load()
	}
	return n
}

// class returns the histogram of one class of responses.
func (s *served) class(i int) *histogram {
	var sum histogram
	for j := range s {
		sum.add(&s[j].requests[i])
	}
	return &sum
}
