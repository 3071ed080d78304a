package cache_test

import (
	"context"
	"math/rand"
	"strconv"
	"testing"
	"time"

	"github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/jellydator/ttlcache/v3"
	"github.com/maypok86/otter/v2"

	"github.com/go-spillway/spillway/cache"
)

var loaderPayload = make([]byte, 64)

// loaderRival is a cache under comparison, as its users call it: Get, and Set
// on a miss unless set is nil.
type loaderRival struct {
	name string
	get  func(key string) ([]byte, bool)
	set  func(key string, value []byte)
	stop func()
}

// loaderRivals returns all of them, empty. Every one that can do so lets its
// entries expire after an hour.
func loaderRivals(tb testing.TB, capacity int) []loaderRival {
	must := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	ctx := context.Background()
	nothing := func() {}

	missed := false // one Get at a time, or all of them hits
	spillway := cache.MustNewLoader(cache.LoaderConfig[string, []byte]{
		Load: func(context.Context, string) ([]byte, error) {
			missed = true
			return loaderPayload, nil
		},
		TTL:        time.Hour,
		MaxEntries: capacity,
	})
	ot := otter.Must(&otter.Options[string, []byte]{
		MaximumSize:      capacity,
		ExpiryCalculator: otter.ExpiryWriting[string, []byte](time.Hour),
	})
	plain, err := lru.New[string, []byte](capacity)
	must(err)
	twoQ, err := lru.New2Q[string, []byte](capacity)
	must(err)
	exp := expirable.NewLRU[string, []byte](capacity, nil, time.Hour)
	ttl := ttlcache.New(
		ttlcache.WithCapacity[string, []byte](uint64(capacity)),
		ttlcache.WithTTL[string, []byte](time.Hour),
		ttlcache.WithDisableTouchOnHit[string, []byte](),
	)
	ris, err := ristretto.NewCache(&ristretto.Config[string, []byte]{
		NumCounters: int64(10 * capacity), MaxCost: int64(capacity), BufferItems: 64, IgnoreInternalCost: true,
	})
	must(err)
	th, err := theine.NewBuilder[string, []byte](int64(capacity)).Build()
	must(err)

	return []loaderRival{
		{"spillway", func(k string) ([]byte, bool) {
			v, _ := spillway.Get(ctx, k)
			if missed { // and loaded, as is its way; the others are given it by Set
				missed = false
				return nil, false
			}
			return v, true
		}, nil, func() { spillway.Close() }},
		{"otter", ot.GetIfPresent, func(k string, v []byte) { ot.Set(k, v) }, func() { ot.StopAllGoroutines() }},
		{"golang-lru", plain.Get, func(k string, v []byte) { plain.Add(k, v) }, nothing},
		{"golang-lru-2q", twoQ.Get, twoQ.Add, nothing},
		{"expirable", exp.Get, func(k string, v []byte) { exp.Add(k, v) }, nothing},
		{"ttlcache", func(k string) ([]byte, bool) {
			item := ttl.Get(k)
			if item == nil {
				return nil, false
			}
			return item.Value(), true
		}, func(k string, v []byte) { ttl.Set(k, v, ttlcache.DefaultTTL) }, nothing},
		{"ristretto", ris.Get, func(k string, v []byte) { ris.SetWithTTL(k, v, 1, time.Hour) }, ris.Close},
		{"theine", th.Get, func(k string, v []byte) { th.SetWithTTL(k, v, 1, time.Hour) }, th.Close},
	}
}

// loaderKeys returns n keys as Zipf draws them.
func loaderKeys(n int, among uint64) []string {
	names := make([]string, among)
	for i := range names {
		names[i] = "product:" + strconv.Itoa(i)
	}
	zipf := rand.NewZipf(rand.New(rand.NewSource(1)), 1.01, 1, among-1)
	keys := make([]string, n)
	for i := range keys {
		keys[i] = names[zipf.Uint64()]
	}
	return keys
}
