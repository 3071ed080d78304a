// Package redislimit hands a go-redis client to package ratelimit, so that
// many processes share one limit:
//
//	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
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
//
// Set ContextTimeoutEnabled in the client's options: a decision then needs no
// goroutine of its own to keep its deadline.
func New(prefix string, rdb redis.Scripter) ratelimit.Store {
	s := ratelimit.NewRedisStore(prefix, Eval(rdb))
	switch c := rdb.(type) {
	case *redis.Client:
		return store{s, c.Options().ContextTimeoutEnabled}
	case *redis.ClusterClient:
		return store{s, c.Options().ContextTimeoutEnabled}
	}
	return s
}

// A store knows whether its client heeds contexts.
type store struct {
	ratelimit.Store
	prompt bool
}

func (s store) HeedsContext() bool { return s.prompt }

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
