package cache_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

func TestTheAnswerToHEADThatMayNotBeStoredUpdatesNothing(t *testing.T) {
	for name, own := range map[string][]string{
		"Authorization": {"Cache-Control", "max-age=60"},
		"Cookie":        {"Cache-Control", "max-age=60", "Set-Cookie", "session=alice"},
	} {
		o := newOrigin("Cache-Control", "max-age=60")
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page)
		o.set(append(own, "X-User", "alice")...)
		o.body = ""
		do(h, "HEAD", page, name, "alice", "Cache-Control", "no-cache")
		w := get(h, page)
		require.Contains(t, status(w), "hit", name)
		require.Empty(t, w.Header()["X-User"], name)
	}
}

func TestTheAnswerToAnEarlierHEADUpdatesNothing(t *testing.T) {
	for _, purge := range []cache.Target{cache.URL(page), cache.URL(page).Soft()} {
		synctest.Test(t, func(t *testing.T) {
			hold, version := make(chan struct{}), "1"
			o := newOrigin()
			o.serve = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("X-Version", version)
				if r.Method == "HEAD" {
					<-hold
				}
			}
			c := cache.MustNew(cache.Config{})
			h := c.Handler(o)
			get(h, page)
			done := make(chan struct{})
			go func() {
				do(h, "HEAD", page, "Cache-Control", "no-cache")
				close(done)
			}()
			synctest.Wait()
			time.Sleep(time.Second)
			version = "2"
			require.NoError(t, c.Purge(context.Background(), purge))
			if !strings.Contains(purge.String(), "softly") {
				get(h, page)
			}
			time.Sleep(time.Second)
			close(hold)
			<-done
			require.Equal(t, "2", get(h, page).Header().Get("X-Version"), "%v", purge)
		})
	}
}

// revalidating returns a handler that first answers with first, and then with
// 304 and then, once hold is closed.
func revalidating(hold chan struct{}, first, then http.Header) *origin {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		h, code := first, 200
		if r.Header.Get("If-None-Match") != "" {
			if hold != nil {
				<-hold
			}
			h, code = then, 304
		}
		for name, values := range h {
			w.Header()[name] = values
		}
		w.WriteHeader(code)
	}
	return o
}

func TestWhatA304MakesPrivateIsForOneClient(t *testing.T) {
	for _, narrow := range []string{"private, max-age=60", "no-store"} {
		synctest.Test(t, func(t *testing.T) {
			hold := make(chan struct{})
			o := revalidating(hold, http.Header{"Etag": {`"1"`}, "Cache-Control": {"max-age=1"}},
				http.Header{"Etag": {`"1"`}, "Cache-Control": {narrow}, "X-User": {"alice"}})
			h := cache.MustNew(cache.Config{}).Handler(o)
			get(h, page)
			time.Sleep(2 * time.Second)
			var group sync.WaitGroup
			var mu sync.Mutex
			named := 0
			for range 3 {
				group.Go(func() {
					w := get(h, page)
					mu.Lock()
					defer mu.Unlock()
					if w.Header().Get("X-User") != "" && strings.Contains(status(w), "collapsed") {
						named++
					}
				})
			}
			synctest.Wait()
			close(hold)
			group.Wait()
			require.Zero(t, named, narrow)
		})
	}
}

func TestA304ThatTakesThePermissionToShareBackIsHeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := revalidating(nil, http.Header{"Etag": {`"1"`}, "Cache-Control": {"public, max-age=1"}},
			http.Header{"Etag": {`"1"`}, "Cache-Control": {"max-age=60"}})
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page, "Authorization", "alice")
		time.Sleep(2 * time.Second)
		get(h, page, "Authorization", "alice")
		require.NotContains(t, status(get(h, page, "Authorization", "mallory")), "hit", "RFC 9111 §3.5")
	})
}

func TestA304ForOneUserDoesNotDescribeTheResponseForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := revalidating(nil, http.Header{"Etag": {`"1"`}, "Cache-Control": {"max-age=1"}},
			http.Header{"Etag": {`"1"`}, "Cache-Control": {"max-age=60"}, "X-User": {"alice"}})
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page)
		time.Sleep(2 * time.Second)
		require.Equal(t, "alice", get(h, page, "Authorization", "alice").Header().Get("X-User"))
		w := get(h, page)
		require.NotContains(t, status(w), "hit", "RFC 9111 §3.5")
	})
}

func TestTheRestOfAPartThatMayNotBeStoredCompletesNothing(t *testing.T) {
	for name, own := range map[string]string{"Authorization": "X-User", "Cookie": "Set-Cookie"} {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Etag", `"1"`)
			if user := r.Header.Get(name); user != "" {
				w.Header().Set(own, user+"=1")
			}
			http.ServeContent(w, r, "a.txt", time.Time{}, strings.NewReader("0123456789"))
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		require.Equal(t, 206, get(h, page, "Range", "bytes=0-4").Code)
		w := get(h, page, name, "alice")
		require.Equal(t, "0123456789", w.Body.String())
		require.Equal(t, "alice=1", w.Header().Get(own), "she gets her own answer")
		require.Empty(t, get(h, page).Header().Get(own), name)
	}
}

func TestTheLifeThatConfigGivesIsThatOfA304Too(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := revalidating(nil, http.Header{"Etag": {`"1"`}}, http.Header{"Etag": {`"1"`}})
		c := cache.MustNew(cache.Config{TTL: time.Hour, TTLOf: func(int, http.Header) time.Duration { return 0 }})
		h := c.Handler(o)
		for range 4 {
			require.NotContains(t, status(get(h, page)), "hit", "TTLOf decides")
			time.Sleep(time.Second)
		}
		c = cache.MustNew(cache.Config{TTLOf: func(int, http.Header) time.Duration { return time.Minute }})
		h = c.Handler(o)
		get(h, page)
		time.Sleep(2 * time.Minute)
		get(h, page)
		require.Contains(t, status(get(h, page)), "hit", "TTLOf decides")
	})
}

func TestADateOutOfAllBoundsMakesNothingFresh(t *testing.T) {
	for _, date := range []string{"Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 01 Jan 1700 00:00:00 GMT"} {
		synctest.Test(t, func(t *testing.T) {
			h := cache.MustNew(cache.Config{}).Handler(newOrigin("Cache-Control", "max-age=60", "Date", date))
			for range 10 {
				require.NotContains(t, status(get(h, page)), "hit", date)
				time.Sleep(2 * time.Minute) // more than its life: two overflows cancel out
			}
		})
	}
}

func TestDirectivesThatRestrictHoldWithAnySeparator(t *testing.T) {
	for _, line := range []string{
		"private; max-age=60", "max-age=60; private", "no-store; max-age=60", "max-age=60 no-store", "private max-age=60",
		`"private", max-age=60`, `"no-store"`, `public, max-age=60, x="y, private`,
	} {
		o := newOrigin("Cache-Control", line, "Last-Modified", "Mon, 01 Jan 2001 00:00:00 GMT", "Etag", `"1"`)
		c := cache.MustNew(cache.Config{})
		get(c.Handler(o), page)
		require.Zero(t, c.Stats().Entries, line)
	}
}

func TestWhiteSpaceThatMayMeanSomethingTellsVariantsApart(t *testing.T) {
	for _, pair := range [][2]string{
		{`Digest username="a, b"`, `Digest username="a,b"`}, {`a=1, b=2`, `a=1,b=2`},
	} {
		for _, name := range []string{"Authorization", "Cookie"} {
			o := newOrigin("Cache-Control", "public, max-age=60", "Vary", name)
			h := cache.MustNew(cache.Config{}).Handler(o)
			get(h, page, name, pair[0])
			require.NotContains(t, status(get(h, page, name, pair[1])), "hit", pair[1])
			require.Contains(t, status(get(h, page, name, pair[0])), "hit", pair[0])
		}
	}
	o := newOrigin("Cache-Control", "max-age=60", "Vary", "Accept-Encoding")
	h := cache.MustNew(cache.Config{}).Handler(o)
	get(h, page, "Accept-Encoding", "gzip;q=0x0p0")
	require.NotContains(t, status(get(h, page, "Accept-Encoding", "gzip;q=0")), "hit", "no origin reads that alike")
}

func TestWarmStoresNothingThatAProxyCutShort(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Write([]byte("half"))
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer origin.Close()
	to, err := url.Parse(origin.URL)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = quiet()
	c := cache.MustNew(cache.Config{})
	r, err := http.NewRequest("GET", page, nil)
	require.NoError(t, err)
	require.Error(t, cache.Warm(context.Background(), c.Handler(proxy), r))
	require.Zero(t, c.Stats().Entries)
}
