// Package redislimit hands a go-redis client to package ratelimit, so that
// many processes share one limit:
//
//	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
//	lim := ratelimit.MustNew(ratelimit.Config{
//		Rate:  ratelimit.PerMinute(100),
//		Store: redislimit.New("api:", rdb),
//	})
//
// It is a module of its own, so that who does not use Redis does not download
// a client for it.
package redislimit

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/go-spillway/spillway/ratelimit"
)

// New returns a store that keeps its buckets in Redis under keys that start
// with prefix. See [ratelimit.NewRedisStore].
func New(prefix string, rdb redis.Scripter) ratelimit.Store {
	return ratelimit.NewRedisStore(prefix, Eval(rdb))
}

// Eval returns a function that runs scripts on rdb by their hash, and sends
// their text only when the server does not have it: after a restart, or to a
// new node of a cluster. It is safe for concurrent use.
func Eval(rdb redis.Scripter) ratelimit.EvalFunc {
	var scripts sync.Map // from text to *redis.Script, which knows the hash
	return func(ctx context.Context, script string, keys []string, args ...any) (any, error) {
		s, ok := scripts.Load(script)
		if !ok {
			s, _ = scripts.LoadOrStore(script, redis.NewScript(script))
		}
		return s.(*redis.Script).Run(ctx, rdb, keys, args...).Result()
	}
}
