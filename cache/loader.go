package cache

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// A Loader keeps in memory what a function loads from elsewhere: rows of a
// database, answers of another service, results of a computation.
//
//	products := cache.MustNewLoader(cache.LoaderConfig[string, Product]{
//		Load:       store.Product, // func(ctx, sku) (Product, error)
//		TTL:        time.Minute,
//		StaleFor:   10 * time.Minute,
//		MaxEntries: 100_000,
//	})
//	p, err := products.Get(ctx, "sku-42")
//
// However many ask for a missing key at once, it is loaded once. A caller that
// gives up leaves the load to the others; a load that panics fails those who
// wait for it and nobody else. A value that is past its TTL is served while it
// is reloaded, and goes on being served when that fails. What the source
// doesn't have is remembered too, for a shorter time. With a Store in between, a
// fleet of processes asks the source once instead of once each.
//
// A hit takes no lock and allocates nothing, and many hits share one reading of
// the clock. What leaves memory when it is full is what is asked for least, not
// what was asked for last, so that a scan over all keys doesn't empty the cache.
// There is no goroutine but those of the loads that run and of the calls of the
// Store, and one that listens if the Store is a [Notifier]; none is left after
// Close, but for calls of a Store that pays no heed to its deadline.
//
// A Loader is safe for concurrent use.
type Loader[K comparable, V any] struct {
	cfg    LoaderConfig[K, V]
	seed   maphash.Seed
	shards []loaderShard[K, V] // a power of two
	shift  uint                // hash >> shift is the shard

	clock   loaderClock
	loads   *semaphore.Weighted // nil: unbounded
	timeout error               // the cause of a context that LoadTimeout ended

	closing context.Context // ends on Close; parent of no context, so as not to hide the values of callers
	close   context.CancelFunc
	running sync.WaitGroup // goroutines

	keys     loaderKeys[K]
	tier     *loaderTier  // nil without a Store
	id       string       // of this process, in messages
	ahead    atomic.Int64 // the largest that wall has been
	gatherer loaderGatherer[K, V]

	counts loaderCounts
	log    loaderLog
}

// loaderShard is a part of the keys. Its first fields are all that a hit
// touches, and fit into one cache line.
type loaderShard[K comparable, V any] struct {
	index loaderIndex[K, V]
	hits  atomic.Uint64 // fresh
	stale atomic.Uint64

	// mu protects what follows, and everything in index and policy but what
	// they say is atomic. No callback is called while it is held.
	mu      sync.Mutex
	policy  loaderPolicy[K, V]
	flights map[K]*loaderFlight[K, V] // loads whose result is to be kept
	storing map[K]*loaderFlight[K, V] // flights that have landed, and now write to the Store
	tagged  map[string]map[*loaderEntry[K, V]]struct{}
	evicted []*loaderEntry[K, V] // still to be told to OnEvict
	left    uint64               // evictions
	closed  bool

	_ [8]byte // fills the last of its four cache lines, so that shards share none
}

// NewLoader returns an empty Loader, or an error with a line for each field of
// cfg that is not valid.
func NewLoader[K comparable, V any](cfg LoaderConfig[K, V]) (*Loader[K, V], error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	l := &Loader[K, V]{
		cfg:     cfg,
		seed:    maphash.MakeSeed(),
		timeout: fmt.Errorf("cache: load did not end within LoadTimeout (%v): %w", cfg.LoadTimeout, context.DeadlineExceeded),
	}
	l.clock.init()
	l.closing, l.close = context.WithCancel(context.Background())
	if cfg.Store != nil {
		l.id = loaderID()
		l.tier = newLoaderTier(cfg.Store, cfg.StoreTimeout, &l.log, cfg.Name)
	}
	if cfg.MaxLoads > 0 {
		l.loads = semaphore.NewWeighted(int64(cfg.MaxLoads))
	}
	limit, n := cfg.MaxCost, 16
	if limit == 0 {
		// A shard of fewer entries would be a poor sample of what is asked for.
		limit = int64(cfg.MaxEntries)
		n = min(max(cfg.MaxEntries/256, 1), 128)
	}
	n = 1 << (bits.Len(uint(min(int64(n), limit))) - 1)
	l.shards = make([]loaderShard[K, V], n)
	l.shift = uint(64 - bits.TrailingZeros(uint(n)))
	for i := range l.shards {
		s := &l.shards[i]
		part := limit / int64(n)
		if int64(i) < limit%int64(n) {
			part++
		}
		s.index.init()
		s.flights = make(map[K]*loaderFlight[K, V])
		s.storing = make(map[K]*loaderFlight[K, V])
		s.policy.init(part, func(e *loaderEntry[K, V]) {
			s.forget(e)
			s.left++
			if cfg.OnEvict != nil && e.kind == loaderValue {
				s.evicted = append(s.evicted, e)
			}
		})
	}
	if l.tier != nil && l.tier.notifier != nil {
		l.running.Go(l.listen)
	}
	return l, nil
}

// MustNewLoader is like [NewLoader] but panics if cfg is not valid.
func MustNewLoader[K comparable, V any](cfg LoaderConfig[K, V]) *Loader[K, V] {
	l, err := NewLoader(cfg)
	if err != nil {
		panic(err)
	}
	return l
}

// Get returns the value of key: from memory, or else from the source. It
// returns the error of the load if that fails, an [ErrNotFound] if there is no
// such thing, or the error of ctx if ctx ends before the load does. The load
// then goes on, for others and for next time.
func (l *Loader[K, V]) Get(ctx context.Context, key K) (V, error) {
	hash := l.hash(key)
	s := l.shard(hash)
	e := s.index.find(hash, key)
	if e == nil {
		return l.miss(ctx, s, hash, key)
	}
	early := e.early.Load()
	fresh, now := l.clock.sure.Load() < early, int64(0)
	if !fresh {
		now = l.clock.read(early)
		fresh = now < early
	}
	if fresh {
		s.hits.Add(1)
		e.touch(s.policy.epoch.Load())
		return e.answer()
	}
	if now >= e.dies {
		return l.miss(ctx, s, hash, key)
	}
	if l.lateHit(s, e, now) {
		l.reload(ctx, s, e)
	}
	return e.answer()
}

// lateHit counts a hit on e, which is stale or will be soon, and reports whether
// e is to be reloaded.
func (l *Loader[K, V]) lateHit(s *loaderShard[K, V], e *loaderEntry[K, V], now int64) bool {
	if now >= e.expires {
		s.stale.Add(1)
	} else {
		s.hits.Add(1)
	}
	e.touch(s.policy.epoch.Load())
	return l.due(e, now)
}

func (l *Loader[K, V]) now() int64 { return l.clock.now() }

// due reports whether e, which can still be served, is to be reloaded.
func (l *Loader[K, V]) due(e *loaderEntry[K, V], now int64) bool {
	state := e.state.Load()
	if state&loaderReloading != 0 || now < e.retryAt.Load() {
		return false
	}
	return now >= e.expires || state&loaderUnsure != 0 || e.kind == loaderValue &&
		float64(e.expires-now) <= rand.ExpFloat64()*l.cfg.EarlyBeta*float64(e.took)*1000
}

// Close ends the contexts of the loads that are running, and waits for them to
// return. What is in memory can still be read. It always returns nil.
func (l *Loader[K, V]) Close() error {
	for i := range l.shards {
		// From here on no load starts, so that the WaitGroup doesn't grow while
		// it is waited for.
		s := &l.shards[i]
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
	}
	l.clock.close()
	l.close()
	l.running.Wait()
	return nil
}

func (l *Loader[K, V]) shard(hash uint64) *loaderShard[K, V] { return &l.shards[hash>>l.shift] }

func (l *Loader[K, V]) hash(key K) uint64 { return maphash.Comparable(l.seed, key) }

// unlock unlocks the shard and then tells OnEvict what had to leave.
func (l *Loader[K, V]) unlock(s *loaderShard[K, V]) {
	evicted := s.evicted
	s.evicted = nil
	s.mu.Unlock()
	for _, e := range evicted {
		l.guard(func() { l.cfg.OnEvict(e.key, e.value) })
	}
}

// guard calls a hook, which must not take the service down if it panics.
func (l *Loader[K, V]) guard(hook func()) {
	defer func() {
		if recover() != nil {
			l.counts.hookPanics.Add(1)
		}
	}()
	hook()
}
