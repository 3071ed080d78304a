package cache

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"time"
)

// A Notifier is a [Store] that can tell the other processes what was deleted.
// See rediscache.
type Notifier interface {
	// Publish sends message to all that have subscribed, to the sender too.
	Publish(ctx context.Context, message []byte) error

	// Subscribe calls receive for each message, one at a time, until ctx ends
	// or the connection is lost; it then returns an error. It calls receive
	// with nil once it is subscribed: messages up to then may be lost.
	Subscribe(ctx context.Context, receive func(message []byte)) error
}

// loaderMessage tells the other processes what to forget.
type loaderMessage struct {
	Loader string   `json:"loader"`         // its Name
	From   string   `json:"from"`           // who sent it, to ignore its own
	Keys   [][]byte `json:"keys,omitempty"` // as loaderKeys writes them, which need not be UTF-8
	Tags   []string `json:"tags,omitempty"`
}

func (l *Loader[K, V]) publish(ctx context.Context, m loaderMessage, keys ...K) error {
	if l.tier.notifier == nil {
		return nil
	}
	m.Loader, m.From = l.cfg.Name, l.id
	for _, key := range keys {
		if text, err := l.keys.encode(key); err == nil {
			m.Keys = append(m.Keys, []byte(text))
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return l.tier.do(ctx, func(ctx context.Context) error { return l.tier.notifier.Publish(ctx, data) })
}

// listen forgets what other processes say, until Close.
func (l *Loader[K, V]) listen() {
	first := true
	for pause := 100 * time.Millisecond; l.closing.Err() == nil; pause = min(2*pause, loaderStoreMaxRest) {
		l.guard(func() {
			_ = l.tier.notifier.Subscribe(l.closing, func(message []byte) {
				if message == nil {
					pause = 50 * time.Millisecond
					if !first {
						l.doubt()
					}
					first = false
					return
				}
				l.hear(message)
			})
		})
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-l.closing.Done():
		}
	}
}

// hear does what a message says. It may say anything.
func (l *Loader[K, V]) hear(message []byte) {
	var m loaderMessage
	if json.Unmarshal(message, &m) != nil || m.Loader != l.cfg.Name || m.From == l.id {
		return
	}
	for _, text := range m.Keys {
		if key, err := l.keys.decode(string(text)); err == nil {
			l.hearDeleted(key)
		}
	}
	if len(m.Tags) > 0 {
		l.dropTags(m.Tags)
	}
}

// loaderLag is how long a message may be under way.
const loaderLag = 2 * time.Second

// hearDeleted forgets key. If a load of it has ended here just now, it may have
// begun before the key was deleted and have written the old value to the Store
// after that: then it must go from there once more.
func (l *Loader[K, V]) hearDeleted(key K) {
	hash := l.hash(key)
	e := l.shard(hash).index.find(hash, key)
	l.drop([]K{key})
	if e == nil || l.now()-e.born-int64(e.took)*1000 > int64(loaderLag) {
		return
	}
	text, err := l.storeKey(key)
	if err != nil {
		return
	}
	data, err := loaderCall(l.closing, l.tier, func(ctx context.Context) ([]byte, error) { return l.tier.store.Get(ctx, text) })
	if err != nil {
		return
	}
	// What another process has set or loaded since differs in when and how long.
	there := l.unpack(key, hash, data)
	if there != nil && there.took == e.took && there.born-e.born < int64(time.Millisecond) {
		_ = l.unstore(l.closing, key)
	}
}

// doubt marks everything in memory: messages may have been lost. What is marked
// is still served, and looked up in the Store, or else reloaded, in the
// background when it is asked for next. So a Store that comes back doesn't send
// everybody to the source at once.
func (l *Loader[K, V]) doubt() {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for e := range s.index.all() {
			e.state.Or(loaderUnsure)
			e.early.Store(0)
		}
		s.mu.Unlock()
	}
}

func loaderID() string { return strconv.FormatUint(rand.Uint64(), 36) }
