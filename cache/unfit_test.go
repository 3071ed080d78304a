package cache_test

import (
	"context"
	"fmt"
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

// turning is an origin whose first answer is not fit to keep; then it does
// what serve does, from whose answers the cache has to learn that they are.
func turning(serve http.HandlerFunc) *origin {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		if o.calls.Load() == 1 {
			w.Header().Set("Cache-Control", "no-store")
			io.WriteString(w, "unfit")
			return
		}
		serve(w, r)
	}
	return o
}

func TestAnAnswerThatIsFitAgainIsStoredAtOnce(t *testing.T) {
	for name, trailer := range map[string]bool{"plain": false, "with a trailer": true} {
		t.Run(name, func(t *testing.T) {
			o := turning(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				if trailer {
					w.Header().Set("Trailer", "Sum")
				}
				fmt.Fprint(w, "version ")
				http.NewResponseController(w).Flush()
				io.Copy(w, strings.NewReader("2"))
				if trailer {
					w.Header().Set("Sum", "42")
				}
			})
			c := cache.MustNew(cache.Config{})
			h := c.Handler(o)
			require.Equal(t, "Spillway; fwd=uri-miss; detail=no-store", status(get(h, page)))
			w := get(h, page)
			require.Equal(t, "version 2", w.Body.String())
			require.Equal(t, "Spillway; fwd=uri-miss; stored", status(w))
			w = get(h, page)
			require.Equal(t, "version 2", w.Body.String())
			require.Contains(t, status(w), "hit")
			if trailer {
				require.Equal(t, "42", w.Result().Trailer.Get("Sum"))
			}
			require.EqualValues(t, 2, o.calls.Load())
			s := c.Stats()
			require.EqualValues(t, []uint64{1, 1, 1}, []uint64{s.Bypassed, s.Misses, s.Hits})
		})
	}
}

func TestAnUnfitKeyStaysUnfitWhileItsAnswersAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin("Cache-Control", "no-store")
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(5 * time.Second)
			w.Header().Set("Cache-Control", "no-store")
		}
		h := cache.MustNew(cache.Config{HitForMiss: 8 * time.Second}).Handler(o)
		get(h, page)
		for range 4 { // more than eight seconds in all
			start := time.Now()
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() { get(h, page) })
			}
			wg.Wait()
			require.Equal(t, 5*time.Second, time.Since(start), "nobody waits for another")
		}
		time.Sleep(9 * time.Second)
		start := time.Now()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { get(h, page) })
		}
		wg.Wait()
		require.Equal(t, 10*time.Second, time.Since(start), "forgotten: one asks, the others wait for its header")
	})
}

func TestAPurgeWinsOverAnAnswerThatIsFitAgain(t *testing.T) {
	for name, target := range map[string]cache.Target{
		"url": cache.URL(page), "prefix": cache.Prefix("http://example.com/"), "tag": cache.Tag("a"), "all": cache.All(),
	} {
		for _, early := range []bool{true, false} { // before its header, or after
			t.Run(fmt.Sprint(name, early), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var o *origin
					o = turning(func(w http.ResponseWriter, r *http.Request) {
						body := fmt.Sprint("version ", o.calls.Load())
						if early {
							time.Sleep(100 * time.Millisecond)
						}
						w.Header().Set("Cache-Control", "max-age=60")
						w.Header().Set("Cache-Tag", "a")
						io.WriteString(w, body)
						if !early {
							time.Sleep(100 * time.Millisecond)
						}
					})
					c := cache.MustNew(cache.Config{})
					h := c.Handler(o)
					get(h, page)
					var wg sync.WaitGroup
					wg.Go(func() { require.Equal(t, "version 2", get(h, page).Body.String()) })
					time.Sleep(50 * time.Millisecond)
					require.NoError(t, c.Purge(t.Context(), target))
					wg.Wait()
					require.Equal(t, "version 3", get(h, page).Body.String())
					require.Equal(t, "version 3", get(h, page).Body.String())
				})
			})
		}
	}
}

func TestAnAnswerThatIsFitAgainButBreaksOffIsNotStored(t *testing.T) {
	for name, serve := range map[string]http.HandlerFunc{
		"panic":  func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "half"); panic(http.ErrAbortHandler) },
		"goexit": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "half"); runtime.Goexit() },
		"early":  func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
		"short": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "8")
			io.WriteString(w, "half")
		},
	} {
		t.Run(name, func(t *testing.T) {
			var o *origin
			o = turning(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				if o.calls.Load() == 2 {
					serve(w, r)
					return
				}
				io.WriteString(w, "whole")
			})
			c := cache.MustNew(cache.Config{})
			h := c.Handler(o)
			get(h, page)
			done := make(chan any)
			go func() {
				defer func() { done <- recover() }()
				get(h, page)
			}()
			require.Equal(t, map[string]any{"panic": http.ErrAbortHandler, "early": http.ErrAbortHandler}[name], <-done, "it goes on up unchanged")
			if name != "short" {
				require.EqualValues(t, 1, c.Stats().Failed)
			}
			require.Equal(t, "whole", get(h, page).Body.String())
			require.Equal(t, "whole", get(h, page).Body.String())
			require.EqualValues(t, 3, o.calls.Load())
		})
	}
}

func TestWhatAHandlerLeavesOutWhenItsClientHangsUpIsNotStored(t *testing.T) {
	// It does not fail, it just ends: the body looks whole.
	for name, first := range map[string]string{"unfit before": "no-store", "never asked for before": ""} {
		t.Run(name, func(t *testing.T) {
			ctx, hangUp := context.WithCancel(t.Context())
			o := newOrigin("Cache-Control", first)
			h := cache.MustNew(cache.Config{}).Handler(o)
			if first != "" {
				get(h, page)
			}
			o.serve = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				io.WriteString(w, "half")
				if r.Context().Err() == nil && ctx.Err() == nil {
					hangUp()
				}
				if r.Context().Done(); ctx.Err() != nil && r.Header.Get("Again") == "" {
					<-r.Context().Done()
					return
				}
				io.WriteString(w, " and half")
			}
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", page, nil).WithContext(ctx))
			require.Equal(t, "half and half", get(h, page, "Again", "1").Body.String())
		})
	}
}

func TestAHandlerThatChangesItsRequestIsStoredForWhatWasAsked(t *testing.T) {
	o := turning(func(w http.ResponseWriter, r *http.Request) {
		lang := r.Header.Get("Accept-Language")
		r.Header.Del("Accept-Language")
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "Accept-Language")
		io.WriteString(w, lang)
	})
	h := cache.MustNew(cache.Config{}).Handler(o)
	get(h, page)
	for range 3 {
		require.Equal(t, "de", get(h, page, "Accept-Language", "de").Body.String())
		require.Equal(t, "", get(h, page).Body.String())
	}
}

func TestFieldsOfOuterLayersAreNotStoredWhenAnAnswerIsFitAgain(t *testing.T) {
	for _, many := range []int{1, 9} { // few enough to remember one by one, and more
		o := turning(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Add("Vary-By", "handler")
			io.WriteString(w, "x")
		})
		inner := cache.MustNew(cache.Config{}).Handler(o)
		n := 0
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n++
			for i := range many {
				w.Header().Set(fmt.Sprint("X-Outer-", i), fmt.Sprint(n))
			}
			w.Header().Set("Vary-By", "outer")
			inner.ServeHTTP(w, r)
		})
		for i := 1; i <= 3; i++ {
			w := get(h, page)
			for k := range many {
				require.Equal(t, []string{fmt.Sprint(i)}, w.Header().Values(fmt.Sprint("X-Outer-", k)))
			}
			if i > 1 {
				require.Equal(t, []string{"outer", "handler"}, w.Header().Values("Vary-By"))
			}
		}
		require.EqualValues(t, 2, o.calls.Load(), "the third is a hit")
	}
}

func TestABodyTooLargeToKeepPassesWhenAnAnswerIsFitAgain(t *testing.T) {
	o := turning(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		for range 1000 {
			if _, err := w.Write(make([]byte, 1000)); err != nil {
				t.Error(err)
			}
		}
	})
	c := cache.MustNew(cache.Config{MaxBodyBytes: 10_000})
	h := c.Handler(o)
	get(h, page)
	for range 2 {
		require.Len(t, get(h, page).Body.Bytes(), 1_000_000)
	}
	require.Zero(t, c.Stats().Entries)
}

func TestTargetsThatAreNotKeptDoNotFillTheMemory(t *testing.T) {
	h := cache.MustNew(cache.Config{}).Handler(plainly("no-store"))
	r, w := benchRequest(page), &nullWriter{http.Header{}}
	before := heap()
	for i := range 2000 {
		r.URL.RawQuery = fmt.Sprintf("%0100000d", i)
		h.ServeHTTP(w, r)
	}
	require.Less(t, heap()-before, int64(10<<20), "of 200 MB")
	runtime.KeepAlive(h)
}
