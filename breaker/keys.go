package breaker

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// ByRoute is a Config.Key that gives each route of an [http.ServeMux] a circuit
// of its own: the pattern that matched. Wrap the handlers that the mux calls;
// around the mux itself the pattern isn't known yet, there use
//
//	Key: func(r *http.Request) string { _, pattern := mux.Handler(r); return pattern }
func ByRoute(r *http.Request) string { return r.Pattern }

// ByHost is the key that a [Breaker.Transport] uses by default: scheme and host
// of the URL, in lower case, with the port unless it is the scheme's own.
func ByHost(r *http.Request) string { return keyOf(r.URL).String() }

// AllTogether is a Config.Key that puts every request into the Breaker's own
// circuit.
func AllTogether(*http.Request) string { return "" }

// A hostKey is a key without the cost of joining its parts for each request.
type hostKey struct{ scheme, host string }

func (k hostKey) String() string {
	if k.scheme == "" {
		return k.host
	}
	return k.scheme + "://" + k.host
}

func parseKey(s string) hostKey {
	if scheme, host, ok := strings.Cut(s, "://"); ok && scheme != "" {
		return hostKey{scheme, host}
	}
	return hostKey{host: s}
}

// maxKeyLen bounds a key in bytes. Keys may come from strangers: a path, say.
const maxKeyLen = 256

// shorten returns a key in place of one that is too long, the same one in every
// process.
func (k hostKey) shorten() hostKey {
	long := k.String()
	sum := sha256.Sum256([]byte(long))
	return parseKey(strings.ToValidUTF8(long[:maxKeyLen/2], "") + "..." + hex.EncodeToString(sum[:16]))
}

// keyOf returns the key of a URL's host. It doesn't allocate for a URL in the
// usual form.
func keyOf(u *url.URL) hostKey {
	k := hostKey{u.Scheme, u.Host}
	for i := range len(k.host) {
		if c := k.host[i]; 'A' <= c && c <= 'Z' {
			k.host = strings.ToLower(k.host)
			break
		}
	}
	switch k.scheme {
	case "http":
		k.host = strings.TrimSuffix(k.host, ":80")
	case "https":
		k.host = strings.TrimSuffix(k.host, ":443")
	}
	return k
}

// A table holds the circuits of the keys, least recently used last, in shards
// so that hosts don't wait for one another.
type table struct {
	seed   maphash.Seed
	shards []shard
}

type shard struct {
	mu  sync.Mutex // guards what follows; taken before any Breaker.mu
	lru *simplelru.LRU[hostKey, *Breaker]
	max int

	retired [numOutcomes]atomic.Uint64 // what those it has dropped have counted; grows in one step with that
}

func newTable(maxKeys int) *table {
	n := 1
	if maxKeys >= 1024 { // below that an uneven hash would cost too much room
		n = 16
	}
	t := &table{seed: maphash.MakeSeed(), shards: make([]shard, n)}
	for i := range t.shards {
		s := &t.shards[i]
		s.max = maxKeys / n
		s.lru, _ = simplelru.NewLRU[hostKey, *Breaker](s.max, nil) // fails only for sizes below 1
	}
	return t
}

func (t *table) shard(k hostKey) *shard {
	if len(t.shards) == 1 {
		return &t.shards[0]
	}
	return &t.shards[maphash.String(t.seed, k.host)%uint64(len(t.shards))]
}

// lookup returns the circuit of a key, which it makes if it must.
func (f *family) lookup(k hostKey, now int64) *Breaker {
	if len(k.scheme)+len(k.host) > maxKeyLen {
		k = k.shorten()
	}
	s := f.keys.shard(k)
	s.mu.Lock()
	c, ok := s.lru.Get(k)
	if !ok {
		f.forgetIdleLocked(s, now, 2)
		if s.lru.Len() >= s.max {
			f.makeRoomLocked(s)
		}
		k = hostKey{strings.Clone(k.scheme), strings.Clone(k.host)} // else it holds the whole URL
		c = &Breaker{home: s}
		c.init(f, k.String())
		s.lru.Add(k, c)
	}
	c.used = now
	s.mu.Unlock()
	return c
}

// idleAfter is how long a circuit is kept that isn't used, nor open nor forced.
// By then its window is empty, so that a new one would decide the same.
func (f *family) idleAfter() int64 { return int64(max(10*time.Minute, 2*f.cfg.Window)) }

// forgetIdleLocked drops at most n circuits that have been idle. s.mu is held.
func (f *family) forgetIdleLocked(s *shard, now int64, n int) {
	for range n {
		k, c, ok := s.lru.GetOldest()
		if !ok || now-c.used < f.idleAfter() {
			return
		}
		if c.force.Load() != nil || now-c.cur.Load().gate.Load() < f.idleAfter() {
			c.used = now // look again later
			s.lru.Get(k)
			continue
		}
		s.lru.Remove(k)
		c.retire()
	}
}

// makeRoomLocked drops the circuit unused for longest that is closed, or if none
// of the eight unused for longest is, the first that it didn't look at. So a
// flood of new hosts doesn't make an open circuit forget, and the search is
// short even if all are open. s.mu is held.
func (f *family) makeRoomLocked(s *shard) {
	for range min(8, s.lru.Len()) {
		k, c, _ := s.lru.GetOldest()
		if c.shownNow() == Closed && c.force.Load() == nil {
			break
		}
		s.lru.Get(k)
	}
	if _, c, ok := s.lru.RemoveOldest(); ok {
		c.retire()
		f.evicted.Add(1)
	}
}

// all returns the circuits of all keys, after dropping those that are idle.
func (f *family) all() []*Breaker {
	var out []*Breaker
	now := f.now()
	for i := range f.keys.shards {
		s := &f.keys.shards[i]
		s.mu.Lock()
		f.forgetIdleLocked(s, now, s.lru.Len())
		out = append(out, s.lru.Values()...)
		s.mu.Unlock()
	}
	return out
}

// sums returns what the circuits of all keys have counted, those dropped
// included. None is dropped meanwhile from a shard that is being added up: else
// its calls would count twice, or not at all, and a total would go back.
func (t *table) sums() (sum [numOutcomes]uint64) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, c := range s.lru.Values() {
			for o := range sum {
				sum[o] += c.counts[o].Load()
			}
		}
		for o := range sum {
			sum[o] += s.retired[o].Load()
		}
		s.mu.Unlock()
	}
	return sum
}

// retire moves what a circuit has counted to its shard, and its last failure to
// the family. The calls that are still in flight will find their way there too.
// The shard's mu is held.
func (b *Breaker) retire() {
	b.moveCounts() // all of it before a call that ends now can move any
	b.mu.Lock()
	b.retired.Store(true)
	b.fam.inState[b.shown].Add(-1)
	if b.force.Swap(nil) != nil {
		b.fam.forced.Add(-1)
	}
	last := b.last
	b.mu.Unlock()
	if root := b.fam.root; last != nil {
		root.mu.Lock()
		if root.last == nil || last.At.After(root.last.At) {
			root.last = last
		}
		root.mu.Unlock()
	}
	b.moveCounts()
}

func (b *Breaker) moveCounts() {
	for o := range b.counts {
		b.home.retired[o].Add(b.counts[o].Swap(0))
	}
}
