package degrade

import (
	"sync"
	"sync/atomic"
)

// maxUntold bounds the changes that wait for a hook that does not return.
const maxUntold = 4096

// hook tells OnChange what has changed, in order and one change at a time.
type hook struct {
	call   func(Change) // nil: nobody wants to know
	panics atomic.Uint64
	missed atomic.Uint64 // changes that it was never told

	mu      sync.Mutex // protects what follows; taken after any other
	queue   []Change
	telling bool
}

// note queues c. The lock under which the change was made is held, which keeps
// the order; tell must be called once it is released.
func (h *hook) note(c Change) {
	if h.call == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.queue) == maxUntold {
		h.missed.Add(1)
		return
	}
	h.queue = append(h.queue, c)
}

// tell calls the hook for what is queued, unless that is being done already,
// perhaps further up this goroutine's stack. No lock may be held.
func (h *hook) tell() {
	if h.call == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.telling {
		return
	}
	h.telling = true
	defer func() { h.telling = false }() // also if the hook ends its goroutine
	for len(h.queue) > 0 {
		c := h.queue[0]
		h.queue = h.queue[1:]
		h.tellOne(c)
	}
	h.queue = nil
}

// tellOne calls the hook with mu released.
func (h *hook) tellOne(c Change) {
	h.mu.Unlock()
	defer h.mu.Lock()
	defer func() {
		if recover() != nil {
			h.panics.Add(1)
		}
	}()
	h.call(c)
}
