package cache

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"
)

var (
	errNobodyLeft  = errors.New("cache: every client that waited for this response has gone")
	errFillTimeout = errors.New("cache: no response within Config.FillTimeout")

	// ErrClosed is what a Loader returns when a value would have to be loaded
	// after [Loader.Close], and why the context of a revalidation in the
	// background ended when the Cache was closed.
	ErrClosed = errors.New("cache: closed")
)

// A flight is one call of the origin, and those who wait for it. Its leader
// makes the call; followers wait for the header and then share the body, or
// are released to make calls of their own.
type flight struct {
	asker      // the leader's request
	c          *Cache
	shard      *shard
	key        string
	hash       uint64
	header     http.Header // of the leader's request: what Vary selects by
	strict     bool        // the leader does not take what is stale
	stale      *entry
	asked      bool // the request was made conditional on stale
	rest       bool // the request asks for what follows stale, a part
	unfit      bool // the last answers to this key could not be shared
	known      bool // other variants are stored
	background bool // nobody waits for it
	ended      bool

	up      *flight         // whose handler made the leader's request, or nil
	ctx     context.Context // of the call: fill, or the client's own
	client  context.Context // the leader's, when ctx is fill
	fill    fillContext
	started time.Duration

	// Protected by the shard.
	next     *flight // of the same hash
	joinable bool
	left     bool // the leader's client has gone
	refs     int
	doomed   bool          // a purge came: keep nothing
	deadTags []string      // tags purged meanwhile
	settled  bool          // what follows is set
	ready    chan struct{} // closed then; made by the first who waits

	share *entry // what followers may answer from, if it suits them
	free  bool   // no answer for followers: call the origin yourselves; otherwise try again
	err   error  // what a client's call has failed with, for all who wait

	entry    *entry   // the response on its way, if it is kept
	why      reason   // why it isn't
	body     body     // its body
	withheld []string // fields of it that others must not get
	trailer  []field  // as it came; set before the body ends
	common   []field  // of trailer, what others may get
}

// newFlight returns a flight for a request with header h, whose call ends with
// ctx. It is in no shard yet.
func (c *Cache) newFlight(ctx context.Context, a asker, key string, hash uint64, h http.Header, stale *entry) *flight {
	return &flight{
		asker: a, c: c, shard: c.shard(hash), key: key, hash: hash, header: h,
		stale: stale, started: c.now(), refs: 1, ctx: ctx,
	}
}

// detach makes f's call outlive the client, as long as somebody waits for it.
func (f *flight) detach(client context.Context) {
	f.client = client
	f.fill.f = f
	f.fill.Context = context.WithoutCancel(client)
	f.ctx = &f.fill
}

// keepHeader makes f outlive the request that leads it, which is its caller's
// again when he has closed the answer.
func (f *flight) keepHeader() {
	h := f.header.Clone()
	f.shard.mu.Lock()
	f.header = h
	f.shard.mu.Unlock()
}

func (f *flight) detached() bool { return f.fill.f != nil }

// cancel ends the context of f's call, if that is f's own.
func (f *flight) cancel(cause error) {
	if f.detached() {
		f.fill.cancel(cause)
	}
}

// join returns a flight that the request can follow, or a new one, with the
// request as its leader.
func (c *Cache) join(r *http.Request, l *lookup, key string, hash uint64, shared, plain bool, stale *entry) (f *flight, lead bool) {
	s := c.shard(hash)
	wait := plain && !c.cfg.NoCollapse
	up, _ := r.Context().Value(flightKey{}).(*flight)
	s.mu.Lock()
	u := s.unfitLocked(hash, c.now())
	unfit := u != nil && u.key == key
	if wait = wait && !unfit; wait {
		for f := s.flights[hash]; f != nil; f = f.next {
			if f.joinable && f.key == key && !f.doomed && f.suits(r.Header) && !f.waitsFor(up) && f.waitedForLocked() {
				f.refs++
				if !f.settled && f.ready == nil {
					f.ready = make(chan struct{})
				}
				s.mu.Unlock()
				return f, false
			}
		}
	}
	if stale != nil && stale.gone.Load() { // who joins from now on may have come after its purge
		stale = nil
	}
	f = c.newFlight(r.Context(), l.asker(shared), key, hash, r.Header, stale)
	f.up = up
	f.strict = l.strict()
	f.joinable, f.unfit = wait, unfit
	if wait {
		f.detach(r.Context())
	}
	e := s.index.get(hash)
	f.known = e != nil && e.key == key
	s.boardLocked(f)
	s.mu.Unlock()
	if !wait {
		f.header = r.Header.Clone() // next gets r itself, and may change it
	}
	return f, true
}

// board adds f to the flights that a purge finds.
func (s *shard) board(f *flight) {
	s.mu.Lock()
	s.boardLocked(f)
	s.mu.Unlock()
}

func (s *shard) boardLocked(f *flight) {
	f.next = s.flights[f.hash]
	s.flights[f.hash] = f
}

// dropLocked takes f out again.
func (s *shard) dropLocked(f *flight) {
	f.joinable = false
	before := s.flights[f.hash]
	if before == f {
		if f.next == nil {
			delete(s.flights, f.hash)
		} else {
			s.flights[f.hash] = f.next
		}
		return
	}
	for ; before != nil; before = before.next {
		if before.next == f {
			before.next = f.next // f.next stays: somebody may stand on f
			return
		}
	}
}

// waitsFor reports whether f's call can't end before that of g, which was made
// on the way: who is called by g would wait for himself.
func (f *flight) waitsFor(g *flight) bool {
	for ; g != nil; g = g.up {
		if f == g {
			return true
		}
	}
	return false
}

// bar lets nobody else wait for f.
func (f *flight) bar() {
	f.shard.mu.Lock()
	f.joinable = false
	f.shard.mu.Unlock()
}

// suits reports whether a request may have use of f's answer: as far as is
// known what differs does not matter. The shard is locked.
func (f *flight) suits(h http.Header) bool {
	e := f.entry
	if e == nil {
		e = f.stale
	}
	return e == nil || !slices.ContainsFunc(e.vary.list(), func(v varyField) bool {
		return !slices.Equal(h[v.name], f.header[v.name])
	})
}

// leave takes one who waits out. When nobody is left the call is cancelled.
func (f *flight) leave() { f.leaves(1) }

// leaderLeaves is called when the leader's client is gone, or is through.
func (f *flight) leaderLeaves() {
	f.shard.mu.Lock()
	n := 0
	if !f.left {
		f.left, n = true, 1
	}
	f.shard.mu.Unlock()
	f.leaves(n)
}

// linger lets the leader go, who has had a 304, and keeps the call up until the
// body is stored, or for as long as it may take until the header.
func (f *flight) linger() *time.Timer {
	f.shard.mu.Lock()
	f.refs++
	f.shard.mu.Unlock()
	f.leaderLeaves()
	d := f.c.fillTimeout
	if d < 0 {
		d = 1<<63 - 1
	}
	return time.AfterFunc(d, func() { f.cancel(errFillTimeout) })
}

func (f *flight) leaves(n int) {
	f.shard.mu.Lock()
	f.refs -= n
	waited := f.waitedForLocked()
	f.shard.mu.Unlock()
	if !waited {
		f.cancel(errNobodyLeft)
	}
}

// waitedForLocked reports whether anybody still waits for f. Nobody watches
// the leader's client unless the handler has asked, so this looks.
func (f *flight) waitedForLocked() bool {
	if !f.left && f.client != nil && f.client.Err() != nil {
		f.left = true
		f.refs--
	}
	if f.refs == 0 {
		f.joinable = false
	}
	return f.refs > 0
}

// settle tells the followers what they can do, and lets no more in unless they
// can share.
func (f *flight) settle(share *entry, free bool) {
	f.shard.mu.Lock()
	f.share, f.free = share, free
	if free || share == nil || share.live == nil {
		f.joinable = false
	}
	f.settled = true
	if f.ready != nil {
		close(f.ready)
	}
	f.shard.mu.Unlock()
}

// abandoned reports whether the call has ended because nobody waits for it.
func (f *flight) abandoned() bool {
	if !f.detached() {
		return errors.Is(f.ctx.Err(), context.Canceled)
	}
	f.leaves(0)
	return errors.Is(f.fill.ended(), errNobodyLeft)
}

// cutShort reports whether the context of the call has ended before the call
// has, so that the handler may have left the rest of its response out.
func (f *flight) cutShort() bool {
	if f.detached() {
		return f.abandoned() || f.fill.ended() != nil
	}
	return f.ctx.Err() != nil
}

// forward says why the flight's request went to the origin.
func (f *flight) forward() forward {
	switch {
	case f.strict && f.stale != nil:
		return forward{why: "request"}
	case f.stale != nil && f.stale.part:
		return forward{why: "partial"}
	case f.stale != nil:
		return forward{why: "stale"}
	case f.known:
		return forward{why: "vary-miss"}
	}
	return forward{why: "uri-miss"}
}
