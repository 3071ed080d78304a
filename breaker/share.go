package breaker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A Store shares openings among the processes of a fleet. Its methods are called
// by [Breaker.Run] alone, never in the path of a call, and with a context that
// ends after a second: Run waits for them, and ends no sooner than they do.
// breaker/redisbreaker has one for Redis.
type Store interface {
	// Announce makes o known until o.Until.
	Announce(ctx context.Context, o Opening) error

	// Openings returns the announcements for a Config.Name whose Until is still
	// ahead.
	Openings(ctx context.Context, name string) ([]Opening, error)
}

// An Opening says that one process has opened a circuit by its own judgement.
type Opening struct {
	Name  string    `json:"name"`          // Config.Name
	Key   string    `json:"key,omitempty"` // of the circuit
	By    string    `json:"by"`            // a name that the process has drawn for itself
	Until time.Time `json:"until"`
	Why   string    `json:"why"`
}

// Bounds of what is taken from and kept for the store.
const (
	maxQueued  = 1024
	maxLearned = 1024
)

type share struct {
	by     string
	wake   chan struct{}
	runs   atomic.Bool // Run is running
	errors atomic.Uint64

	mu      sync.Mutex // guards what follows; taken after any Breaker.mu
	queue   []Opening
	lastErr error // nil if the store answered last time
}

func (s *share) init() {
	s.by = rand.Text()
	s.wake = make(chan struct{}, 1)
}

// announce queues an opening for the store.
func (f *family) announce(key string, until time.Time, why string) {
	if f.cfg.Store == nil {
		return
	}
	s := &f.share
	s.mu.Lock()
	if len(s.queue) < maxQueued {
		s.queue = append(s.queue, Opening{Name: f.cfg.Name, Key: key, By: s.by, Until: until, Why: why})
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run shares openings with the fleet through Config.Store until ctx ends, and
// returns nil then. It announces what this process opens, and each SyncEvery it
// learns what Quorum others have opened: such a circuit opens here until they
// probe it, unless it is open already. What is forced is not shared, and no one
// announces what it has learned, nor what it would have opened in a dry run.
//
// Calls never wait for the store. While it fails, and without Run, every process
// decides for itself; that the store fails is one of the Conditions. Run
// returns an error at once if it is running already.
func (b *Breaker) Run(ctx context.Context) error {
	f := b.fam
	if !f.share.runs.CompareAndSwap(false, true) {
		return errors.New("breaker: Run: it is running already")
	}
	defer f.share.runs.Store(false)
	if f.cfg.Store == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(f.cfg.SyncEvery)
	defer tick.Stop()
	seen := make(map[seenOpening]time.Time)
	for {
		err := f.sync(ctx, seen)
		if ctx.Err() != nil {
			return nil
		}
		f.share.note(err)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-f.share.wake:
		}
	}
}

type seenOpening struct {
	key, by string
	until   int64
}

// sync announces what is queued and follows what is new.
func (f *family) sync(ctx context.Context, seen map[seenOpening]time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := f.announceQueued(ctx); err != nil {
		return err
	}
	return f.learn(ctx, seen)
}

// note remembers how the store has answered.
func (s *share) note(err error) {
	if err != nil {
		s.errors.Add(1)
	}
	s.mu.Lock()
	s.lastErr = err
	s.mu.Unlock()
}

func (f *family) announceQueued(ctx context.Context) error {
	s := &f.share
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.mu.Unlock()
			return nil
		}
		o := s.queue[0]
		s.mu.Unlock()
		if time.Now().Before(o.Until) {
			if err := guard(func() error { return f.cfg.Store.Announce(ctx, o) }); err != nil {
				return err
			}
		}
		s.mu.Lock()
		s.queue = s.queue[1:]
		s.mu.Unlock()
	}
}

// learn opens the circuits that a quorum of others has opened. An announcement
// counts while it lasts, and is followed once: a circuit that has closed again
// since is not opened by old news.
func (f *family) learn(ctx context.Context, seen map[seenOpening]time.Time) error {
	var list []Opening
	err := guard(func() (err error) {
		list, err = f.cfg.Store.Openings(ctx, f.cfg.Name)
		return err
	})
	if err != nil {
		return err
	}
	now := time.Now()
	for id, until := range seen {
		if !now.Before(until) {
			delete(seen, id)
		}
	}
	type news struct {
		by    map[string]bool
		fresh bool
		last  Opening
	}
	byKey := make(map[string]*news)
	for _, o := range list {
		if o.Name != f.cfg.Name || o.By == f.share.by || !now.Before(o.Until) || len(seen) >= maxLearned {
			continue
		}
		n := byKey[o.Key]
		if n == nil {
			n = &news{by: make(map[string]bool)}
			byKey[o.Key] = n
		}
		n.by[o.By] = true
		id := seenOpening{o.Key, o.By, o.Until.UnixNano()}
		if _, old := seen[id]; !old {
			seen[id] = o.Until
			n.fresh = true
		}
		if o.Until.After(n.last.Until) {
			n.last = o
		}
	}
	for key, n := range byKey {
		if n.fresh && len(n.by) >= f.cfg.Quorum {
			wait := min(n.last.Until.Sub(now), max(f.cfg.MaxOpen, f.cfg.MaxRetryAfter))
			f.root.For(key).follow(wait, peers(len(n.by))+" opened it: "+n.last.Why)
		}
	}
	return nil
}

// follow opens the circuit for a peer's reason, if it is closed.
func (b *Breaker) follow(wait time.Duration, why string) {
	b.mu.Lock()
	if b.cur.Load().state == Closed {
		now := b.fam.now()
		b.openLocked(now, why, opening{until: now + int64(wait)})
	}
	b.mu.Unlock()
	b.fam.deliver()
}

func peers(n int) string {
	if n == 1 {
		return "a peer"
	}
	return fmt.Sprintf("%d peers", n)
}

// guard turns a panic in the store into an error: it is the user's code, in a
// goroutine that nobody watches.
func guard(fn func() error) (err error) {
	defer func() {
		if e := recover(); e != nil {
			err = errors.Join(errStorePanicked, fmt.Errorf("%v", e))
		}
	}()
	return fn()
}

var errStorePanicked = errors.New("the store panicked")
