package cache_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

func TestAHandlerMayAskTheCacheForItsOwnURL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		var h http.Handler
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Vary", "X-Depth")
			if depth := r.Header.Get("X-Depth"); len(depth) < 3 {
				inner := r.Clone(r.Context())
				inner.Header.Set("X-Depth", depth+"i")
				own := httptest.NewRecorder()
				h.ServeHTTP(own, inner)
				fmt.Fprint(w, "(", own.Body, ")")
			}
		}
		h = cache.MustNew(cache.Config{FillTimeout: -1}).Handler(o)
		began := time.Now()
		require.Equal(t, "((()))", get(h, page).Body.String())
		require.Zero(t, time.Since(began), "nobody waits for himself")
		require.EqualValues(t, 4, o.calls.Load())
		require.Contains(t, status(get(h, page, "X-Depth", "i")), "hit")
	})
}

func TestARoundTripperMayAskTheCacheForItsOwnURL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rt http.RoundTripper
		rt = cache.MustNew(cache.Config{FillTimeout: -1}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("X-Inner") == "" {
				inner := r.Clone(r.Context())
				inner.Header.Set("X-Inner", "1")
				resp, err := rt.RoundTrip(inner)
				if err != nil {
					return nil, err
				}
				defer resp.Body.Close()
			}
			return fresh(r), nil
		}))
		resp, err := rt.RoundTrip(newRequest(t, "GET", page))
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "x", string(b))
	})
}

func TestWhoComesTooLateForABodyThatIsNotKeptMakesACallOfHisOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			io.WriteString(w, strings.Repeat("x", 200<<10))
			http.NewResponseController(w).Flush()
			if o.calls.Load() == 1 {
				<-hold
			}
		}
		h := cache.MustNew(cache.Config{MaxBytes: 1 << 20, MaxBodyBytes: 64 << 10}).Handler(o)
		var group sync.WaitGroup
		group.Go(func() { get(h, page) })
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		late := make(chan int, 1)
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", page, nil).WithContext(ctx))
			late <- w.Body.Len()
		}()
		stuck := time.AfterFunc(time.Second, func() { cancel(); close(hold) }) // in the bubble: only if nobody runs
		n := <-late
		require.True(t, stuck.Stop(), "it waited")
		require.Equal(t, 200<<10, n)
		close(hold)
		cancel()
		group.Wait()
	})
}

func TestWhoComesAfterThePurgeOfATagGetsWhatWasMadeAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			version := o.calls.Load()
			if version == 1 {
				<-hold
			}
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Cache-Tag", "a")
			fmt.Fprint(w, version)
		}
		c := cache.MustNew(cache.Config{})
		h := c.Handler(o)
		var group sync.WaitGroup
		group.Go(func() { get(h, page) })
		synctest.Wait()
		require.NoError(t, c.Purge(context.Background(), cache.Tag("a")))
		group.Go(func() {
			if body := get(h, page).Body.String(); body == "1" {
				t.Error("it was made before the purge")
			}
		})
		synctest.Wait()
		close(hold)
		group.Wait()
	})
}

func TestWhatIsPurgedDoesNotStandInForAFailure(t *testing.T) {
	for _, target := range []cache.Target{cache.URL(page), cache.Tag("a"), cache.All()} {
		synctest.Test(t, func(t *testing.T) {
			hold := make(chan struct{})
			o := newOrigin()
			o.serve = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Tag", "a")
				w.Header().Set("Cache-Control", "max-age=1, stale-if-error=60")
				if o.calls.Load() > 1 {
					<-hold
					w.WriteHeader(503)
				}
				io.WriteString(w, "secret")
			}
			c := cache.MustNew(cache.Config{})
			h := c.Handler(o)
			get(h, page)
			time.Sleep(2 * time.Second)
			code := make(chan int, 1)
			go func() { code <- get(h, page).Code }()
			synctest.Wait()
			require.NoError(t, c.Purge(context.Background(), target))
			close(hold)
			require.Equal(t, 503, <-code, "%v", target)
		})
	}
}

// slowMarks is a Store that calls before when a purge is written to it.
type slowMarks struct {
	*mapStore
	before func()
}

func (s *slowMarks) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if strings.Contains(key, ":p:") && s.before != nil {
		s.before()
	}
	return s.mapStore.Set(ctx, key, value, ttl)
}

func TestNobodyTakesWhatIsBeingPurgedBackFromTheStore(t *testing.T) {
	for name, purge := range map[string]func(*cache.Cache, http.Handler){
		"purge": func(c *cache.Cache, _ http.Handler) { c.Purge(context.Background(), cache.URL(page)) },
		"tag":   func(c *cache.Cache, _ http.Handler) { c.Purge(context.Background(), cache.Tag("a")) },
		"prefix": func(c *cache.Cache, _ http.Handler) {
			c.Purge(context.Background(), cache.Prefix("http://example.com/"))
		},
		"all":  func(c *cache.Cache, _ http.Handler) { c.Purge(context.Background(), cache.All()) },
		"POST": func(_ *cache.Cache, h http.Handler) { do(h, "POST", page) },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &slowMarks{mapStore: newMapStore()}
			o := newOrigin("Cache-Control", "max-age=60", "Cache-Tag", "a")
			o.body = "old"
			c := cache.MustNew(cache.Config{Store: s})
			h := c.Handler(o)
			get(h, page)
			synctest.Wait()
			time.Sleep(10 * time.Second)
			o.body = "new"
			s.before = func() { get(h, page) }
			purge(c, h)
			s.before = nil
			require.Equal(t, "new", get(h, page).Body.String(), name)
		})
	}
}

func TestAResponseWithMoreTagsThanCanBePurgedIsNotStored(t *testing.T) {
	var many []string
	for i := range 300 {
		many = append(many, fmt.Sprint("product-", i))
	}
	for _, tags := range []string{strings.Join(many, ","), strings.Repeat("x", 2000)} {
		o := newOrigin("Cache-Control", "max-age=60", "Cache-Tag", tags)
		c := cache.MustNew(cache.Config{})
		h := c.Handler(o)
		get(h, page)
		last := tags[strings.LastIndexByte(tags, ',')+1:]
		require.NoError(t, c.Purge(context.Background(), cache.Tag(last)))
		require.NotContains(t, status(get(h, page)), "hit", last)
	}
}

func TestLargeFieldsThatVaryNamesAreNotHeldPastTheirResponses(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60", "Vary", "Cookie")
	const bound = 1 << 20
	c := cache.MustNew(cache.Config{MaxBytes: bound})
	h := c.Handler(o)
	before := heap()
	for i := range 256 {
		get(h, page, "Cookie", fmt.Sprint(i, strings.Repeat("x", 100<<10)))
	}
	require.Less(t, heap()-before, int64(4*bound))
	require.LessOrEqual(t, c.Stats().Bytes, int64(bound))
}

func TestAHandlerThatWritesAfterItHasReturnedTakesNoRoomForGood(t *testing.T) {
	var late http.ResponseWriter
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		late = w
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, "whole")
	}
	c := cache.MustNew(cache.Config{MaxBytes: 1 << 20})
	h := c.Handler(o)
	for i := range 100 {
		get(h, fmt.Sprint(page, i))
		_, err := late.Write(make([]byte, 60<<10))
		require.Error(t, err)
	}
	get(h, page)
	require.Contains(t, status(get(h, page)), "hit")
}

func TestALimitWithoutEndIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Minute)
			w.Header().Set("Cache-Control", "max-age=600")
		}
		h := cache.MustNew(cache.Config{FillTimeout: math.MaxInt64, HitForMiss: math.MaxInt64}).Handler(o)
		time.Sleep(time.Second)
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				if w := get(h, page); w.Code != 200 {
					t.Error(w.Code)
				}
			})
		}
		group.Wait()
		require.EqualValues(t, 1, o.calls.Load())
	})
}

func TestAnErrorWhoseBodyHangsDoesNotHoldUpWhatStandsInForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		body, end := io.Pipe()
		rt := cache.MustNew(cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			resp := fresh(r)
			resp.Header.Set("Cache-Control", "max-age=1, stale-if-error=60")
			if n++; n > 1 {
				resp.StatusCode, resp.Body, resp.ContentLength = 503, body, -1
			}
			return resp, nil
		}))
		for range 2 {
			resp, err := rt.RoundTrip(newRequest(t, "GET", page))
			require.NoError(t, err)
			require.Equal(t, 200, resp.StatusCode)
			_, err = io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			time.Sleep(2 * time.Second)
		}
		_, err := end.Write([]byte("x"))
		require.ErrorIs(t, err, io.ErrClosedPipe, "it is given up")
	})
}

func TestAHijackedUnsafeRequestInvalidates(t *testing.T) {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				conn.Close()
			}
			return
		}
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, o.calls.Load())
	}
	server := httptest.NewServer(cache.MustNew(cache.Config{}).Handler(o))
	defer server.Close()
	_, before := fetch(t, newRequest(t, "GET", server.URL))
	resp, _ := fetch(t, newRequest(t, "POST", server.URL))
	require.Equal(t, 200, resp.StatusCode)
	_, after := fetch(t, newRequest(t, "GET", server.URL))
	require.NotEqual(t, before, after)
}

func TestTheLeaderOfATransportGetsTrailersThatWereNotAnnounced(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, "body")
		http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"X-Sum", "1")
	}))
	defer origin.Close()
	rt := cache.MustNew(cache.Config{}).Transport(origin.Client().Transport)
	for range 2 {
		resp, err := rt.RoundTrip(newRequest(t, "GET", origin.URL))
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, "1", resp.Trailer.Get("X-Sum"), resp.Header.Get("Cache-Status"))
	}
}
