package cache_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// within is a layer that gives each request a deadline.
func within(d time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), d)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// abide is get with what h panics with.
func abide(h http.Handler) (w *httptest.ResponseRecorder, thrown any) {
	w = httptest.NewRecorder()
	defer func() { thrown = recover() }()
	h.ServeHTTP(w, httptest.NewRequest("GET", page, nil))
	return w, nil
}

// A layer around the cache may set a deadline. When it is past the client is
// still there: nothing it gets may look like an answer, or the whole of one.
func TestADeadlineOfALayerAroundMakesNoAnswer(t *testing.T) {
	start, end := strings.Repeat("x", 4000), strings.Repeat("y", 4000)
	halves := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, start)
		time.Sleep(2 * time.Second)
		io.WriteString(w, end)
	}
	late := func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(2 * time.Second)
		halves(w, r)
	}
	for name, c := range map[string]struct {
		origin http.HandlerFunc
		waits  bool // for another's answer
		check  func(w *httptest.ResponseRecorder, thrown any)
	}{
		"of who asked for it": {halves, false, func(w *httptest.ResponseRecorder, thrown any) {
			require.Nil(t, thrown)
			require.Equal(t, start+end, w.Body.String(), "the handler has not ended there")
		}},
		"of who waits for the header": {late, true, func(w *httptest.ResponseRecorder, thrown any) {
			require.Nil(t, thrown)
			require.Equal(t, 504, w.Code)
		}},
		"of who waits for the body": {halves, true, func(w *httptest.ResponseRecorder, thrown any) {
			require.Equal(t, start, w.Body.String())
			require.Equal(t, http.ErrAbortHandler, thrown)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin()
				o.serve = c.origin
				pages := cache.MustNew(cache.Config{})
				h := pages.Handler(o)
				if c.waits {
					go get(h, page)
					synctest.Wait()
				}
				w, thrown := abide(within(time.Second, h))
				time.Sleep(time.Minute)
				c.check(w, thrown)
				require.EqualValues(t, 1, o.calls.Load())
				if c.waits {
					require.EqualValues(t, 1, pages.Stats().Failed)
				}
			})
		})
	}
}
