package cache_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
)

// loaderStore is a Store in memory that can lock, tell, fail, hang and forget.
type loaderStore struct {
	mu     sync.Mutex
	values map[string][]byte
	locks  map[string]int
	locked int
	subs   map[int]chan []byte
	nsubs  int

	fail error         // every call fails
	hang bool          // every call waits for its context
	lag  time.Duration // messages are so long under way
	deaf chan struct{} // every call waits for it, whatever its context says
	slow time.Duration // every Set, Delete and Lock takes so long
	gets atomic.Int64
}

func newLoaderStore() *loaderStore {
	return &loaderStore{values: map[string][]byte{}, locks: map[string]int{}, subs: map[int]chan []byte{}}
}

func (s *loaderStore) ill(ctx context.Context) error {
	s.mu.Lock()
	fail, hang, deaf := s.fail, s.hang, s.deaf
	s.mu.Unlock()
	if deaf != nil {
		<-deaf
	}
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return fail
}

func (s *loaderStore) sleep() {
	s.mu.Lock()
	slow := s.slow
	s.mu.Unlock()
	time.Sleep(slow)
}

func (s *loaderStore) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *loaderStore) Get(ctx context.Context, key string) ([]byte, error) {
	s.gets.Add(1)
	if err := s.ill(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[key], nil
}

func (s *loaderStore) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := s.ill(ctx); err != nil {
		return err
	}
	s.sleep()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key] = bytes.Clone(value)
	time.AfterFunc(ttl, func() { // like the real ones, it keeps nothing past its ttl
		s.mu.Lock()
		defer s.mu.Unlock()
		if bytes.Equal(s.values[key], value) {
			delete(s.values, key)
		}
	})
	return nil
}

func (s *loaderStore) Delete(ctx context.Context, key string) error {
	if err := s.ill(ctx); err != nil {
		return err
	}
	s.sleep()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
	return nil
}

func (s *loaderStore) Lock(ctx context.Context, key string, ttl time.Duration) (func(context.Context) error, error) {
	if err := s.ill(ctx); err != nil {
		return nil, err
	}
	s.sleep()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[key] != 0 {
		return nil, nil
	}
	s.locked++
	token := s.locked
	s.locks[key] = token
	free := func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.locks[key] == token {
			delete(s.locks, key)
		}
		return nil
	}
	time.AfterFunc(ttl, func() { _ = free(nil) })
	return free, nil
}

func (s *loaderStore) Publish(ctx context.Context, message []byte) error {
	if err := s.ill(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	time.AfterFunc(s.lag, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, sub := range s.subs {
			sub <- message
		}
	})
	return nil
}

func (s *loaderStore) Subscribe(ctx context.Context, receive func([]byte)) error {
	messages := make(chan []byte, 100)
	s.mu.Lock()
	s.nsubs++
	id := s.nsubs
	s.subs[id] = messages
	s.mu.Unlock()
	receive(nil)
	for {
		select {
		case m := <-messages:
			if m == nil {
				return errors.New("connection lost")
			}
			receive(m)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// cut ends all subscriptions.
func (s *loaderStore) cut() {
	s.set(func() {
		for id, sub := range s.subs {
			delete(s.subs, id)
			sub <- nil
		}
	})
}

// loaderPlain hides what a loaderStore can do besides.
type loaderPlain struct{ cache.Store }

// loaderFleet runs f with n Loaders on one Store in a bubble.
func loaderFleet(t *testing.T, n int, plain bool, src *loaderSource, cfg cache.LoaderConfig[string, string], f func(t *testing.T, store *loaderStore, fleet []*cache.Loader[string, string])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		store := newLoaderStore()
		cfg := cfg
		cfg.Store = store
		cfg.Name = cmp.Or(cfg.Name, "default")
		if plain {
			cfg.Store = loaderPlain{store}
		}
		cfg.Load = src.load
		if cfg.EarlyBeta == 0 {
			cfg.EarlyBeta = -1
		}
		cfg.Jitter = -1
		var fleet []*cache.Loader[string, string]
		for range n {
			l := cache.MustNewLoader(cfg)
			defer l.Close()
			fleet = append(fleet, l)
		}
		synctest.Wait() // until they listen
		f(t, store, fleet)
	})
}
