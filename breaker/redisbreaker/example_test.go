package redisbreaker_test

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/breaker/redisbreaker"
)

func Example() {
	ctx := context.Background()
	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
	b := breaker.MustNew(breaker.Config{
		Name:   "inventory",
		Store:  redisbreaker.New(rdb, ""),
		Quorum: 2, // follow when two others have opened the same circuit
	})
	go b.Run(ctx)
}
