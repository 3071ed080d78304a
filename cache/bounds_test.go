package cache

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// slowWriter is a client that takes a while for each piece.
type slowWriter struct{ *httptest.ResponseRecorder }

func (w slowWriter) Write(p []byte) (int, error) {
	time.Sleep(time.Second)
	return w.ResponseRecorder.Write(p)
}

func TestTheBudgetIsGivenBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := MustNew(Config{MaxBodyBytes: 100 << 10})
		before := c.budget.Load()
		h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			for range 20 { // too much to keep, and faster than the client reads
				w.Write(make([]byte, 32<<10))
			}
		}))
		for i := range 3 {
			w := slowWriter{httptest.NewRecorder()}
			h.ServeHTTP(w, httptest.NewRequest("GET", fmt.Sprint("http://example.com/", i), nil))
			require.Equal(t, 640<<10, w.Body.Len())
			require.Equal(t, before, c.budget.Load())
		}
	})
}

func TestAPartThatThereIsNoRoomToCompleteIsAskedForWhole(t *testing.T) {
	digits := strings.Repeat("0123456789", 1000)
	for name, side := range map[string]func(*Cache, http.Handler, *http.Request) *http.Response{
		"handler": func(c *Cache, next http.Handler, r *http.Request) *http.Response {
			w := httptest.NewRecorder()
			c.Handler(next).ServeHTTP(w, r)
			return w.Result()
		},
		"transport": func(c *Cache, next http.Handler, r *http.Request) *http.Response {
			resp, err := c.Transport(handlerTransport{next}).RoundTrip(r)
			require.NoError(t, err)
			return resp
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					calls++
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set("Etag", `"a"`)
					http.ServeContent(w, r, "f.txt", time.Time{}, strings.NewReader(digits))
				})
				c := MustNew(Config{})
				ask := func(header http.Header) string {
					r := httptest.NewRequest("GET", "http://example.com/f.txt", nil)
					r.Header = header
					resp := side(c, next, r)
					body, err := io.ReadAll(resp.Body)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
					synctest.Wait()
					return string(body)
				}
				require.Equal(t, digits[:5000], ask(http.Header{"Range": {"bytes=0-4999"}}))
				require.Equal(t, 1, c.Stats().Entries)
				c.budget.Store(10) // others have the rest
				require.True(t, digits == ask(http.Header{}))
				require.Equal(t, 3, calls, "the part, the rest, for which there is no room, and the whole")
				require.EqualValues(t, 10, c.budget.Load())
			})
		})
	}
}

// A handlerTransport answers by a handler.
type handlerTransport struct{ http.Handler }

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

func TestARevalidationThatBreaksOffLeavesNothingBehind(t *testing.T) {
	for _, fail := range []func(){func() { panic("boom") }, runtime.Goexit} {
		synctest.Test(t, func(t *testing.T) {
			c := MustNew(Config{})
			calls, broken := 0, false
			next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls++
				if broken {
					fail()
				}
				w.Header().Set("Cache-Control", "max-age=1, stale-while-revalidate=60")
			})
			h, rt := c.Handler(next), c.Transport(handlerTransport{next})
			for range 2 {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
				synctest.Wait()
				rt.RoundTrip(httptest.NewRequest("GET", "http://example.com/", nil))
				synctest.Wait()
				time.Sleep(2 * time.Second)
				broken = true
			}
			require.Equal(t, 4, calls)
			for _, s := range c.shards {
				require.Empty(t, s.flights)
			}
		})
	}
}
