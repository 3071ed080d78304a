package cache

import (
	"context"
	"io"
	"net/http"
)

// A bodyReader reads a body from its start.
type bodyReader struct {
	b     *body
	after *bodyReader
	chunk int   // absolute number of the chunk it is in
	off   int   // in that chunk
	pos   int64 // bytes it is done with
	given int64 // bytes it has, and is not done with

	// These are protected by the body, as after is.
	closed bool
	cut    bool  // others had to wait for it too long
	mark   int64 // pos, when the writer began to wait
}

// reader returns a new reader, or nil if the start is already gone.
func (b *body) reader() *bodyReader {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.overflow && b.size > 0 {
		return nil
	}
	r := &b.first
	if r.b != nil {
		r = &bodyReader{}
	}
	r.b, r.after = b, b.readers
	b.readers = r
	return r
}

// next returns the next bytes, which must not be changed and are valid until
// the next call. At the end it returns io.EOF, or why the body broke off.
func (r *bodyReader) next(ctx context.Context) ([]byte, error) {
	b := r.b
	b.mu.Lock()
	r.pos += r.given
	r.given = 0
	for {
		if r.closed {
			b.mu.Unlock()
			return nil, http.ErrBodyReadAfterClose
		}
		if r.cut {
			b.mu.Unlock()
			return nil, errStalled
		}
		if i := r.chunk - b.dropped; i < len(b.chunks) {
			c := b.chunks[i]
			if r.off < len(c) {
				p := c[r.off:]
				r.off, r.given = len(c), int64(len(p))
				b.trimLocked()
				b.mu.Unlock()
				return p, nil
			}
			if i < len(b.chunks)-1 {
				r.chunk++
				r.off = 0
				continue
			}
		}
		b.trimLocked()
		if b.done {
			err := b.err
			b.mu.Unlock()
			if err == nil {
				err = io.EOF
			}
			return nil, err
		}
		if b.grown == nil {
			b.grown = make(chan struct{})
		}
		grown := b.grown
		b.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		b.mu.Lock()
	}
}

// stalledLocked reports whether the writer waits for r, which has taken nothing
// since it was marked.
func (r *bodyReader) stalledLocked() bool {
	return r.pos == r.mark && r.b.size-r.pos >= overflowWindow
}

// caughtUp reports whether the reader has had every byte there is so far.
func (r *bodyReader) caughtUp() bool {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return r.pos+r.given == r.b.size
}

func (r *bodyReader) close() {
	r.b.mu.Lock()
	r.closed = true
	r.b.wakeLocked() // it may be waiting in next
	for p := &r.b.readers; *p != nil; p = &(*p).after {
		if *p == r {
			*p = r.after
			break
		}
	}
	r.b.trimLocked()
	r.b.mu.Unlock()
}
