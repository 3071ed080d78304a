package cache_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// slowVersions is an origin that takes a minute for a page with a tag, and
// numbers its answers.
func slowVersions(tag string) *origin {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, _ *http.Request) {
		version := o.calls.Load()
		time.Sleep(time.Minute)
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("Cache-Tag", tag)
		fmt.Fprint(w, "version ", version)
	}
	return o
}

// A fill that lasts knows its own tags only at the end, and so remembers those
// that are purged meanwhile: not without bound.
func TestTagsPurgedDuringAFillAreBounded(t *testing.T) {
	for _, c := range []struct {
		tags, times int
		kept        bool
	}{{0, 0, true}, {256, 10, true}, {257, 1, false}, {50_000, 1, false}} {
		t.Run(fmt.Sprint(c.tags), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := slowVersions("another")
				ca := cache.MustNew(cache.Config{FillTimeout: time.Hour})
				h := ca.Handler(o)
				var group sync.WaitGroup
				group.Go(func() { require.Equal(t, "version 1", get(h, page).Body.String()) })
				synctest.Wait()
				before := heap()
				for range c.times {
					for i := range c.tags {
						require.NoError(t, ca.Purge(t.Context(), cache.Tag(fmt.Sprintf("tag-%0100d", i))))
					}
				}
				require.Less(t, heap(), before+2<<20)
				group.Go(func() { get(h, page) })
				group.Wait()
				require.Equal(t, c.kept, o.calls.Load() == 1, "whoever comes after joins what will be kept")
				require.Contains(t, status(get(h, page)), "hit", "the next one is kept")
			})
		})
	}
}

// Those who join after a purge of what they ask for get none of what was begun
// before it, though more tags follow than are remembered.
func TestManyPurgesDoNotHideAnEarlierOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := slowVersions("news")
		ca := cache.MustNew(cache.Config{FillTimeout: time.Hour})
		h := ca.Handler(o)
		var group sync.WaitGroup
		group.Go(func() { get(h, page) })
		synctest.Wait()
		require.NoError(t, ca.Purge(t.Context(), cache.Tag("news")))
		group.Go(func() { require.Equal(t, "version 2", get(h, page).Body.String()) })
		synctest.Wait()
		for i := range 1000 {
			require.NoError(t, ca.Purge(t.Context(), cache.Tag(fmt.Sprint("tag", i))))
		}
		group.Wait()
		require.Equal(t, "version 2", get(h, page).Body.String())
	})
}
