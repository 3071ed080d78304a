package cache_test

import (
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// confused is an origin that answers every condition with 304, but names
// another version than it was asked about.
func confused(cc string) *origin {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		n := o.calls.Load()
		if n > 20 {
			panic(http.ErrAbortHandler) // asked again and again
		}
		time.Sleep(100 * time.Millisecond)
		w.Header().Set("Cache-Control", cc)
		w.Header().Set("Etag", strconv.Quote(strconv.FormatInt(n, 10)))
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(304)
			return
		}
		io.WriteString(w, "body "+strconv.FormatInt(n, 10))
	}
	return o
}

func TestWhatA304DoesNotConfirmIsAskedForAnewOnce(t *testing.T) { // RFC 9111 §4.3.3, §4.3.4
	synctest.Test(t, func(t *testing.T) {
		o := confused("max-age=1")
		c := cache.MustNew(cache.Config{})
		h := c.Handler(o)
		get(h, page)
		time.Sleep(5 * time.Second)
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() {
				if body := get(h, page).Body.String(); body != "body 3" {
					t.Error(body)
				}
			})
		}
		group.Wait()
		require.EqualValues(t, 3, o.calls.Load(), "one asks for all")
		require.EqualValues(t, 1, c.Stats().Entries)
	})
}

func TestWhatTheStoreHasIsAskedForAnewOnceToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMapStore()
		o := confused("max-age=1")
		c, h := fleet(s, o, 2)
		get(h[0], page)
		synctest.Wait()
		time.Sleep(5 * time.Second)
		require.Equal(t, "body 3", get(h[1], page).Body.String())
		require.EqualValues(t, 3, o.calls.Load())
		require.NoError(t, c[0].Close())
		require.NoError(t, c[1].Close())
	})
}

func TestWhatIsNotConfirmedInTheBackgroundIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := confused("max-age=1, stale-while-revalidate=60")
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page)
		time.Sleep(5 * time.Second)
		require.Equal(t, "body 1", get(h, page).Body.String())
		time.Sleep(time.Second)
		require.Equal(t, "body 3", get(h, page).Body.String())
	})
}
