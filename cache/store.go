package cache

import (
	"context"
	"time"
)

// A Store is a second tier that keeps values as bytes, for example in Redis,
// so that a fleet of processes shares them. It must be safe for concurrent
// use.
//
// A Store may be slow, empty, down or wrong: an entry carries its own version
// and checksum, every call has a deadline, and an error counts as a miss. So
// losing a Store costs hits, never availability.
type Store interface {
	// Get returns the value of key, or nil if there is none. The caller must
	// not change the value.
	Get(ctx context.Context, key string) ([]byte, error)

	// Set keeps value under key for no longer than ttl, which is positive. It
	// must not retain value after it has returned.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Delete forgets key. It is not an error if there is no such key.
	Delete(ctx context.Context, key string) error
}
