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
// says so; so nobody gets another user's page. While the origin can't be
// reached, what is stale stands in for up to an hour, unless it says
// must-revalidate. Cache-Status (RFC 9211) says what was done and why.
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

// Config configures a [Cache]. The zero value of every field is its default.
type Config struct {
	// Name labels the metrics; default "default".
	Name string

	// StatusName is what the cache calls itself in Cache-Status. Empty means
	// Name if that is set, and else "Spillway".
	StatusName string

	// NoCacheStatus leaves Cache-Status out.
	NoCacheStatus bool

	// MaxBytes bounds the memory that stored responses take, with headers,
	// keys and index; at least 64 KiB. Default 64 MiB. Responses on their way
	// may take as much as a quarter of it besides, or twice MaxBodyBytes if
	// that is more; beyond that, 256 KiB for each whose client is slow.
	MaxBytes int64

	// MaxBodyBytes is the largest body that is kept, at most MaxBytes. Larger
	// ones pass through without being held in memory. Default a sixteenth of
	// MaxBytes.
	MaxBodyBytes int64

	// MaxVariants is how many responses to one URL are kept that differ by
	// what their Vary names. Default 16.
	MaxVariants int

	// TTL is how long a response is fresh that does not say so itself, and
	// whose status may be kept without saying so (200, 404 and others, see RFC
	// 9110 §15.1). It goes before the guess from Last-Modified. Zero means
	// that only this guess counts. TTLOf, if set, decides for each such
	// response of any status; zero or less leaves it alone.
	TTL   time.Duration
	TTLOf func(status int, header http.Header) time.Duration

	// StaleIfError and StaleWhileRevalidate are how long past its life a
	// response may be used when the handler answers 500, 502, 503 or 504, and
	// while a new one is fetched in the background (RFC 5861). A longer time
	// that the response itself gives counts. Responses with no-cache,
	// must-revalidate, proxy-revalidate or s-maxage are not affected (RFC 9111
	// §4.2.4). Zero means as the response says, but that one which does not
	// mention stale-if-error stands in for up to an hour when the origin can't
	// be reached: after 502, 503 or 504 (RFC 9111 §4.2.4, §4.3.3). A negative
	// StaleIfError means no more than the response says.
	StaleIfError, StaleWhileRevalidate time.Duration

	// Targets lists the header fields that go before Cache-Control, the most
	// specific first (RFC 9213); only a shared cache reads them. Nil means
	// CDN-Cache-Control.
	Targets []string

	// Key says what tells one response from another.
	Key KeyConfig

	// Normalize maps the names of request header fields to what makes their
	// values comparable when a Vary names them. Accept, Accept-Charset,
	// Accept-Encoding and Accept-Language have one already: case and the order
	// of equally wanted members make no difference.
	Normalize map[string]Normalizer

	// TagHeaders lists the response header fields that hold tags for [Tag],
	// separated by spaces or commas. Nil means Cache-Tag and Surrogate-Key.
	TagHeaders []string

	// SetCookie says what becomes of responses with Set-Cookie. The zero value
	// does not store them.
	SetCookie CookiePolicy

	// Shared makes Transport a shared cache, for a gateway whose users have
	// one client between them. Handler always is one.
	Shared bool

	// IgnoreRequestDirectives makes the Cache-Control and Pragma of requests
	// mean nothing, so that clients cannot reload past the cache.
	IgnoreRequestDirectives bool

	// Bypass says which GET and HEAD requests must not touch the cache. Nil
	// means none.
	Bypass func(*http.Request) bool

	// NoCollapse makes every request for what is not stored call the handler,
	// instead of waiting for the answer to another.
	NoCollapse bool

	// HitForMiss is for how long requests do not wait for one another after an
	// answer that could not be shared. Default 10 seconds; negative means never.
	HitForMiss time.Duration

	// FillTimeout is how long the handler may take until the header, when it
	// is called for several requests; its context then ends. If it does not
	// heed that, those who wait get what is stale or 504, a moment later. A
	// revalidation in the background has as long for all of its response.
	// Default 30 seconds; negative means no limit.
	FillTimeout time.Duration

	// Store is a second tier, which processes share. It is read when memory
	// has nothing, and written in the background. Nil means none. Every call
	// ends after StoreTimeout (default 50 ms); a store that fails is left
	// alone for seconds at a time. StorePrefix begins all keys in it; default
	// "spillway:cache:", Name and a colon.
	Store        Store
	StoreTimeout time.Duration
	StorePrefix  string

	// OnResult is called after each request with how it was answered, on the
	// goroutine that answers. It must not keep the request.
	OnResult func(*http.Request, Result)
}

// A CookiePolicy says what becomes of responses with Set-Cookie.
type CookiePolicy int

// The cookie policies of Config.SetCookie.
const (
	CookieRefuse CookiePolicy = iota // in a shared cache, not stored
	CookieStrip                      // stored without Set-Cookie
	CookieKeep                       // stored with it: every user gets the same cookie
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
