package cache_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

func TestAClientThatHasAnOldVersionFillsTheCacheForTheOthers(t *testing.T) { // RFC 9111 §4.3.2
	for _, stalls := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			var ended atomic.Bool
			rt := cache.MustNew(cache.Config{FillTimeout: time.Minute}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
				calls++
				require.Empty(t, r.Header["If-None-Match"], "it is fetched whole")
				pr, pw := io.Pipe()
				go func() {
					for range 10 {
						time.Sleep(time.Second)
						pw.Write(bytes.Repeat([]byte("x"), 10_000))
					}
					if stalls {
						<-r.Context().Done()
						ended.Store(true)
						pw.CloseWithError(r.Context().Err())
					}
					pw.Close()
				}()
				return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=600"}, "Etag": {`"a"`}}, Body: pr, ContentLength: -1, Request: r}, nil
			}))
			r := newRequest(t, "GET", page)
			ctx, cancel := context.WithCancel(t.Context())
			r.Header.Set("If-None-Match", `"a"`)
			start := time.Now()
			resp, err := rt.RoundTrip(r.WithContext(ctx))
			require.NoError(t, err)
			require.Equal(t, 304, resp.StatusCode)
			require.NoError(t, resp.Body.Close())
			cancel()
			require.Zero(t, time.Since(start), "it waits for no body")
			time.Sleep(2 * time.Minute)
			require.Equal(t, stalls, ended.Load(), "a body that stalls is given up")
			resp, err = rt.RoundTrip(newRequest(t, "GET", page))
			require.NoError(t, err)
			require.Equal(t, !stalls, strings.Contains(resp.Header.Get("Cache-Status"), "hit"))
			resp.Body.Close()
			time.Sleep(time.Minute)
			if !stalls {
				require.Equal(t, 1, calls)
			}
		})
	}
}

func TestTheTimeThatAnAnswerTookIsPartOfItsAge(t *testing.T) { // RFC 9111 §4.2.3
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(5 * time.Second)
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Age", "10")
			io.WriteString(w, "x")
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page)
		time.Sleep(2 * time.Second)
		require.Equal(t, "17", get(h, page).Header().Get("Age"))
		time.Sleep(43 * time.Second)
		get(h, page)
		require.EqualValues(t, 2, o.calls.Load())
	})
}
