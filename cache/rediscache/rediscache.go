// Package rediscache is a second tier for package cache in Redis, shared by all
// processes that use the same Redis and the same prefix:
//
//	rdb := redis.NewClient(&redis.Options{
//		Addr:                  "localhost:6379",
//		ContextTimeoutEnabled: true,
//	})
//	products := cache.MustNewLoader(cache.LoaderConfig[string, Product]{
//		Name:  "products",
//		Load:  store.Product,
//		Store: rediscache.New("shop:", rdb),
//	})
//
// With it a key is loaded once by the fleet, not once by each process (a lock
// is SET NX PX with a token), and what one process deletes leaves the memory of
// the others (by PUBLISH). Redis may die, hang or be flushed: then each process
// goes on by itself.
//
// It is a module of its own, so that who does not use Redis does not download
// a client for it.
package rediscache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-spillway/spillway/cache"
)

// A Store keeps values in Redis. It is a [cache.Store], a [cache.Locker] and a
// [cache.Notifier], and safe for concurrent use.
type Store struct {
	rdb    redis.UniversalClient
	prefix string
}

var (
	_ cache.Store    = (*Store)(nil)
	_ cache.Locker   = (*Store)(nil)
	_ cache.Notifier = (*Store)(nil)
)

// New returns a Store whose keys, and the channel for its messages, start with
// prefix. Set ContextTimeoutEnabled in the client's options: without it go-redis
// pays no heed to deadlines, and a call to a Redis that hangs keeps a goroutine
// for as long as the client's own timeouts and retries take.
func New(prefix string, rdb redis.UniversalClient) *Store {
	return &Store{rdb: rdb, prefix: prefix}
}

// Get returns the value of key, or nil if there is none.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	value, err := s.rdb.Get(ctx, s.prefix+key).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return value, err
}

// Set keeps value for ttl. Redis counts in milliseconds: less than one is one.
func (s *Store) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return s.rdb.Set(ctx, s.prefix+key, value, max(ttl, time.Millisecond)).Err()
}

// Delete forgets key.
func (s *Store) Delete(ctx context.Context, key string) error {
	return s.rdb.Del(ctx, s.prefix+key).Err()
}

// unlock deletes a lock only if it still has the token of who took it: it may
// have run out since, and be somebody else's.
var unlock = redis.NewScript(`if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end return 0`)

// Lock takes the lock of key for at most ttl, and returns what gives it back,
// or nil if somebody else holds it. It is one instance's lock: when a replica
// takes over, two may hold it, which costs one more load.
func (s *Store) Lock(ctx context.Context, key string, ttl time.Duration) (func(context.Context) error, error) {
	name, token := s.prefix+"#lock:"+key, rand.Text()
	taken, err := s.rdb.SetNX(ctx, name, token, max(ttl, time.Millisecond)).Result()
	if err != nil || !taken {
		return nil, err
	}
	return func(ctx context.Context) error { return unlock.Run(ctx, s.rdb, []string{name}, token).Err() }, nil
}

func (s *Store) channel() string { return s.prefix + "#messages" }

// Publish sends message to all that have subscribed.
func (s *Store) Publish(ctx context.Context, message []byte) error {
	return s.rdb.Publish(ctx, s.channel(), message).Err()
}

// quiet is how long no message may come before the connection is tried.
const quiet = 5 * time.Second

// Subscribe calls receive for each message, until ctx ends or the connection is
// lost, and with nil once it is subscribed.
func (s *Store) Subscribe(ctx context.Context, receive func(message []byte)) error {
	sub := s.rdb.Subscribe(ctx, s.channel())
	defer sub.Close()
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })() // go-redis doesn't end a read when ctx does
	for asked := false; ; {
		message, err := sub.ReceiveTimeout(ctx, quiet)
		var netErr net.Error
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &netErr) && netErr.Timeout() && !asked:
			if err := sub.Ping(ctx); err != nil {
				return fmt.Errorf("rediscache: subscription: %w", err)
			}
			asked = true
			continue
		case err != nil:
			return fmt.Errorf("rediscache: subscription: %w", err)
		}
		asked = false
		switch m := message.(type) {
		case *redis.Subscription:
			receive(nil)
		case *redis.Message:
			receive([]byte(m.Payload))
		}
	}
}
