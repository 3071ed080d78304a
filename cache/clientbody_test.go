package cache_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

func TestAFailedBodyOfAClientIsNotStored(t *testing.T) {
	n := 0
	c := cache.MustNew(cache.Config{})
	rt := c.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		n++
		body := io.Reader(strings.NewReader("whole"))
		if n == 1 {
			body = io.MultiReader(strings.NewReader("ha"), failing{})
		}
		return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=60"}}, Body: io.NopCloser(body), ContentLength: -1, Request: r}, nil
	}))
	resp, err := rt.RoundTrip(newRequest(t, "GET", page))
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	require.ErrorContains(t, err, "broken wire")
	require.NoError(t, resp.Body.Close())
	for range 2 {
		resp, err = rt.RoundTrip(newRequest(t, "GET", page))
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "whole", string(b))
		require.NoError(t, resp.Body.Close())
	}
	require.Equal(t, 2, n)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("broken wire") }

func TestAClientsErrorIsEverybodysWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := cache.MustNew(cache.Config{})
		rt := c.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			n++
			time.Sleep(time.Second)
			return nil, errors.New("no route")
		}))
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := rt.RoundTrip(httptest.NewRequest("GET", page, nil))
				require.ErrorContains(t, err, "no route")
			})
		}
		wg.Wait()
		require.Equal(t, 1, n)
	})
}

func TestAClientsErrorIsAnsweredStale(t *testing.T) {
	fails := false
	rt := cache.MustNew(cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		if fails {
			return nil, errors.New("no route")
		}
		return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=0, stale-if-error=60"}},
			Body: io.NopCloser(strings.NewReader("x")), ContentLength: 1, Request: r}, nil
	}))
	for range 2 {
		resp, err := rt.RoundTrip(newRequest(t, "GET", page))
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "x", string(b))
		fails = true
	}
}

func TestAClientThatGivesUpDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		rt := cache.MustNew(cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			close(ended)
			return nil, r.Context().Err()
		}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := rt.RoundTrip(newRequest(t, "GET", page).WithContext(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		<-ended
	})
}

func TestAPanicOfARoundTripperGoesUp(t *testing.T) {
	rt := cache.MustNew(cache.Config{}).Transport(roundTrip(func(*http.Request) (*http.Response, error) { panic("boom") }))
	require.PanicsWithValue(t, "boom", func() { rt.RoundTrip(newRequest(t, "GET", page)) })
}

func TestARoundTripperThatEndsItsGoroutineLeavesNobodyWaiting(t *testing.T) {
	// As the FailNow of a test does.
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := cache.MustNew(cache.Config{FillTimeout: -1})
		rt := c.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			if n++; n == 1 {
				time.Sleep(time.Second)
				runtime.Goexit()
			}
			return fresh(r), nil
		}))
		returned := false
		var wg sync.WaitGroup
		wg.Go(func() {
			rt.RoundTrip(httptest.NewRequest("GET", page, nil))
			returned = true
		})
		synctest.Wait()
		wg.Go(func() {
			resp, err := rt.RoundTrip(httptest.NewRequest("GET", page, nil))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		})
		wg.Wait()
		require.False(t, returned, "it ends the caller's, as without a cache")
		require.Equal(t, 2, n)
		require.EqualValues(t, 1, c.Stats().Failed)
	})
}

// fresh is an answer that is kept.
func fresh(r *http.Request) *http.Response {
	return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=10, stale-while-revalidate=60"}},
		Body: io.NopCloser(strings.NewReader("x")), ContentLength: 1, Request: r}
}

func TestARevalidationThatBreaksOffIsTriedAgain(t *testing.T) {
	for name, fail := range map[string]func(){"panic": func() { panic("boom") }, "goexit": runtime.Goexit} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			c := cache.MustNew(cache.Config{})
			rt := c.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
				if n++; n == 2 {
					fail()
				}
				return fresh(r), nil
			}))
			ask := func() string {
				resp, err := rt.RoundTrip(newRequest(t, "GET", page))
				require.NoError(t, err)
				io.Copy(io.Discard, resp.Body)
				require.NoError(t, resp.Body.Close())
				synctest.Wait()
				return resp.Header.Get("Cache-Status")
			}
			ask()
			time.Sleep(20 * time.Second)
			ask()
			ask()
			require.Equal(t, 3, n, name)
			require.Equal(t, "Spillway; hit; ttl=10", ask(), name)
			require.EqualValues(t, map[string]int{"panic": 1}[name], c.Stats().Panics)
			require.NoError(t, c.Close())
		})
	}
}

func TestCloseEndsAReadOfABodyOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		rt := cache.MustNew(cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=60"}}, Body: pr, ContentLength: -1, Request: r}, nil
		}))
		leader, err := rt.RoundTrip(newRequest(t, "GET", page))
		require.NoError(t, err)
		follower, err := rt.RoundTrip(newRequest(t, "GET", page))
		require.NoError(t, err)
		read := make(chan error)
		go func() {
			_, err := follower.Body.Read(make([]byte, 10))
			read <- err
		}()
		synctest.Wait()
		require.NoError(t, follower.Body.Close())
		require.ErrorIs(t, <-read, http.ErrBodyReadAfterClose)
		go func() {
			io.WriteString(pw, "whole")
			pw.Close()
		}()
		b, err := io.ReadAll(leader.Body)
		require.NoError(t, err)
		require.Equal(t, "whole", string(b))
		_, err = follower.Body.Read(make([]byte, 10))
		require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
	})
}

func TestARequestMayBeUsedAgainWhenItsBodyIsClosed(t *testing.T) {
	// Its header is then the caller's, while its answer is still on its way to
	// the others, or being revalidated. The race detector looks on.
	synctest.Test(t, func(t *testing.T) {
		rt := cache.MustNew(cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			resp := fresh(r)
			resp.Header["Etag"], resp.Header["Vary"] = []string{`"a"`}, []string{"Foo"}
			pr, pw := io.Pipe()
			go func() {
				time.Sleep(time.Second)
				io.WriteString(pw, "x")
				pw.Close()
			}()
			resp.Body = pr
			return resp, nil
		}))
		r := newRequest(t, "GET", page)
		r.Header.Set("If-None-Match", `"a"`)
		for i := range 3 { // 304 and the body goes on; a hit; stale, and revalidated
			r.Header.Set("Foo", "bar")
			resp, err := rt.RoundTrip(r)
			require.NoError(t, err)
			require.Equal(t, 304, resp.StatusCode, i)
			require.NoError(t, resp.Body.Close())
			for range 100 {
				time.Sleep(200 * time.Millisecond)
				r.Header.Set("Foo", "others")
			}
		}
		resp, err := rt.RoundTrip(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.NotContains(t, resp.Header.Get("Cache-Status"), "hit", "nothing was stored for others")
		time.Sleep(time.Minute)
	})
}

func TestAPostWhoseAnswerIsLostInvalidates(t *testing.T) {
	calls := 0
	rt := cache.MustNew(cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		calls++
		if r.Method == "POST" {
			return nil, errors.New("broken wire")
		}
		return fresh(r), nil
	}))
	for range 2 {
		resp, err := rt.RoundTrip(newRequest(t, "GET", page))
		require.NoError(t, err)
		io.Copy(io.Discard, resp.Body)
		require.NoError(t, resp.Body.Close())
		_, err = rt.RoundTrip(newRequest(t, "POST", page))
		require.ErrorContains(t, err, "broken wire")
	}
	require.Equal(t, 4, calls)
}
