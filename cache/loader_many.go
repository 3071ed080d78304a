package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// GetMany returns the values of the keys: from memory, from loads that are
// running already, and the rest through LoadMany, in as few calls as MaxBatch
// allows. A key that is not found is not in the map.
//
// If some of the keys can't be loaded, the map holds the others, and the error
// says how many and is what the first of them failed with. If ctx ends, the map
// holds what was there by then, and the error is that of ctx.
func (l *Loader[K, V]) GetMany(ctx context.Context, keys []K) (map[K]V, error) {
	found := make(map[K]V, len(keys))
	var failed int
	var first error
	put := func(key K, value V, err error) {
		switch {
		case err == nil:
			found[key] = value
		case !errors.Is(err, ErrNotFound):
			if failed++; failed == 1 {
				first = err
			}
		}
	}
	var waiting, mine []*loaderFlight[K, V]
	for _, key := range keys {
		hash := l.hash(key)
		s := l.shard(hash)
		e := s.index.find(hash, key)
		if now := l.now(); e != nil && now < e.dies {
			if now < e.early.Load() {
				s.hits.Add(1)
				e.touch(s.policy.epoch.Load())
			} else if l.lateHit(s, e, now) {
				if f := l.boardReload(ctx, s, e); f != nil {
					mine = append(mine, f)
				}
			}
			value, err := e.answer()
			put(key, value, err)
			continue
		}
		e, f, my := l.board(ctx, s, hash, key)
		switch {
		case e != nil:
			value, err := e.answer()
			put(key, value, err)
		case f == nil:
			put(key, *new(V), ErrClosed)
		default:
			waiting = append(waiting, f)
			if my {
				mine = append(mine, f)
			}
		}
	}
	l.launchMany(mine)
	for _, f := range waiting {
		value, err := l.wait(ctx, f)
		if err != nil && ctx.Err() != nil {
			return found, ctx.Err()
		}
		put(f.key, value, err)
	}
	if failed > 0 {
		return found, fmt.Errorf("cache: %d of %d keys could not be loaded, the first with: %w", failed, len(keys), first)
	}
	return found, nil
}

// launchMany starts the loads of flights that GetMany has boarded.
func (l *Loader[K, V]) launchMany(flights []*loaderFlight[K, V]) {
	if l.cfg.LoadMany == nil {
		for _, f := range flights {
			go l.run(f)
		}
		return
	}
	for len(flights) > 0 {
		n := min(len(flights), l.cfg.MaxBatch)
		go l.runMany(flights[:n:n])
		flights = flights[n:]
	}
}

// loaderGatherer holds the flights that wait for others to go with.
type loaderGatherer[K comparable, V any] struct {
	mu      sync.Mutex
	waiting []*loaderFlight[K, V]
	timer   *time.Timer
}

// gather puts f into the next batch, which leaves when it is full or when the
// first of it has waited for Gather.
func (l *Loader[K, V]) gather(f *loaderFlight[K, V]) {
	g := &l.gatherer
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, f)
	switch {
	case len(g.waiting) >= l.cfg.MaxBatch:
		l.departLocked()
	case len(g.waiting) == 1:
		g.timer = time.AfterFunc(l.cfg.Gather, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			// A batch that was full may have left with f, and another one be
			// waiting whose time hasn't come.
			if len(g.waiting) > 0 && g.waiting[0] == f {
				l.departLocked()
			}
		})
	}
}

func (l *Loader[K, V]) departLocked() {
	g := &l.gatherer
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	go l.runMany(g.waiting)
	g.waiting = nil
}

// loaderCalls bounds the calls of the Store that one batch makes at a time.
const loaderCalls = 16

// runMany loads the keys of all flights with one call of LoadMany, and lands
// them. With a Store, those that it has need no loading; the others are locked
// one by one, and a key that another process loads already is left to it.
func (l *Loader[K, V]) runMany(flights []*loaderFlight[K, V]) {
	defer l.running.Add(-len(flights))
	var open []*loaderFlight[K, V] // to be loaded here
	var unlocks []func()
	if l.tier == nil {
		open = flights
	} else {
		open, unlocks = l.lookUpMany(flights)
	}
	if len(open) == 0 {
		return
	}
	results := make([]loaderResult[K, V], len(open))
	for i := range results {
		results[i].err = loaderExited{}
	}
	defer func() { // also when LoadMany ends the goroutine
		for i, f := range open {
			l.land(f, &results[i])
		}
		var group errgroup.Group
		group.SetLimit(loaderCalls)
		for i, f := range open {
			group.Go(func() error {
				l.store(f, &results[i])
				if unlocks != nil {
					unlocks[i]()
				}
				return nil
			})
		}
		_ = group.Wait()
	}()
	// One call needs one place; reloads that have one give it back.
	for _, f := range open[1:] {
		l.leave(f)
	}
	if err := l.enter(open[0]); err != nil {
		for i := range results {
			results[i].err = err
		}
		return
	}
	defer l.leave(open[0])
	l.callMany(open, results)
}

// callMany calls LoadMany, like call.
func (l *Loader[K, V]) callMany(flights []*loaderFlight[K, V], results []loaderResult[K, V]) {
	ctx, cancel := l.detach(flights[0].ctx)
	defer cancel()
	keys := make([]K, len(flights))
	for i, f := range flights {
		keys[i] = f.key
	}
	born := l.now()
	defer func() {
		took := time.Duration(l.now() - born)
		p := recover()
		for i := range results {
			if p != nil {
				results[i] = loaderResult[K, V]{err: l.panicked(p)}
			}
			results[i].took = took
		}
	}()
	values, err := l.cfg.LoadMany(ctx, keys)
	for i, f := range flights {
		value, ok := values[f.key]
		switch {
		case ok:
			l.judge(f, &results[i], value, nil, born)
		case err != nil:
			l.judge(f, &results[i], value, err, born)
		default:
			l.judge(f, &results[i], value, ErrNotFound, born)
		}
	}
}

// lookUpMany looks all flights up in the Store, lands those that are found
// there, and returns the others with what unlocks them. A flight whose key
// another process is loading waits for that on its own.
func (l *Loader[K, V]) lookUpMany(flights []*loaderFlight[K, V]) (open []*loaderFlight[K, V], unlocks []func()) {
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(loaderCalls)
	for _, f := range flights {
		group.Go(func() error {
			var r loaderResult[K, V]
			unlock, taken := l.tryLookUp(f, &r)
			switch {
			case r.shared:
				l.leave(f)
				l.land(f, &r)
			case taken:
				l.running.Add(1)
				go l.run(f) // waits its turn
			default:
				mu.Lock()
				defer mu.Unlock()
				open, unlocks = append(open, f), append(unlocks, unlock)
			}
			return nil
		})
	}
	_ = group.Wait()
	return open, unlocks
}
