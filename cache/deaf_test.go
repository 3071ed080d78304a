package cache_test

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

func TestThoseWhoWaitForADeafHandlerGetAnAnswerInTime(t *testing.T) {
	for _, c := range []struct {
		first string // Cache-Control of what is stored, if anything is
		code  int
		late  time.Duration
	}{
		{"", 504, 0}, {"max-age=1", 200, 0}, {"max-age=1, must-revalidate", 504, 0},
		{"", 200, -1}, // no limit
	} {
		synctest.Test(t, func(t *testing.T) {
			o := newOrigin("Cache-Control", c.first)
			cfg := cache.Config{FillTimeout: 3 * time.Second}
			if c.late < 0 {
				cfg.FillTimeout = -1
			}
			h := cache.MustNew(cfg).Handler(o)
			if c.first != "" {
				get(h, page)
				time.Sleep(2 * time.Second)
			}
			before := o.calls.Load()
			o.serve = func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Hour) // and never looks
				w.Header().Set("Cache-Control", "max-age=86400")
				io.WriteString(w, "body")
			}
			go get(h, page)
			synctest.Wait()
			start := time.Now()
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					w := get(h, page)
					require.Equal(t, c.code, w.Code)
					if c.late < 0 {
						require.Equal(t, time.Hour, time.Since(start))
						return
					}
					require.Equal(t, 3300*time.Millisecond, time.Since(start), "a moment after FillTimeout")
					if c.code == 200 {
						require.Equal(t, "body", w.Body.String())
						require.Contains(t, status(w), "detail=stale-if-error")
					}
				})
			}
			wg.Wait()
			require.Equal(t, before+1, o.calls.Load())
			time.Sleep(2 * time.Hour)
		})
	}
}

func TestAClientWaitsForADeafTransportNoLongerThanItMust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := cache.MustNew(cache.Config{FillTimeout: 3 * time.Second}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Hour)
			return nil, errors.New("no route")
		}))
		go rt.RoundTrip(newRequest(t, "GET", page))
		synctest.Wait()
		start := time.Now()
		_, err := rt.RoundTrip(newRequest(t, "GET", page))
		require.ErrorContains(t, err, "FillTimeout")
		require.Equal(t, 3300*time.Millisecond, time.Since(start))
		time.Sleep(2 * time.Hour)
	})
}
