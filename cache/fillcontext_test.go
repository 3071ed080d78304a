package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

type ctxKey struct{}

// lookAt is how a handler may find out that its context has ended.
var lookAt = map[string]func(ctx context.Context){
	"Done": func(ctx context.Context) { <-ctx.Done() },
	"Err": func(ctx context.Context) {
		for ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
	},
	"AfterFunc": func(ctx context.Context) {
		ended := make(chan struct{})
		context.AfterFunc(ctx, func() { close(ended) })
		<-ended
	},
	"a child": func(ctx context.Context) {
		child, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		<-child.Done()
	},
}

func TestACallEndsWhenNobodyWaitsHoweverTheHandlerLooks(t *testing.T) {
	for name, look := range lookAt {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				type seen struct {
					err, cause error
					value      any
					after      time.Duration
				}
				got := make(chan seen, 1)
				start := time.Now()
				o := newOrigin()
				o.serve = func(w http.ResponseWriter, r *http.Request) {
					ctx := r.Context()
					time.Sleep(10 * time.Millisecond) // it looks late
					look(ctx)
					got <- seen{ctx.Err(), context.Cause(ctx), ctx.Value(ctxKey{}), time.Since(start).Truncate(10 * time.Millisecond)}
				}
				h := cache.MustNew(cache.Config{}).Handler(o)
				ask := func(leaves time.Duration) {
					ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), ctxKey{}, "v"), leaves)
					defer cancel()
					h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", page, nil).WithContext(ctx))
				}
				var wg sync.WaitGroup
				wg.Go(func() { ask(100 * time.Millisecond) })
				time.Sleep(time.Millisecond)
				wg.Go(func() { ask(300 * time.Millisecond) }) // waits for the same, and longer
				wg.Wait()
				s := <-got
				require.Equal(t, context.Canceled, s.err)
				require.ErrorContains(t, s.cause, "every client")
				require.Equal(t, "v", s.value)
				require.Equal(t, 300*time.Millisecond, s.after, "when the last had gone")
			})
		})
	}
}

func TestACallEndsAfterFillTimeoutHoweverTheHandlerLooks(t *testing.T) {
	for name, look := range lookAt {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin()
				o.serve = func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(200 * time.Millisecond)
					look(r.Context())
					io.WriteString(w, context.Cause(r.Context()).Error())
				}
				start := time.Now()
				body := get(cache.MustNew(cache.Config{FillTimeout: time.Second}).Handler(o), page).Body.String()
				require.Contains(t, body, "FillTimeout")
				require.Equal(t, time.Second, time.Since(start).Truncate(10*time.Millisecond))
			})
		})
	}
}

func TestFillTimeoutIsForTheHeaderAlone(t *testing.T) {
	for _, early := range []bool{true, false} { // the handler looks before its header, or after
		synctest.Test(t, func(t *testing.T) {
			o := newOrigin()
			o.serve = func(w http.ResponseWriter, r *http.Request) {
				if early {
					r.Context().Done()
				}
				w.Header().Set("Cache-Control", "max-age=600")
				w.WriteHeader(200)
				select {
				case <-time.After(time.Minute):
					io.WriteString(w, "slow")
				case <-r.Context().Done():
				}
			}
			h := cache.MustNew(cache.Config{FillTimeout: time.Second}).Handler(o)
			require.Equal(t, "slow", get(h, page).Body.String())
			require.Contains(t, status(get(h, page)), "hit")
		})
	}
}

func TestACallWhoseLeaderHasGoneIsNotJoined(t *testing.T) {
	// The handler does not look at its context, so nobody has told the call
	// that it is over when the next client comes.
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			first := o.calls.Load() == 1
			time.Sleep(100 * time.Millisecond)
			if first && r.Context().Err() != nil {
				return
			}
			w.Header().Set("Cache-Control", "max-age=60")
			io.WriteString(w, "good")
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		ctx, hangUp := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", page, nil).WithContext(ctx))
		})
		time.Sleep(50 * time.Millisecond)
		hangUp()
		require.Equal(t, "good", get(h, page).Body.String())
		wg.Wait()
		require.EqualValues(t, 2, o.calls.Load())
		require.Contains(t, status(get(h, page)), "hit")
	})
}

func TestARefreshThatAHEADRequestBeganAsksForTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=10, stale-while-revalidate=60")
			if r.Method == "GET" {
				fmt.Fprint(w, "version ", o.calls.Load())
			}
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page)
		time.Sleep(20 * time.Second)
		do(h, "HEAD", page)
		synctest.Wait()
		require.Equal(t, "version 2", get(h, page).Body.String())
	})
}

func TestAHandlerThatAsksOnceWhetherItsClientIsStillThereCostsNoMore(t *testing.T) {
	allocs := func(look func(context.Context)) float64 {
		h := cache.MustNew(cache.Config{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			look(r.Context())
			w.Header()["Cache-Control"] = []string{"max-age=60"}
		}))
		r, n := httptest.NewRequest("GET", page, nil), 0
		return testing.AllocsPerRun(1000, func() {
			n++
			r.URL.RawQuery = fmt.Sprintf("n=%06d", n)
			h.ServeHTTP(httptest.NewRecorder(), r)
		})
	}
	without := allocs(func(context.Context) {})
	require.InDelta(t, without, allocs(func(ctx context.Context) { _ = ctx.Err() }), 1)
	require.Greater(t, allocs(func(ctx context.Context) { ctx.Done() }), without+1, "who waits for the end needs somebody to watch")
}
