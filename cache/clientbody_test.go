package cache_test

import (
	"context"
	"errors"
	"io"
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
