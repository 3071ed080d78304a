package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// The second tier. An entry is written to Config.Store when it is stored, and
// read from there when memory has nothing. What processes can't see of each
// other, purges, is written there too: a mark with the time of the purge, which
// every entry read back is compared with.
//
// The store is not trusted: a value has a checksum and says which key it is
// for. A store that fails or hangs is left alone for a while.

const (
	// breakAfter is how many calls in a row may fail before the store is left
	// alone, breakFor for how long.
	breakAfter = 3
	breakFor   = 5 * time.Second

	// maxTierVariants bounds the variants that the index of a key lists.
	maxTierVariants = 16

	// clockSkew is how far apart the clocks of two processes may be.
	clockSkew = time.Second

	// markTTL is how long a purge is remembered, and so the longest that an
	// entry may live in the store.
	markTTL = 7 * 24 * time.Hour
)

// A tier is a Store with a deadline, and a switch for when it is down.
type tier struct {
	c       *Cache
	store   Store
	timeout time.Duration
	prefix  string

	failed atomic.Int32 // calls in a row that failed
	until  atomic.Int64 // left alone until then; 0 while it answers
	lost   atomic.Int64 // when the last purge was that it was not told of
}

// errStoreDown says that the store is left alone because it has failed.
var errStoreDown = errors.New("cache: the store is not asked, it has failed too often")

// call runs f with the store's deadline, on a goroutine of its own, because the
// store may not heed it: a request waits no longer than that. When the store has
// been left alone for long enough, one call finds out whether it is back.
func (t *tier) call(ctx context.Context, f func(context.Context) error) error {
	now := t.c.now()
	until := t.until.Load()
	if int64(now) < until || until != 0 && !t.until.CompareAndSwap(until, int64(now+breakFor)) {
		return errStoreDown
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	done := make(chan error, 1)
	go func() {
		defer cancel()
		err := errors.New("cache: the store panicked")
		defer func() {
			if recover() != nil {
				t.c.panics.Add(1)
			}
			done <- err
		}()
		err = f(ctx)
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		if err = context.Cause(ctx); errors.Is(err, context.Canceled) {
			select {
			case err = <-done: // it had just ended
			default:
			}
		}
	}
	t.judge(err, now)
	return err
}

// judge counts failures, and says when the store goes and comes back.
func (t *tier) judge(err error, now time.Duration) {
	switch {
	case err == nil:
		if t.failed.Swap(0) >= breakAfter {
			t.until.Store(0)
			t.c.changed("the store answers again")
		}
	case errors.Is(err, context.Canceled): // the client's doing: let the next one find out
		t.until.CompareAndSwap(int64(now+breakFor), int64(now))
	default:
		if t.failed.Add(1) == breakAfter {
			t.c.changed("the store failed " + strconv.Itoa(breakAfter) + " times in a row: " + err.Error())
		}
		if t.failed.Load() >= breakAfter {
			t.until.Store(int64(now + breakFor))
		}
	}
}

// get returns the value of key, nil if there is none. An error says that this
// is not known.
func (t *tier) get(ctx context.Context, key string) ([]byte, error) {
	var value []byte
	err := t.call(ctx, func(ctx context.Context) (err error) {
		value, err = t.store.Get(ctx, key)
		return err
	})
	if err != nil {
		return nil, err // a call that is left behind may still set value
	}
	return value, nil
}

// index returns the sets of names that the store has answers to key for.
func (t *tier) index(ctx context.Context, key string) [][]string {
	value, _ := t.get(ctx, t.name("i", key))
	return decodeIndex(value)
}

// name returns the key in the store for something of a kind.
func (t *tier) name(kind string, parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return t.prefix + kind + ":" + hex.EncodeToString(h.Sum(nil)[:16])
}

// An entry is under "e" with its key and the values of what its Vary names; an
// index under "i" with the key alone lists the sets of names there are.

// entryName is where the store has the answer to a request with header h among
// those chosen by names.
func (t *tier) entryName(key string, names []string, h http.Header) string {
	parts := []string{key}
	for _, name := range names {
		parts = append(parts, name, t.c.normal.value(name, h[name]))
	}
	return t.name("e", parts...)
}

// find returns the entry of the store that answers a request with header h.
func (t *tier) find(ctx context.Context, key string, hash uint64, h http.Header) *entry {
	for _, names := range t.index(ctx, key) {
		value, _ := t.get(ctx, t.entryName(key, names, h))
		if value == nil {
			continue
		}
		e, err := t.c.decodeEntry(value)
		if err != nil || e.key != key || !t.c.normal.matches(e, h) || t.purged(ctx, e) {
			continue
		}
		e.hash = hash
		return e
	}
	return nil
}

// purged reports whether a purge that any process has made is later than the
// request that e came from. If the store can't say, it was; and a purge that
// the store was not told of counts for all that it has from before.
func (t *tier) purged(ctx context.Context, e *entry) bool {
	if lost := time.Duration(t.lost.Load()); lost != 0 && e.requested <= lost+clockSkew {
		return true
	}
	asked := t.c.wall(e.requested).UnixMilli()
	marks := []string{t.name("p", "all"), t.name("p", "url", keyURL(e.key))}
	for _, tag := range e.tags {
		marks = append(marks, t.name("p", "tag", tag))
	}
	for _, mark := range marks {
		value, err := t.get(ctx, mark)
		if err != nil {
			return true
		}
		if at, err := strconv.ParseInt(string(value), 10, 64); err == nil && at+clockSkew.Milliseconds() >= asked {
			return true
		}
	}
	return false
}

// set writes e to the store, in the background.
func (t *tier) set(e *entry, h http.Header) {
	now := t.c.now()
	ttl := min(e.life-e.age(now)+min(max(e.swr, e.sie, t.c.staleWindow()), markTTL), markTTL)
	if ttl <= 0 || e.part || now < time.Duration(t.until.Load()) || !t.c.start() {
		return
	}
	vary := e.vary.list()
	names := make([]string, len(vary))
	for i, v := range vary {
		names[i] = v.name
	}
	at := t.entryName(e.key, names, h)
	go func() {
		defer t.c.background.Done()
		value := encodeEntry(e, t.c)
		ctx := t.c.life
		if t.call(ctx, func(ctx context.Context) error { return t.store.Set(ctx, at, value, ttl) }) != nil {
			return
		}
		index := t.index(ctx, e.key)
		if !slices.ContainsFunc(index, func(n []string) bool { return slices.Equal(n, names) }) {
			index = append([][]string{names}, index[:min(len(index), maxTierVariants-1)]...)
		}
		t.call(ctx, func(ctx context.Context) error {
			return t.store.Set(ctx, t.name("i", e.key), encodeIndex(index), markTTL)
		})
		s := t.c.shard(e.hash)
		s.mu.Lock()
		purged := e.gone.Load() && s.purged >= e.requested // or else it had to make room, or was replaced
		s.mu.Unlock()
		if purged {
			t.call(ctx, func(ctx context.Context) error { return t.store.Delete(ctx, at) })
		}
	}()
}

// mark tells all processes that what kind and value name was purged now.
func (t *tier) mark(ctx context.Context, parts ...string) error {
	now := t.c.now()
	// If the clock was set back since we began, ours is ahead of it; if it was
	// set forward, behind. A purge that seems too late costs a few hits, one that
	// seems too early loses to what it is about.
	wall := max(time.Now().UnixMilli(), t.c.wall(now).UnixMilli())
	at := strconv.AppendInt(nil, wall, 10)
	name := t.name("p", parts...)
	err := t.call(ctx, func(ctx context.Context) error { return t.store.Set(ctx, name, at, markTTL) })
	if err != nil {
		t.lost.Store(int64(now))
	}
	return err
}

// fromTier answers a flight from the store, if that has something fresh. What
// it has that is stale is good for validation.
func (f *flight) fromTier(ctx context.Context, l *lookup) *entry {
	t := f.c.tier
	if t == nil || l.cc.noCache {
		return nil
	}
	e := t.find(ctx, f.key, f.hash, f.header)
	if e == nil || e.part {
		return nil
	}
	now := f.c.now()
	if !l.fresh(e, now) {
		f.shard.mu.Lock()
		if f.stale == nil {
			f.stale = e
		}
		f.shard.mu.Unlock()
		return nil
	}
	f.shard.mu.Lock()
	var removed []*entry
	doomed := f.doomed || len(f.deadTags) > 0
	if !doomed {
		removed = f.shard.replaceLocked(f.c, e, f.header)
	}
	f.shard.mu.Unlock()
	if doomed {
		return nil
	}
	f.c.account(e, removed)
	f.settle(e, false)
	f.end(nil, nil)
	return e
}

// start counts something in the background, unless the cache is closed.
func (c *Cache) start() bool {
	c.closing.Lock()
	defer c.closing.Unlock()
	if !c.closed {
		c.background.Add(1)
	}
	return !c.closed
}
