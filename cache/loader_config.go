package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// LoaderConfig configures a [Loader]. Load or LoadMany is required. Every other
// zero field is its default.
type LoaderConfig[K comparable, V any] struct {
	// Name labels its metrics, and tells its keys from those of other Loaders
	// in the Store. Default "default"; with a Store it is required, without
	// ':' and '#'.
	Name string

	// Load asks the source for the value of key. It runs on a goroutine of its
	// own, once at a time for each key; only when the key is invalidated
	// meanwhile, it is called anew for those who ask after that. Its context
	// has the values of the caller that started it, but not its deadline or
	// cancellation: other callers may be waiting too. It ends after LoadTimeout
	// and on Close.
	//
	// All callers are given the same value; they must not change what it
	// points to.
	Load func(ctx context.Context, key K) (V, error)

	// LoadMany asks the source for many keys at once, at most MaxBatch. A key
	// that isn't in the map it returns is not found or, if it returns an error,
	// has failed with that. [Loader.GetMany] uses it; without Load, Get does
	// too. Default: Load for each key.
	LoadMany func(ctx context.Context, keys []K) (map[K]V, error)

	// MaxBatch bounds the keys of one LoadMany. Default 100.
	MaxBatch int

	// Gather is how long a Get that misses waits for others, to be loaded
	// together by one LoadMany. A full batch goes at once. Default 0, not at
	// all.
	Gather time.Duration

	// TTL is how long an answer is fresh. Default 1 minute; negative means for
	// ever.
	TTL time.Duration

	// TTLOf, if set, says it for each value. Zero means TTL; negative means
	// that the value is given to those who wait for it and not kept.
	TTLOf func(key K, value V) time.Duration

	// Jitter shortens every time to live by a random part of it, at most this
	// fraction, so that what was loaded together doesn't expire together.
	// Default 0.1; negative means off; less than 1.
	Jitter float64

	// StaleFor is how long after its freshness a value is still served: at
	// once, while one reload runs in the background, and as long as reloads
	// fail. Default 0, not at all.
	StaleFor time.Duration

	// EarlyBeta spreads reloads out before the expiry. Each Get of a fresh
	// value reloads it in the background with a probability that grows as the
	// expiry comes near, the sooner the longer the load takes: when
	// now - took * EarlyBeta * ln(rand) is past the expiry. A hot key is then
	// reloaded before it expires, by one process of many; a cold one isn't.
	// This is XFetch (Vattani, Chierichetti and Lowenstein, Optimal
	// Probabilistic Cache Stampede Prevention, VLDB 2015). Default 1, which
	// the paper shows to be optimal; larger is earlier; negative means off.
	EarlyBeta float64

	// NotFound reports whether an error of a load is an answer: there is no
	// such thing. [ErrNotFound] always is. With database/sql, let it be
	// errors.Is(err, sql.ErrNoRows).
	NotFound func(err error) bool

	// NotFoundTTL is how long that answer is kept. Default a tenth of TTL, at
	// most 5 seconds; negative means not at all.
	NotFoundTTL time.Duration

	// ErrorTTL is how long any other error is kept, so that a source that is
	// down isn't asked again by every Get. It doubles with every further
	// failure of the same key, up to 32 times. Default 0: errors are not kept.
	// A stale value is reloaded no sooner than ErrorTTL after a failure, or 1
	// second if it is 0, doubling in the same way.
	ErrorTTL time.Duration

	// LoadTimeout ends the context of a load, and the wait for it. Default 30
	// seconds; negative means never.
	LoadTimeout time.Duration

	// MaxLoads bounds how many loads run at once. More of them wait, within
	// their LoadTimeout; a reload in the background is then put off while its
	// old value can be served. Default 0, unbounded.
	MaxLoads int

	// MaxEntries bounds the number of answers in memory, negative ones and
	// kept errors too. Default 10,000, unless MaxCost is set, which bounds
	// them instead.
	MaxEntries int

	// MaxCost bounds the sum of Cost over all answers in memory, in place of
	// MaxEntries. A value that costs more than a 16th of it may not be kept.
	MaxCost int64

	// Cost is the cost of one value, for example its size in bytes. Required
	// with MaxCost. Less than 1 counts as 1; so does an answer without a value.
	Cost func(key K, value V) int64

	// Tags are names under which a value can be deleted, together with others:
	// see [Loader.DeleteTags].
	Tags func(key K, value V) []string

	// Store, if set, is a second tier between the memory and the source, shared
	// by all processes whose Loader has the same Name. If it is a [Locker] too,
	// a key is loaded by one process at a time; if it is a [Notifier], what one
	// process deletes leaves the memory of all. A Store that fails or is slow is
	// left alone, for a second at first and then for up to two between tries of
	// one call each, and the Loader goes on without it; a call that pays no heed
	// to its deadline may keep a goroutine for longer. The clocks of the
	// processes should agree to a second: when one is set back, what it has put
	// into the Store before may outlive the tags that the others delete.
	Store Store

	// StoreTimeout bounds each call of the Store. Default 250 ms.
	StoreTimeout time.Duration

	// LockTTL is for how long one process may keep the others waiting for a key
	// that it loads, before they load it themselves. Default 5 seconds, at most
	// half of LoadTimeout.
	LockTTL time.Duration

	// Encode and Decode turn values into bytes for the Store and for snapshots,
	// and back; set both or none. Default: encoding/json.
	Encode func(V) ([]byte, error)
	Decode func([]byte) (V, error)

	// OnLoad is called after each load, by the goroutine that loaded.
	OnLoad func(LoadEvent[K])

	// OnEvict is called for each value that leaves memory because there is no
	// room, by the goroutine that made the room go.
	OnEvict func(key K, value V)
}

// A LoadEvent is one load that has ended.
type LoadEvent[K comparable] struct {
	Key    K
	Took   time.Duration
	Err    error // nil, or what the callers were given
	Reload bool  // in the background, while an old value was served
}

func (c *LoaderConfig[K, V]) check() error {
	var errs []error
	bad := func(field string, value any, rule string) {
		errs = append(errs, fmt.Errorf("cache: LoaderConfig.%s is %v, must %s", field, value, rule))
	}
	if c.Load == nil && c.LoadMany == nil {
		bad("Load", "nil", "say how a value is loaded")
	}
	if c.MaxBatch < 0 {
		bad("MaxBatch", c.MaxBatch, "not be negative")
	}
	if c.Gather < 0 {
		bad("Gather", c.Gather, "not be negative")
	}
	if c.Gather > 0 && c.LoadMany == nil {
		bad("LoadMany", "nil", "be set with Gather")
	}
	if c.StoreTimeout < 0 {
		bad("StoreTimeout", c.StoreTimeout, "not be negative")
	}
	if c.Store != nil && (c.Name == "" || strings.ContainsAny(c.Name, ":#")) {
		bad("Name", strconv.Quote(c.Name), "be set with Store, without ':' and '#'")
	}
	if c.LockTTL < 0 {
		bad("LockTTL", c.LockTTL, "not be negative")
	}
	if (c.Encode == nil) != (c.Decode == nil) {
		name, other := "Encode", "Decode"
		if c.Encode != nil {
			name, other = other, name
		}
		bad(name, "nil", "be set with "+other)
	}
	if !(c.Jitter < 1) {
		bad("Jitter", c.Jitter, "be less than 1")
	}
	if math.IsNaN(c.EarlyBeta) || math.IsInf(c.EarlyBeta, 0) {
		bad("EarlyBeta", c.EarlyBeta, "be a finite number")
	}
	if c.StaleFor < 0 {
		bad("StaleFor", c.StaleFor, "not be negative")
	}
	if c.ErrorTTL < 0 {
		bad("ErrorTTL", c.ErrorTTL, "not be negative")
	}
	if c.MaxLoads < 0 {
		bad("MaxLoads", c.MaxLoads, "not be negative")
	}
	if c.MaxEntries < 0 {
		bad("MaxEntries", c.MaxEntries, "not be negative")
	}
	if c.MaxCost < 0 {
		bad("MaxCost", c.MaxCost, "not be negative")
	}
	if c.MaxCost > 0 && c.Cost == nil {
		bad("Cost", "nil", "be set with MaxCost")
	}
	if c.Cost != nil && c.MaxCost == 0 {
		bad("MaxCost", 0, "be set with Cost")
	}
	if c.MaxCost > 0 && c.MaxEntries > 0 {
		bad("MaxEntries", c.MaxEntries, "not be set together with MaxCost")
	}
	return errors.Join(errs...)
}

func (c *LoaderConfig[K, V]) setDefaults() {
	loaderDefault(&c.Name, "default")
	loaderDefault(&c.TTL, time.Minute)
	loaderDefault(&c.Jitter, 0.1)
	loaderDefault(&c.EarlyBeta, 1)
	loaderDefault(&c.LoadTimeout, 30*time.Second)
	if c.NotFound == nil {
		c.NotFound = func(error) bool { return false }
	}
	if c.NotFoundTTL == 0 {
		c.NotFoundTTL = 5 * time.Second
		if c.TTL > 0 {
			c.NotFoundTTL = min(c.NotFoundTTL, c.TTL/10)
		}
	}
	if c.Load == nil {
		many := c.LoadMany
		c.Load = func(ctx context.Context, key K) (V, error) {
			values, err := many(ctx, []K{key})
			value, ok := values[key]
			switch {
			case ok:
				return value, nil
			case err != nil:
				return value, err
			default:
				return value, ErrNotFound
			}
		}
	}
	loaderDefault(&c.MaxBatch, 100)
	loaderDefault(&c.StoreTimeout, 250*time.Millisecond)
	loaderDefault(&c.LockTTL, 5*time.Second)
	if c.LoadTimeout > 0 {
		c.LockTTL = min(c.LockTTL, c.LoadTimeout/2)
	}
	if c.Encode == nil {
		c.Encode = func(value V) ([]byte, error) { return json.Marshal(value) }
		c.Decode = func(data []byte) (value V, err error) {
			err = json.Unmarshal(data, &value)
			return value, err
		}
	}
	if c.MaxCost == 0 {
		loaderDefault(&c.MaxEntries, 10_000)
	}
}

func loaderDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
