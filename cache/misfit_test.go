package cache_test

import (
	"bytes"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// A brokenWriter panics as soon as something is sent to it.
type brokenWriter struct{ *httptest.ResponseRecorder }

func (brokenWriter) WriteHeader(int) { panic("writer") }

func TestAWriterThatPanicsLeavesTheOthersToRetry(t *testing.T) {
	for _, body := range []string{"", strings.Repeat("x", 10_000)} {
		synctest.Test(t, func(t *testing.T) {
			o := newOrigin()
			o.serve = func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Second)
				w.Header().Set("Cache-Control", "max-age=60")
				io.WriteString(w, body)
			}
			c := cache.MustNew(cache.Config{})
			h := c.Handler(o)
			go func() {
				synctest.Wait()
				get(h, page)
			}()
			require.PanicsWithValue(t, "writer", func() {
				h.ServeHTTP(brokenWriter{httptest.NewRecorder()}, httptest.NewRequest("GET", page, nil))
			})
			time.Sleep(10 * time.Second)
			require.EqualValues(t, 2, o.calls.Load())
			require.Equal(t, body, get(h, page).Body.String())
			st := c.Stats()
			require.EqualValues(t, []uint64{1, 1}, []uint64{st.Failed, st.Misses + st.Collapsed}, "each request is counted once")
		})
	}
}

// A clogged writer takes the header, and panics at the first byte.
type clogged struct{ *httptest.ResponseRecorder }

func (clogged) Write([]byte) (int, error) { panic("writer") }

func TestARequestWhoseClientCannotBeSentTheEndIsCounted(t *testing.T) {
	for _, size := range []int{10, 10_000} {
		o := newOrigin("Cache-Control", "max-age=60")
		o.body = strings.Repeat("x", size)
		c := cache.MustNew(cache.Config{})
		require.PanicsWithValue(t, "writer", func() {
			c.Handler(o).ServeHTTP(clogged{httptest.NewRecorder()}, httptest.NewRequest("GET", page, nil))
		})
		require.EqualValues(t, 1, c.Stats().Failed)
	}
}

func TestAStatusThatIsNoneIsRefusedInTheBackgroundToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		code := 200
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=1, stale-while-revalidate=60")
			w.WriteHeader(code)
			io.WriteString(w, "body")
		}
		c := cache.MustNew(cache.Config{})
		h := c.Handler(o)
		get(h, page)
		for i, bad := range []int{0, 99, 1000, -5} {
			code = bad
			time.Sleep(2 * time.Second)
			require.Equal(t, 200, get(h, page).Code, "what is stored stays")
			synctest.Wait()
			require.EqualValues(t, i+1, c.Stats().Panics)
		}
		require.EqualValues(t, 5, o.calls.Load())
	})
}

func TestARoundTripperNeedNotFillEverythingIn(t *testing.T) {
	for _, leave := range []func(*http.Response){
		func(r *http.Response) { r.Header = nil },
		func(r *http.Response) { r.Body, r.ContentLength = nil, 0 },
		func(r *http.Response) { r.Header, r.Body, r.ContentLength = nil, nil, 0 },
	} {
		rt := cache.MustNew(cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			resp := fresh(r)
			leave(resp)
			return resp, nil
		}))
		for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS"} {
			for range 2 {
				_, err := read(rt, newRequest(t, method, page))
				require.NoError(t, err)
			}
		}
	}
	rt := cache.MustNew(cache.Config{}).Transport(roundTrip(func(*http.Request) (*http.Response, error) { return nil, nil }))
	for _, method := range []string{"GET", "HEAD", "POST"} {
		_, err := read(rt, newRequest(t, method, page))
		require.ErrorContains(t, err, "neither a response nor an error")
	}
}

func TestARequestNeedNotHaveAHeader(t *testing.T) {
	calls := 0
	rt := cache.MustNew(cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		calls++
		resp := fresh(r)
		resp.Header = http.Header{"Cache-Control": {"no-cache"}, "Etag": {`"a"`}}
		if r.Header.Get("If-None-Match") != "" {
			resp.StatusCode = 304
		}
		return resp, nil
	}))
	for range 2 {
		r := newRequest(t, "GET", page)
		r.Header = nil
		body, err := read(rt, r)
		require.NoError(t, err)
		require.Equal(t, "x", body)
	}
	require.Equal(t, 2, calls)
}

func TestATTLWithoutEndSurvivesASnapshot(t *testing.T) {
	for _, cfg := range []cache.Config{
		{TTL: math.MaxInt64},
		{TTLOf: func(int, http.Header) time.Duration { return math.MaxInt64 }},
	} {
		o := newOrigin("Age", "5")
		old, next := cache.MustNew(cfg), cache.MustNew(cfg)
		get(old.Handler(o), page)
		var snap bytes.Buffer
		require.NoError(t, old.Snapshot(&snap))
		require.NoError(t, next.Restore(&snap))
		require.Contains(t, status(get(next.Handler(o), page)), "hit")
		require.EqualValues(t, 1, o.calls.Load())
	}
}
