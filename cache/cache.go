// Package cache keeps what is dear to make: HTTP responses, as RFC 9111 allows,
// in front of a handler or behind a client ([Cache]), and values that a
// function loads ([Loader]).
//
//	pages := cache.MustNew(cache.Config{MaxBytes: 256 << 20})
//	http.ListenAndServe(":8080", pages.Handler(mux))        // a shared cache
//	client := &http.Client{Transport: pages.Transport(nil)} // a private one
//	pages.Purge(ctx, cache.Tag("product-42"))               // by URL, prefix or tag
//
//	products := cache.MustNewLoader(cache.LoaderConfig[string, Product]{
//		Load: store.Product, // func(ctx, sku) (Product, error)
//		TTL:  time.Minute,
//	})
//	p, err := products.Get(ctx, "sku-42") // one call of Load, however many ask
//
// # How it decides
//
// What may be kept, for how long and for whom, only the responses say: with
// Cache-Control, CDN-Cache-Control, Expires, Vary and the rest of RFC 9111,
// 5861 and 9213. A response that says nothing is not kept, unless Last-Modified
// lets its life be guessed or Config.TTL gives it one. A response with
// Set-Cookie is not kept, nor one to a request with Authorization, unless it
// says so. To a request with Cookie a response that says nothing is not kept
// for others, whatever Config gives it: one that says max-age or public is,
// and must say private, or Vary: Cookie, if it is for that user. While the
// origin can't be reached, what is stale stands in for up to an hour, unless it
// says must-revalidate. Cache-Status (RFC 9211) says what was done and why.
//
// A request for what is not there calls the handler once. The others wait for
// the header, and share the body while it comes if the response may be shared
// and suits what Vary names; otherwise they call the handler themselves, and
// for [Config.HitForMiss] nobody waits for that URL again. The call ends when
// every client has gone. A purge, or a POST, that comes during a call wins: its
// result is not kept.
//
// A Loader does the same for values, by key: it calls Load once, reloads in
// the background before a value ends, and keeps the old one when Load fails.
//
// # Defaults
//
// 64 MiB of responses, each at most a sixteenth of that, so that one download
// doesn't push out the site. 16 variants of a URL, so that a Vary on a field
// with many values doesn't either. 10 s of HitForMiss: long enough that a
// private URL is never queued, short enough to notice that it no longer is. 30 s
// of FillTimeout for a call that several wait for.
//
// # Costs
//
// A hit takes some hundred nanoseconds and no allocation; among a million
// responses up to a microsecond, as with a map, because it waits for memory
// twice. A miss that is not kept takes half a microsecond and one allocation, a
// miss that is kept some microseconds more than its handler. Memory is bounded
// by [Config.MaxBytes], which counts headers, keys and index too; what was
// asked for least per byte goes first. Bodies stream: nothing is held back, and
// one that is too large is not held at all.
//
// # What it does not do
//
// It does not cache requests with a body, does not decode or compress, and has
// no goroutine but those that a request starts and bounds: to feed a slow
// client, to call what is behind [Cache.Transport] or the Store, to revalidate in
// the background. The memory of another process is its own: [Config.Store] lets
// processes share what they keep, not what they purge from memory.
//
// # How it fails
//
// A handler that fails is answered for with what is stale, as far as the
// response and [Config.StaleIfError] allow. A body that breaks off is not kept,
// a panic goes on up, and who waited for it asks again. A body that is too large
// to keep reaches all who asked for it together at the pace of the slowest, but
// one that takes less than 64 KiB in ten seconds while others wait is cut off. A
// store that is slow, down or wrong counts as a miss. [Cache.Conditions] says
// when any of this is so.
package cache

import (
	"context"
	"hash/maphash"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Cache keeps responses. It is safe for concurrent use.
type Cache struct {
	cfg         Config
	statusName  string
	maxBody     int64
	maxVariants int
	hitForMiss  time.Duration
	fillTimeout time.Duration
	targets     []string
	tagFields   []string
	normal      normalizers
	keys        keyMaker

	ages, ttls lineTable
	forwards   forwardTable
	shapes     pool[shape]
	varies     pool[varySet]
	dates      dateLine

	base   time.Time // what all times in entries are relative to, so that 0 is long ago
	policy *policy
	budget atomic.Int64 // bytes that bodies on their way may still take
	shards [shardCount]*shard
	tier   *tier // nil without a Store

	evicted    atomic.Uint64
	panics     atomic.Uint64
	failedOver atomic.Int64 // when a stale response last stood in for a failure, 0 never
	fillTime   histogram
	log        changeLog

	life       context.Context // ends with Close
	end        context.CancelFunc
	background sync.WaitGroup
	closing    sync.Mutex // protects closed, and orders background.Add before Wait
	closed     bool
}

// forever is more than any time to wait, and may be added to one.
const forever time.Duration = 1 << 62

// New returns an empty Cache, or an error that names every field of cfg that
// is not valid.
func New(cfg Config) (*Cache, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 64 << 20
	}
	c := &Cache{
		cfg: cfg, base: time.Now().Add(-time.Hour), policy: newPolicy(cfg.MaxBytes),
		maxBody:     orDefault(cfg.MaxBodyBytes, cfg.MaxBytes/16),
		maxVariants: orDefault(cfg.MaxVariants, 16),
		hitForMiss:  min(orDefault(cfg.HitForMiss, 10*time.Second), forever),
		fillTimeout: min(orDefault(cfg.FillTimeout, 30*time.Second), forever),
		targets:     canonical(cfg.Targets, "Cdn-Cache-Control"),
		tagFields:   canonical(cfg.TagHeaders, "Cache-Tag", "Surrogate-Key"),
		normal:      normalizers{},
	}
	for name, f := range cfg.Normalize {
		c.normal[http.CanonicalHeaderKey(name)] = c.guarded(f)
	}
	c.keys.seed = maphash.MakeSeed()
	c.keys.cfg = cfg.Key
	c.keys.cfg.IgnoreQuery = slices.Clone(cfg.Key.IgnoreQuery)
	c.keys.cfg.Headers = canonical(cfg.Key.Headers)
	c.keys.cfg.Cookies = slices.Clone(cfg.Key.Cookies)
	if !cfg.NoCacheStatus {
		name := cfg.StatusName
		if name == "" {
			name = cfg.Name
		}
		if name == "" {
			name = "Spillway"
		}
		c.statusName = statusName(name)
		c.ttls.prefix = c.statusName + "; hit; ttl="
	}
	if c.cfg.Name == "" {
		c.cfg.Name = "default"
	}
	if cfg.Store != nil {
		prefix := cfg.StorePrefix
		if prefix == "" {
			prefix = "spillway:cache:" + c.cfg.Name + ":"
		}
		c.tier = &tier{c: c, store: cfg.Store, timeout: orDefault(cfg.StoreTimeout, 50*time.Millisecond), prefix: prefix}
	}
	c.budget.Store(max(cfg.MaxBytes/4, 2*c.maxBody))
	for i := range c.shards {
		c.shards[i] = newShard()
	}
	c.life, c.end = context.WithCancel(context.Background())
	return c, nil
}

// MustNew is like [New] but panics if cfg is not valid.
func MustNew(cfg Config) *Cache {
	c, err := New(cfg)
	if err != nil {
		panic(err)
	}
	return c
}

// now is the time since base, on the monotonic clock.
func (c *Cache) now() time.Duration { return time.Since(c.base) }

// wall returns the time of day at now.
func (c *Cache) wall(now time.Duration) time.Time { return c.base.Add(now) }

// targetsFor returns the targeted fields that a cache of this kind reads.
func (c *Cache) targetsFor(shared bool) []string {
	if shared {
		return c.targets
	}
	return nil
}

// Close ends what runs in the background and waits for it. Requests are still
// answered afterwards, but nothing is revalidated in the background. A Cache
// that is not closed leaks nothing: what it started ends by itself within
// Config.FillTimeout.
func (c *Cache) Close() error {
	c.closing.Lock()
	c.closed = true
	c.closing.Unlock()
	c.end()
	c.background.Wait()
	return nil
}
