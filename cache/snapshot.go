package cache

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
)

const snapshotMagic = "SPILLWAY-CACHE-1\n"

// Snapshot writes the stored responses to w, so that [Cache.Restore] can give
// them to the next process. Requests are answered meanwhile; what they store
// may or may not be in it.
func (c *Cache) Snapshot(w io.Writer) error {
	bw := bufio.NewWriter(w)
	bw.WriteString(snapshotMagic)
	for _, s := range c.shards {
		var entries []*entry
		s.mu.Lock()
		for _, head := range s.entries {
			for e := head; e != nil; e = e.chain.Load() {
				entries = append(entries, e)
			}
		}
		s.mu.Unlock()
		for _, e := range entries {
			b := encodeEntry(e, c)
			bw.Write(binary.AppendUvarint(nil, uint64(len(b))))
			if _, err := bw.Write(b); err != nil {
				return fmt.Errorf("cache: Snapshot: %w", err)
			}
		}
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("cache: Snapshot: %w", err)
	}
	return nil
}

// Restore adds the responses of a snapshot, as old as they are by now. Those
// that are damaged, of another version or larger than Config.MaxBodyBytes are
// left out. What is stored already stays.
func (c *Cache) Restore(r io.Reader) error {
	br := bufio.NewReader(r)
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(br, magic); err != nil || string(magic) != snapshotMagic {
		return errors.New("cache: Restore: not a snapshot of this version")
	}
	for {
		n, err := binary.ReadUvarint(br)
		if err == io.EOF {
			return nil
		}
		if err != nil || n > uint64(c.cfg.MaxBytes)+1<<20 {
			return errors.New("cache: Restore: the snapshot is damaged")
		}
		b, err := io.ReadAll(io.LimitReader(br, int64(n)))
		if err == nil && uint64(len(b)) < n {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("cache: Restore: %w", err)
		}
		if e, err := c.decodeEntry(b); err == nil && e.cost <= c.cfg.MaxBytes/2 {
			e.hash = c.keys.hash([]byte(e.key))
			c.adopt(e)
		}
	}
}

// adopt stores an entry that comes from elsewhere, unless there is one for the
// same request.
func (c *Cache) adopt(e *entry) bool {
	h := http.Header{}
	for _, v := range e.vary.list() {
		if len(v.lines) > 0 {
			h[v.name] = v.lines
		}
	}
	if old := c.find([]byte(e.key), e.hash, h, true); old != nil {
		return false
	}
	if i := indexExtra(e.key); i >= 0 {
		c.keys.extras.Store(true)
	}
	c.insert(e, h)
	return true
}

// Warm sends requests through h, which [Cache.Handler] has returned, so that
// the cache holds the answers. It returns when all are answered or ctx ends,
// with what went wrong: a panic, or a status of 500 or more.
func Warm(ctx context.Context, h http.Handler, requests ...*http.Request) error {
	var errs []error
	// A reverse proxy whose upstream breaks off panics only if it sees a server
	// that recovers. Otherwise it keeps quiet, and half a page would be stored.
	served := context.WithValue(ctx, http.ServerContextKey, &http.Server{})
	for _, r := range requests {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, context.Cause(ctx))...)
		}
		if err := warm(h, r.WithContext(served)); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func warm(h http.Handler, r *http.Request) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("cache: Warm: %s %s: panic: %v", r.Method, r.URL, v)
		}
	}()
	w := &discarder{h: http.Header{}}
	h.ServeHTTP(w, r)
	if w.status >= 500 {
		return fmt.Errorf("cache: Warm: %s %s: status %d", r.Method, r.URL, w.status)
	}
	return nil
}

// A discarder is a ResponseWriter that throws the body away.
type discarder struct {
	h      http.Header
	status int
}

func (w *discarder) Header() http.Header         { return w.h }
func (w *discarder) Write(p []byte) (int, error) { return len(p), nil }
func (w *discarder) WriteHeader(status int)      { w.status = status }
