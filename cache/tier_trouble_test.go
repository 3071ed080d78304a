package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// A markStore does something before it is asked for, or told of, a purge.
type markStore struct {
	*mapStore
	get, set func() error
}

func (s *markStore) Get(ctx context.Context, key string) ([]byte, error) {
	if strings.Contains(key, ":p:") && s.get != nil {
		if err := s.get(); err != nil {
			return nil, err
		}
	}
	return s.mapStore.Get(ctx, key)
}

func (s *markStore) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if strings.Contains(key, ":p:") && s.set != nil {
		if err := s.set(); err != nil {
			return err
		}
	}
	return s.mapStore.Set(ctx, key, value, ttl)
}

func TestWhatMayHaveBeenPurgedIsNotTakenFromTheStore(t *testing.T) {
	// The store can't say so once, or the client hangs up while it is asked.
	for _, gone := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &markStore{mapStore: newMapStore()}
			o := newOrigin("Cache-Control", "max-age=60")
			c, h := fleet(s, o, 2)
			get(h[0], page)
			synctest.Wait()
			time.Sleep(5 * time.Second)
			require.NoError(t, c[0].Purge(t.Context(), cache.All()))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			asked := 0
			s.get = func() error {
				if asked++; asked > 1 {
					return nil
				}
				if gone {
					cancel()
				}
				return errors.New("once")
			}
			o.body = "new"
			h[1].ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", page, nil).WithContext(ctx))
			require.NotZero(t, asked)
			require.Equal(t, "new", get(h[1], page).Body.String())
			require.NoError(t, c[0].Close())
			require.NoError(t, c[1].Close())
		})
	}
}

func TestAPurgeThatTheStoreIsNotToldOfHoldsInItsProcess(t *testing.T) {
	for name, purge := range map[string]func(*cache.Cache, http.Handler){
		"purge": func(c *cache.Cache, _ http.Handler) { c.Purge(context.Background(), cache.Tag("a")) },
		"POST":  func(_ *cache.Cache, h http.Handler) { do(h, "POST", page) },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &markStore{mapStore: newMapStore()}
			o := newOrigin("Cache-Control", "max-age=60", "Cache-Tag", "a")
			c := cache.MustNew(cache.Config{Store: s})
			h := c.Handler(o)
			get(h, page)
			synctest.Wait()
			time.Sleep(5 * time.Second)
			s.set = func() error { return errors.New("read-only") }
			purge(c, h)
			s.set = nil
			o.body = "new"
			require.Equal(t, "new", get(h, page).Body.String(), name)
			require.NoError(t, c.Close())
		})
	}
}

func TestAStoreThatHungIsTriedWithOneCallAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMapStore()
		var calls atomic.Int64
		hang := func(ctx context.Context) error {
			calls.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}
		s.fail = hang
		o := newOrigin("Cache-Control", "no-store")
		c, h := fleet(s, o, 1)
		burst := func(ctx context.Context) {
			calls.Store(0)
			for i := range 100 {
				r := httptest.NewRequest("GET", fmt.Sprint("http://example.com/", i), nil).WithContext(ctx)
				go h[0].ServeHTTP(httptest.NewRecorder(), r)
			}
			synctest.Wait()
		}
		burst(t.Context())
		time.Sleep(6 * time.Second)
		for range 3 {
			burst(t.Context())
			require.EqualValues(t, 1, calls.Load())
			time.Sleep(6 * time.Second)
		}
		ctx, cancel := context.WithCancel(t.Context())
		burst(ctx) // one asks, but hangs up
		cancel()
		synctest.Wait()
		s.mu.Lock()
		s.fail = nil
		s.mu.Unlock()
		get(h[0], page)
		for range c[0].Conditions() {
			t.Error("the next one has found out that it answers again")
		}
		before := s.gets
		burst(t.Context())
		require.Equal(t, before+100, s.gets, "then all use it again")
		require.NoError(t, c[0].Close())
	})
}

func TestABodyLargerThanIsKeptIsNotTakenFromElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMapStore()
		o := newOrigin("Cache-Control", "max-age=60")
		o.body = strings.Repeat("x", 100_000)
		large := cache.MustNew(cache.Config{Store: s})
		get(large.Handler(o), page)
		synctest.Wait()
		var snap bytes.Buffer
		require.NoError(t, large.Snapshot(&snap))
		small := cache.MustNew(cache.Config{Store: s, MaxBodyBytes: 99_999})
		require.Equal(t, o.body, get(small.Handler(o), page).Body.String())
		require.NoError(t, small.Restore(&snap))
		require.Zero(t, small.Stats().Entries)
		require.NoError(t, large.Close())
		require.NoError(t, small.Close())
	})
}
