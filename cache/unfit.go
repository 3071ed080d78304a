package cache

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// Hit-for-miss: what was not fit to share the last time it was asked for is
// passed on without a flight, until its answers are.

// An unfitKey is a key whose answers are not shared, so that nobody waits for
// another's in vain (hit-for-miss).
type unfitKey struct {
	key   string
	until atomic.Int64 // a time since Cache.base
}

// maxUnfitKey is the longest key that is remembered, so that a stranger can't
// fill the memory with targets that he makes up: nothing counts these keys.
const maxUnfitKey = 1 << 10

// setUnfit remembers that the answers to a key are not shared.
func (s *shard) setUnfit(key string, hash uint64, until time.Duration) {
	if len(key) > maxUnfitKey {
		return
	}
	u := &unfitKey{key: key}
	u.until.Store(int64(until))
	s.mu.Lock()
	s.unfit.Add(hash, u)
	s.mu.Unlock()
}

// extend makes u unfit for d from now. It is called for every answer, so it
// leaves alone what is long enough.
func (u *unfitKey) extend(now, d time.Duration) {
	if until := time.Duration(u.until.Load()); until < now+d-d/8 || until > now+d {
		u.until.Store(int64(now + d))
	}
}

// unfitLocked returns the key with this hash whose answers are not shared, or
// nil.
func (s *shard) unfitLocked(hash uint64, now time.Duration) *unfitKey {
	u, ok := s.unfit.Get(hash)
	if ok && int64(now) >= u.until.Load() {
		s.unfit.Remove(hash)
		return nil
	}
	return u
}

// passUnfit answers a request for something that is not stored, and was not
// fit to be when it was last asked for: it calls next and nobody waits. It
// reports false if the request is not of that kind.
func (h *handler) passUnfit(w http.ResponseWriter, r *http.Request, l *lookup, key []byte, hash uint64, now time.Duration) bool {
	c := h.c
	if l.head || len(l.ranges) > 0 || l.cc.onlyIfCached || c.tier != nil {
		return false
	}
	s := c.shard(hash)
	s.mu.Lock()
	u := s.unfitLocked(hash, now)
	known := s.index.get(hash) != nil
	s.mu.Unlock()
	if u == nil || u.key != string(key) || known {
		return false
	}
	ww := &watcher{
		ResponseWriter: w, c: c, r: r, job: jobUnfit, fwd: "uri-miss",
		hash: hash, started: now, asker: l.asker(true), unfit: u,
	}
	ww.outer.note(w.Header())
	ww.pass(h.next)
	return true
}

// judge finds out whether an answer to an unfit key is fit to keep again.
func (w *watcher) judge(status int, h http.Header) {
	c := w.c
	now := c.now()
	if w.r.Context().Err() == context.Canceled {
		w.result, w.why = Failed, reasonClientGone
		return
	}
	d := responseDirectives(h, c.targets)
	if _, w.why = c.judge(w.asker, status, h, &d, c.wall(now)); w.why != reasonNone {
		w.result = resultOf(w.why)
		w.unfit.extend(now, c.unfitFor(status))
		return
	}
	w.result = Miss
	if f := w.takeOff(); f != nil {
		act, _, result, why := f.respond(status, h, &w.outer)
		w.result, w.why = result, why
		if act != actKeep {
			f.end(errAborted, nil)
			return
		}
		w.keep = f
	}
}

// takeOff returns a flight that stores the answer, or nil if this one can't
// be: something was purged or stored meanwhile, or what it varies by may not be
// in the request any more. Then the next request will lead a flight.
func (w *watcher) takeOff() *flight {
	c, h := w.c, w.ResponseWriter.Header()
	s := c.shard(w.hash)
	f := c.newFlight(w.r.Context(), w.asker, w.unfit.key, w.hash, w.r.Header.Clone(), nil)
	f.started, f.unfit = w.started, true
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, _ := s.unfit.Peek(w.hash); u == w.unfit {
		s.unfit.Remove(w.hash)
	}
	if len(h["Vary"]) > 0 || s.purged >= w.started || s.index.get(w.hash) != nil {
		return nil
	}
	s.boardLocked(f)
	return f
}
