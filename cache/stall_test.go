package cache_test

import (
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

// A stuckWriter takes nothing more until it is let go.
type stuckWriter struct {
	*httptest.ResponseRecorder
	let chan struct{}
}

func (w stuckWriter) Write(p []byte) (int, error) {
	<-w.let
	return w.ResponseRecorder.Write(p)
}

// A body that is too large to be kept goes to all who asked at the pace of the
// slowest; but nobody has to wait for long for one that has stopped taking it.
func TestWhoTakesNothingDoesNotHoldUpOthersForLong(t *testing.T) {
	for _, stuck := range []string{"the leader", "a follower", "everybody"} {
		t.Run(stuck, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 4 << 20
				o := newOrigin()
				joined := make(chan struct{})
				o.serve = func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", "max-age=60")
					http.NewResponseController(w).Flush()
					<-joined
					for range size >> 10 {
						if _, err := io.WriteString(w, strings.Repeat("x", 1<<10)); err != nil {
							return
						}
					}
				}
				h := cache.MustNew(cache.Config{MaxBodyBytes: 64 << 10, FillTimeout: time.Hour}).Handler(o)
				let := make(chan struct{})
				began := time.Now()
				var group sync.WaitGroup
				ask := func(stuck bool) (body *httptest.ResponseRecorder, broke *any, took *time.Duration) {
					body, broke, took = httptest.NewRecorder(), new(any), new(time.Duration)
					group.Go(func() {
						defer func() { *broke, *took = recover(), time.Since(began) }()
						w := http.ResponseWriter(body)
						if stuck {
							w = stuckWriter{body, let}
						}
						h.ServeHTTP(w, httptest.NewRequest("GET", page, nil))
					})
					synctest.Wait()
					return body, broke, took
				}
				first, firstBroke, firstTook := ask(stuck != "a follower")
				second, secondBroke, secondTook := ask(stuck != "the leader")
				close(joined)
				time.Sleep(time.Minute)
				close(let)
				group.Wait()
				require.EqualValues(t, 1, o.calls.Load())
				switch stuck {
				case "the leader":
					require.Equal(t, size, second.Body.Len())
					require.Less(t, *secondTook, 11*time.Second)
					require.Equal(t, http.ErrAbortHandler, *firstBroke, "it has not got all")
				case "a follower":
					require.Equal(t, size, first.Body.Len())
					require.Less(t, *firstTook, 11*time.Second)
					require.Equal(t, http.ErrAbortHandler, *secondBroke)
				default: // then nobody waits in vain
					require.Equal(t, size, first.Body.Len())
					require.Equal(t, size, second.Body.Len())
				}
			})
		})
	}
}
