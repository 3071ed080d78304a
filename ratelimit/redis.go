package ratelimit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/bits"
	"time"
)

// An EvalFunc runs a Lua script on a Redis server and returns its reply: how a
// Redis client is handed to [NewRedisStore]. With go-redis it is
//
//	func(ctx context.Context, script string, keys []string, args ...any) (any, error) {
//		return rdb.Eval(ctx, script, keys, args...).Result()
//	}
//
// or, saving the server the reading of the script each time, EVALSHA first.
// There are two scripts, which never change while a program runs. The
// reply must be a []any of int64. Package redislimit has it ready for go-redis.
type EvalFunc func(ctx context.Context, script string, keys []string, args ...any) (any, error)

// NewRedisStore returns a Store that keeps its buckets in Redis 5 or later, or
// in what speaks like it, under keys that start with prefix. A decision is
// one round trip, and the time is the server's. Each bucket is one string
// of about 16 bytes that expires when it is full again.
//
// The buckets of one key are in one slot of a cluster. A limiter with
// Config.Groups asks for several keys at once, which a cluster refuses.
//
// NewRedisStore panics if eval is nil.
func NewRedisStore(prefix string, eval EvalFunc) Store {
	if eval == nil {
		panic("ratelimit: NewRedisStore: eval is nil, must run a script")
	}
	return &redisStore{prefix, eval}
}

type redisStore struct {
	prefix string
	eval   EvalFunc
}

// The scripts count time in eighths of a microsecond since the start of 2026,
// so that until 2061 all sums are whole numbers in Lua's doubles. KEYS[i] holds
// the time at which the bucket is full. They reply with how many tokens were
// taken, and then each bucket's debt.
const clock = `
local t = redis.call('TIME')
local now = (t[1] - 1767225600) * 8000000 + t[2] * 8
local full = {}
for i = 1, #KEYS do
  full[i] = math.max(tonumber(redis.call('GET', KEYS[i]) or 0), now)
end
`

// takeScript takes at least ARGV[1] and at most ARGV[2] tokens, and beyond the
// least no more than half of what is there, so that one process cannot lease
// it all. For each bucket follow what the least costs, what one costs, and
// how far the bucket may run ahead.
const takeScript = clock + `
local least, take = tonumber(ARGV[1]), tonumber(ARGV[2])
for i = 1, #KEYS do
  local room = ARGV[3*i+2] - (full[i] - now)
  if room < tonumber(ARGV[3*i]) then take = 0 break end
  if take > least then
    take = math.min(take, math.max(least, math.floor(room / ARGV[3*i+1] / 2)))
  end
end
local reply = {take}
for i = 1, #KEYS do
  if take > 0 then
    local cost = tonumber(ARGV[3*i])
    if take > least then cost = math.ceil(ARGV[3*i+1] * take) end
    full[i] = full[i] + cost
    redis.call('SET', KEYS[i], string.format('%.0f', full[i]), 'PX', math.ceil((full[i] - now) / 8000))
  end
  reply[i+1] = full[i] - now
end
return reply`

// chargeScript adds ARGV[i] to the debt of each bucket, which stays within two
// years. It writes even if that changes nothing: a server that answers but takes
// no writes, such as one that has become a replica, must not pass for one that
// answers again.
const chargeScript = clock + `
local reply = {0}
for i = 1, #KEYS do
  full[i] = math.min(math.max(full[i] + ARGV[i], now), now + 504576000000000)
  redis.call('SET', KEYS[i], string.format('%.0f', full[i]), 'PX', math.max(1, math.ceil((full[i] - now) / 8000)))
  reply[i+1] = full[i] - now
end
return reply`

const (
	eighth     = 125 * time.Nanosecond
	maxEighths = 2 * year / eighth // as in chargeScript
)

// eighths returns the time that n tokens take to come back, rounded up.
func eighths(r Rate, n int) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(r.Per))
	unit := uint64(r.Requests)
	if hi >= unit {
		return int64(maxEighths)
	}
	q, rem := bits.Div64(hi, lo, unit) // nanoseconds
	if rem > 0 {
		q++
	}
	return int64(min((q+uint64(eighth)-1)/uint64(eighth), uint64(maxEighths)))
}

func (s *redisStore) Take(ctx context.Context, buckets []Bucket, least, most int) (int, []time.Duration, error) {
	args := make([]any, 2, 2+3*len(buckets))
	args[0], args[1] = least, most
	for _, b := range buckets {
		each := float64(b.Rate.Per) / float64(b.Rate.Requests) / float64(eighth)
		args = append(args, eighths(b.Rate, least), each, eighths(b.Rate, b.Rate.Burst))
	}
	return s.run(ctx, takeScript, buckets, args)
}

func (s *redisStore) Charge(ctx context.Context, buckets []Bucket, n int) ([]time.Duration, error) {
	args := make([]any, len(buckets))
	for i, b := range buckets {
		if n >= 0 {
			args[i] = eighths(b.Rate, n)
		} else {
			args[i] = -eighths(b.Rate, -max(n, -1<<62))
		}
	}
	_, debts, err := s.run(ctx, chargeScript, buckets, args)
	return debts, err
}

func (s *redisStore) run(ctx context.Context, script string, buckets []Bucket, args []any) (int, []time.Duration, error) {
	keys := make([]string, len(buckets))
	for i, b := range buckets {
		keys[i] = s.key(b)
	}
	answer, err := s.eval(ctx, script, keys, args...)
	if err != nil {
		return 0, nil, fmt.Errorf("ratelimit: redis: %w", err)
	}
	reply, ok := answer.([]any)
	if !ok || len(reply) != 1+len(buckets) {
		return 0, nil, fmt.Errorf("ratelimit: redis: unexpected reply %v", answer)
	}
	debts := make([]time.Duration, len(buckets))
	taken, ok := reply[0].(int64)
	for i := range debts {
		debt, isInt := reply[1+i].(int64)
		ok = ok && isInt
		debts[i] = time.Duration(max(0, min(debt, int64(maxEighths)))) * eighth
	}
	if !ok {
		return 0, nil, fmt.Errorf("ratelimit: redis: unexpected reply %v", answer)
	}
	return int(taken), debts, nil
}

// key names the bucket in Redis. What stands in braces chooses the slot of a
// cluster: one that begins with a brace would end there, and leave each policy
// to a slot of its own. A long key is hashed, so that nobody fills the server
// with them.
func (s *redisStore) key(b Bucket) string {
	key := b.Key
	if key == "" {
		key = " " // which no header field can hold; empty braces choose no slot
	}
	if len(key) > 64 || key[0] == '}' {
		sum := sha256.Sum256([]byte(key))
		key = "sha256-" + hex.EncodeToString(sum[:])
	}
	return s.prefix + "{" + key + "}:" + b.Policy
}
