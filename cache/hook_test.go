package cache_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// read is a request through rt, whose body it reads.
func read(rt http.RoundTripper, r *http.Request) (string, error) {
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestAHookMayAskTheCacheOrPurgeIt(t *testing.T) {
	for _, purges := range []bool{false, true} {
		for _, client := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				var c *cache.Cache
				var ask func() string
				var results []cache.Result
				inside := false
				c = cache.MustNew(cache.Config{OnResult: func(_ *http.Request, r cache.Result) {
					results = append(results, r)
					if inside {
						return
					}
					inside = true
					if purges {
						if err := c.Purge(t.Context(), cache.URL(page)); err != nil {
							t.Error(err)
						}
					} else if body := ask(); body != "x" {
						t.Error(body)
					}
					inside = false
				}})
				o := newOrigin("Cache-Control", "max-age=60")
				o.body = "x"
				h := c.Handler(o)
				ask = func() string { return get(h, page).Body.String() }
				if client {
					rt := c.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
						o.calls.Add(1)
						return fresh(r), nil
					}))
					ask = func() string {
						body, err := read(rt, newRequest(t, "GET", page))
						if err != nil {
							t.Error(err)
						}
						return body
					}
				}
				done := make(chan struct{})
				go func() { // or else a deadlock takes all other tests along
					defer close(done)
					ask()
					ask()
				}()
				select {
				case <-done:
				case <-time.After(time.Minute):
					t.Fatal("the hook hangs")
				}
				if purges {
					require.Equal(t, []cache.Result{cache.Miss, cache.Miss}, results, "nothing is kept past its purge")
				} else {
					require.EqualValues(t, 1, o.calls.Load())
					require.Len(t, results, 4)
				}
			})
		}
	}
}

func TestARequestIsItsCallersAgainWhenHeGivesUp(t *testing.T) {
	// Others wait for its answer, and it goes on for them. The race detector
	// looks on.
	synctest.Test(t, func(t *testing.T) {
		results := make(chan cache.Result, 10)
		c := cache.MustNew(cache.Config{OnResult: func(_ *http.Request, r cache.Result) { results <- r }})
		path := make(chan string, 1)
		rt := c.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			time.Sleep(2 * time.Second)
			path <- r.URL.Path
			return fresh(r), nil
		}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := newRequest(t, "GET", page).WithContext(ctx)
		go func() {
			synctest.Wait()
			read(rt, newRequest(t, "GET", page))
		}()
		_, err := rt.RoundTrip(r)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Len(t, results, 1, "it is counted when it ends")
		require.Equal(t, cache.Failed, <-results)
		r.URL.Path, r.Method = "/other", "PUT"
		time.Sleep(time.Minute)
		require.Equal(t, "/page", <-path)
		require.Len(t, results, 1)
		require.Equal(t, cache.Collapsed, <-results)
	})
}
