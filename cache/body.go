package cache

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	firstChunk = 512
	chunkSize  = 64 << 10
	readSize   = 4 << 10 // what is read at a time when nothing is announced

	// overflowWindow is how far the writer of a body that is not kept may be
	// ahead of its slowest reader.
	overflowWindow = 256 << 10

	// stallTime is how long others wait there for a reader that does not get
	// through what it was given last, at most a chunk; or twice that, because who
	// waits is looked at as often.
	stallTime = 5 * time.Second
)

var (
	errAborted  = errors.New("cache: the response broke off")
	errNoReader = errors.New("cache: nobody reads the response any more")
	errEnded    = errors.New("cache: the response has ended")
	errStalled  = errors.New("cache: others had to wait too long for the reader of this response")
)

// A body is that of a response on its way: one writer, any number of readers,
// each at its own pace. Bytes stay until the body is kept as a whole. If it
// turns out not to be (it overflows), bytes go as soon as every reader has had
// them, and the writer waits for the slowest; but not for one that takes nothing
// while others would.
type body struct {
	limit  int64         // overflows beyond this
	budget *atomic.Int64 // bytes that all bodies on their way may still take

	// mu protects what follows.
	mu       sync.Mutex
	chunks   [][]byte // all but the last are full; bytes once written never change
	dropped  int      // how many chunks are gone from the front
	size     int64    // bytes written
	held     int64    // bytes taken from budget
	hint     int64    // bytes still expected, or -1
	overflow bool
	done     bool
	err      error         // why it broke off, when done
	readers  *bodyReader   // and those after it
	first    bodyReader    // the one that most bodies have
	grown    chan struct{} // closed when there is more to read; made by who waits
	room     chan struct{} // closed when a reader has moved; made by the writer
}

// init makes b, which is new, a body of which size bytes are announced, -1 for
// unknown.
func (b *body) init(size, limit int64, budget *atomic.Int64) *body {
	b.limit, b.budget, b.hint = limit, budget, size
	return b
}

// write appends p. It blocks only once the body has overflowed.
func (b *body) write(ctx context.Context, p []byte) (int, error) { return writeTo(ctx, b, p) }

func writeTo[T string | []byte](ctx context.Context, b *body, p T) (int, error) {
	n := 0
	for len(p) > 0 {
		buf, err := b.space(ctx, len(p))
		if err != nil {
			return n, err
		}
		k := copy(buf, p)
		b.commit(k)
		n, p = n+k, p[k:]
	}
	return n, nil
}

// readFrom appends what r holds without a buffer of its own.
func (b *body) readFrom(ctx context.Context, r io.Reader) (n int64, err error) {
	for {
		buf, err := b.space(ctx, readSize)
		if err != nil {
			return n, err
		}
		k, err := r.Read(buf)
		if k > 0 {
			b.commit(k)
			n += int64(k)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// space returns room to write into, for want bytes or fewer, which commit then
// makes part of the body.
func (b *body) space(ctx context.Context, want int) ([]byte, error) {
	var stall *time.Timer
	b.mu.Lock()
	for b.overflow && b.lagLocked() >= overflowWindow {
		if b.readers == nil {
			b.mu.Unlock()
			return nil, errNoReader
		}
		if b.room == nil {
			b.room = make(chan struct{})
		}
		room := b.room
		if stall == nil {
			b.markLocked()
			stall = time.NewTimer(stallTime)
			defer stall.Stop()
		}
		b.mu.Unlock()
		select {
		case <-room:
		case <-stall.C:
			b.mu.Lock()
			b.cutLocked()
			b.mu.Unlock()
			stall = nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if b.done { // nobody would give back what it takes
		return nil, errEnded
	}
	if len(b.chunks) > 0 {
		if c := b.chunks[len(b.chunks)-1]; len(c) < cap(c) {
			return c[len(c):cap(c)], nil
		}
	}
	c := make([]byte, 0, b.nextChunkLocked(int64(want)))
	b.chunks = append(b.chunks, c)
	b.takeLocked(int64(cap(c)))
	return c[:cap(c)], nil
}

// nextChunkLocked sizes the next chunk: exactly, if the rest is announced.
func (b *body) nextChunkLocked(want int64) int64 {
	if b.hint > 0 {
		return min(b.hint, chunkSize)
	}
	return min(max(b.size, want, firstChunk), chunkSize)
}

// takeLocked counts n bytes, and gives up keeping the body if all bodies on
// their way together hold too much.
func (b *body) takeLocked(n int64) {
	b.held += n
	if b.budget.Add(-n) < 0 {
		b.overflow = true
	}
}

func (b *body) commit(n int) {
	b.mu.Lock()
	last := len(b.chunks) - 1
	c := b.chunks[last]
	b.chunks[last] = c[:len(c)+n]
	b.size += int64(n)
	if b.hint > 0 {
		b.hint -= int64(n)
	}
	if b.size > b.limit {
		b.overflow = true
	}
	b.wakeLocked()
	b.mu.Unlock()
}

// finish ends the body. A nil err says that it is whole.
func (b *body) finish(err error) {
	b.mu.Lock()
	if !b.done {
		b.done, b.err = true, err
		b.wakeLocked()
	}
	b.mu.Unlock()
}

// release gives the budget back. The bytes live on while somebody reads them.
func (b *body) release() {
	b.mu.Lock()
	b.budget.Add(b.held)
	b.held = 0
	b.mu.Unlock()
}

func (b *body) wakeLocked() {
	if b.grown != nil {
		close(b.grown)
		b.grown = nil
	}
}

func (b *body) overflowed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.overflow
}

func (b *body) length() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size
}

// sealed returns the bytes of a whole body without spare room.
func (b *body) sealed() [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.size == 0:
		return nil
	case b.size <= chunkSize && (len(b.chunks) > 1 || cap(b.chunks[0]) > int(b.size)):
		p := make([]byte, 0, b.size)
		for _, c := range b.chunks {
			p = append(p, c...)
		}
		return [][]byte{p}
	}
	last := len(b.chunks) - 1
	switch c := b.chunks[last]; {
	case len(c) == 0:
		last--
	case len(c) < cap(c):
		b.chunks[last] = append(make([]byte, 0, len(c)), c...)
	}
	return b.chunks[: last+1 : last+1]
}

// lagLocked is how far the slowest reader is behind.
func (b *body) lagLocked() int64 {
	lag := int64(0)
	if b.readers == nil {
		return overflowWindow
	}
	for r := b.readers; r != nil; r = r.after {
		lag = max(lag, b.size-r.pos)
	}
	return lag
}

// markLocked notes where every reader is.
func (b *body) markLocked() {
	for r := b.readers; r != nil; r = r.after {
		r.mark = r.pos
	}
}

// cutLocked lets go of the readers that the writer waits for and that have taken
// nothing since markLocked, if others could have gone on all the time. Nothing
// was written meanwhile.
func (b *body) cutLocked() {
	others := false
	for r := b.readers; r != nil; r = r.after {
		others = others || b.size-r.mark < overflowWindow
	}
	if !others {
		return
	}
	for p := &b.readers; *p != nil; {
		if r := *p; r.stalledLocked() {
			r.cut = true
			*p = r.after
		} else {
			p = &r.after
		}
	}
	b.wakeLocked()
	b.trimLocked()
}

// trimLocked drops the chunks that every reader has left behind.
func (b *body) trimLocked() {
	if !b.overflow {
		return
	}
	lowest := b.dropped + len(b.chunks)
	for r := b.readers; r != nil; r = r.after {
		lowest = min(lowest, r.chunk)
	}
	for b.dropped < lowest && len(b.chunks) > 1 {
		n := min(int64(cap(b.chunks[0])), b.held) // none is held once release was called
		b.held -= n
		b.budget.Add(n)
		b.chunks[0] = nil
		b.chunks = b.chunks[1:]
		b.dropped++
	}
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
}

// nudge wakes the readers although there is nothing new, so that they flush.
func (b *body) nudge() {
	b.mu.Lock()
	b.wakeLocked()
	b.mu.Unlock()
}
