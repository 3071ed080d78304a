package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// mapStore is a Store that can be made to fail, hang or lie.
type mapStore struct {
	mu   sync.Mutex
	m    map[string][]byte
	gets int
	fail func(ctx context.Context) error
	lie  func(key string, value []byte) []byte
}

func newMapStore() *mapStore { return &mapStore{m: map[string][]byte{}} }

func (s *mapStore) trouble(ctx context.Context) error {
	s.mu.Lock()
	f := s.fail
	s.mu.Unlock()
	if f != nil {
		return f(ctx)
	}
	return nil
}

func (s *mapStore) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.trouble(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gets++
	v := s.m[key]
	if s.lie != nil {
		v = s.lie(key, v)
	}
	return v, nil
}

func (s *mapStore) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := s.trouble(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[key] = bytes.Clone(value)
	return nil
}

func (s *mapStore) Delete(ctx context.Context, key string) error {
	if err := s.trouble(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, key)
	return nil
}

// fleet returns n caches in front of o that share a store.
func fleet(s cache.Store, o http.Handler, n int) (caches []*cache.Cache, handlers []http.Handler) {
	for range n {
		c := cache.MustNew(cache.Config{Store: s})
		caches = append(caches, c)
		handlers = append(handlers, c.Handler(o))
	}
	return caches, handlers
}

func TestAFleetSharesItsStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin("Cache-Control", "max-age=60", "Vary", "Foo", "X", "1", "X", "2")
		_, h := fleet(newMapStore(), o, 2)
		get(h[0], page, "Foo", "1")
		synctest.Wait()
		time.Sleep(10 * time.Second)
		w := get(h[1], page, "Foo", "1")
		require.Equal(t, "body", w.Body.String())
		require.Equal(t, "10", w.Header().Get("Age"), "as old as it is")
		require.Equal(t, []string{"1", "2"}, w.Header()["X"])
		require.EqualValues(t, 1, o.calls.Load())
		get(h[1], page, "Foo", "2")
		require.EqualValues(t, 2, o.calls.Load(), "another variant")
		time.Sleep(51 * time.Second)
		get(h[1], page, "Foo", "1")
		require.EqualValues(t, 3, o.calls.Load(), "it is fresh no longer than it would be")
	})
}

func TestAPurgeReachesTheStore(t *testing.T) {
	for name, target := range map[string]cache.Target{
		"url": cache.URL(page), "prefix": cache.Prefix("http://example.com/"), "tag": cache.Tag("a"), "all": cache.All(),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin("Cache-Control", "max-age=60", "Cache-Tag", "a")
				c, h := fleet(newMapStore(), o, 2)
				get(h[0], page)
				synctest.Wait()
				time.Sleep(5 * time.Second)
				require.NoError(t, c[0].Purge(t.Context(), target))
				time.Sleep(5 * time.Second)
				get(h[1], page)
				require.EqualValues(t, 2, o.calls.Load(), "what a process fetched before is gone for all")
				synctest.Wait()
				time.Sleep(time.Second)
				get(h[0], page)
				require.EqualValues(t, 2, o.calls.Load(), "what was fetched afterwards is shared again")
			})
		})
	}
}

func TestAnUnsafeMethodReachesTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin("Cache-Control", "max-age=60")
		_, h := fleet(newMapStore(), o, 2)
		get(h[0], page)
		synctest.Wait()
		time.Sleep(5 * time.Second)
		do(h[0], "POST", page)
		get(h[1], page)
		require.EqualValues(t, 3, o.calls.Load())
	})
}

func TestABadStoreCostsHitsAndNothingElse(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, trouble := range map[string]func(*mapStore){
		"dead":     func(s *mapStore) { s.fail = func(context.Context) error { return errors.New("refused") } },
		"hung":     func(s *mapStore) { s.fail = hang },
		"deaf":     func(s *mapStore) { s.fail = func(context.Context) error { time.Sleep(time.Hour); return nil } },
		"panicked": func(s *mapStore) { s.fail = func(context.Context) error { panic("store") } },
		"flushed":  func(s *mapStore) { clear(s.m) },
		"lying":    func(s *mapStore) { s.lie = func(string, []byte) []byte { return []byte("garbage") } },
		"mixed up": func(s *mapStore) {
			s.lie = func(_ string, v []byte) []byte {
				for _, other := range s.m {
					return other
				}
				return v
			}
		},
		"flipped": func(s *mapStore) {
			s.lie = func(_ string, v []byte) []byte {
				v = bytes.Clone(v)
				if len(v) > 0 {
					v[len(v)-1] ^= 1
				}
				return v
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMapStore()
				o := newOrigin()
				o.serve = func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", "max-age=60")
					io.WriteString(w, "body of "+r.URL.Path)
				}
				c, h := fleet(s, o, 2)
				for i := range 10 {
					get(h[0], fmt.Sprint("http://example.com/", i))
				}
				synctest.Wait()
				s.mu.Lock()
				trouble(s)
				s.mu.Unlock()
				start := time.Now()
				for i := range 10 {
					w := get(h[1], fmt.Sprint("http://example.com/", i))
					require.Equal(t, fmt.Sprint("body of /", i), w.Body.String())
				}
				require.Less(t, time.Since(start), 500*time.Millisecond, "a bad store is soon left alone")
				require.NoError(t, c[1].Close())
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

func TestAStoreThatFailsIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMapStore()
		s.fail = func(context.Context) error { return errors.New("refused") }
		c, h := fleet(s, newOrigin("Cache-Control", "max-age=60"), 1)
		for i := range 5 {
			get(h[0], fmt.Sprint("http://example.com/", i))
		}
		for _, what := range c[0].Conditions() {
			require.Contains(t, what, "store fails")
		}
		require.Error(t, c[0].Purge(t.Context(), cache.Tag("a")), "it may still be there")
		s.mu.Lock()
		s.fail = nil
		s.mu.Unlock()
		time.Sleep(10 * time.Second)
		get(h[0], page)
		synctest.Wait()
		for range c[0].Conditions() {
			t.Fatal("it answers again")
		}
		var last string
		for _, last = range c[0].Changes() {
		}
		require.Contains(t, last, "answers again")
	})
}

func TestASnapshotGivesTheNextProcessAWarmStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Vary", "Foo")
			w.Header().Set("Cache-Tag", "t")
			io.WriteString(w, r.URL.Path+r.Header.Get("Foo"))
		}
		old := cache.MustNew(cache.Config{})
		h := old.Handler(o)
		get(h, page)
		get(h, page, "Foo", "1")
		get(h, page+"/b")
		var snap bytes.Buffer
		require.NoError(t, old.Snapshot(&snap))
		time.Sleep(10 * time.Second)

		next := cache.MustNew(cache.Config{})
		require.NoError(t, next.Restore(bytes.NewReader(snap.Bytes())))
		h = next.Handler(o)
		require.Equal(t, "/page1", get(h, page, "Foo", "1").Body.String())
		require.Equal(t, "10", get(h, page).Header().Get("Age"))
		require.Equal(t, "/page/b", get(h, page+"/b").Body.String())
		require.EqualValues(t, 3, o.calls.Load())
		require.NoError(t, next.Purge(t.Context(), cache.Tag("t")))
		get(h, page)
		require.EqualValues(t, 4, o.calls.Load())

		require.Error(t, next.Restore(bytes.NewReader([]byte("no snapshot"))))
		require.Error(t, next.Restore(bytes.NewReader(snap.Bytes()[:snap.Len()-3])))
	})
}

func ExampleWarm() {
	pages := cache.MustNew(cache.Config{})
	front := pages.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, "ready")
	}))
	err := cache.Warm(context.Background(), front, httptest.NewRequest("GET", "http://example.com/", nil))
	fmt.Println(err, pages.Stats().Entries)
	fmt.Println(get(front, "http://example.com/").Header().Get("Cache-Status"))
	// Output:
	// <nil> 1
	// Spillway; hit; ttl=59
}

func TestAnUnsafeRequestReachesTheStoreThoughItsClientHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin("Cache-Control", "max-age=60")
		s := newMapStore()
		s.fail = func(ctx context.Context) error { return ctx.Err() }
		_, h := fleet(s, o, 2)
		get(h[0], page)
		synctest.Wait()
		time.Sleep(10 * time.Second)
		ctx, hangUp := context.WithCancel(t.Context())
		hangUp()
		h[0].ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", page, nil).WithContext(ctx))
		require.EqualValues(t, 2, o.calls.Load())
		get(h[1], page)
		require.EqualValues(t, 3, o.calls.Load(), "the store has it no more")
	})
}

func TestTheStoreHoldsWhatMemoryHasNoRoomFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMapStore()
		o := newOrigin("Cache-Control", "max-age=60")
		o.body = string(make([]byte, 1000))
		c := cache.MustNew(cache.Config{Store: s, MaxBytes: 64 << 10})
		h := c.Handler(o)
		const pages = 300
		for range 2 {
			for i := range pages {
				get(h, fmt.Sprint("http://example.com/", i))
			}
			synctest.Wait()
		}
		require.Positive(t, c.Stats().Evicted)
		require.EqualValues(t, pages, o.calls.Load())
		require.NoError(t, c.Close())
	})
}
