package rediscache_test

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/cache/rediscache"
)

func ExampleNew() {
	rdb := redis.NewClient(&redis.Options{
		Addr:                  "localhost:6379",
		ContextTimeoutEnabled: true,
	})
	defer rdb.Close()

	prices := cache.MustNewLoader(cache.LoaderConfig[string, int]{
		Name:     "prices",
		Load:     func(ctx context.Context, sku string) (int, error) { return 42, nil },
		TTL:      time.Minute,
		StaleFor: 10 * time.Minute,
		Store:    rediscache.New("shop:", rdb),
	})
	defer prices.Close()

	_, _ = prices.Get(context.Background(), "sku-42") // asks memory, Redis, then Load
}
