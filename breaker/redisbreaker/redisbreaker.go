// Package redisbreaker shares the openings of package breaker through Redis, so
// that a fleet stops calling what one of its processes has found failing.
//
//	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
//	b := breaker.MustNew(breaker.Config{Name: "inventory", Store: redisbreaker.New(rdb, "")})
//	go b.Run(ctx)
//
// Each breaker name is one sorted set, of announcements by their end. An
// announcement is one round trip, and so is asking, once each
// breaker.Config.SyncEvery and process; calls never wait for either. When Redis
// is away every process decides for itself. The processes' clocks should agree
// to about a second.
//
// Set ContextTimeoutEnabled in the client's options: a Redis that hangs is then
// noticed within a second, and Run ends within one. Else both take as long as
// the client's own timeouts say.
package redisbreaker

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-spillway/spillway/breaker"
)

// maxOpenings bounds the announcements that are kept and read for one name.
const maxOpenings = 1024

// A Store is a breaker.Store in Redis. It is safe for concurrent use.
type Store struct {
	rdb    redis.UniversalClient
	prefix string
}

var _ breaker.Store = (*Store)(nil)

// New returns a Store that keeps its sets under prefix and a breaker's name. An
// empty prefix means "spillway:breaker:". The client remains the caller's, to
// configure and to close.
func New(rdb redis.UniversalClient, prefix string) *Store {
	if prefix == "" {
		prefix = "spillway:breaker:"
	}
	return &Store{rdb: rdb, prefix: prefix}
}

// announce adds one opening, drops those that are over and those too many (the
// ones that end first), and lets the set expire with its last.
var announce = redis.NewScript(`
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[4]))
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[2] then redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', last[2])) end
return 1`)

// Announce implements breaker.Store.
func (s *Store) Announce(ctx context.Context, o breaker.Opening) error {
	member, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("redisbreaker: %w", err)
	}
	err = announce.Run(ctx, s.rdb, []string{s.prefix + o.Name},
		o.Until.UnixMilli(), member, time.Now().UnixMilli(), maxOpenings).Err()
	if err != nil {
		return fmt.Errorf("redisbreaker: announce: %w", err)
	}
	return nil
}

// Openings implements breaker.Store. What it can't read it leaves out.
func (s *Store) Openings(ctx context.Context, name string) ([]breaker.Opening, error) {
	members, err := s.rdb.ZRevRangeByScore(ctx, s.prefix+name, &redis.ZRangeBy{
		Min:   "(" + strconv.FormatInt(time.Now().UnixMilli(), 10),
		Max:   "+inf",
		Count: maxOpenings,
	}).Result()
	if err != nil {
		return nil, fmt.Errorf("redisbreaker: openings: %w", err)
	}
	list := make([]breaker.Opening, 0, len(members))
	for _, m := range members {
		var o breaker.Opening
		if json.Unmarshal([]byte(m), &o) == nil {
			list = append(list, o)
		}
	}
	return list, nil
}
