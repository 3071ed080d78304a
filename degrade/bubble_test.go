package degrade_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
)

// The simulation drives the core; this drives the handler, goroutines, timers and
// contexts included, and finds the same.
func TestTheHandlerHoldsGoodputAtThreeTimesCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shed := degrade.MustNew(degrade.Config{})
		workers := make(chan struct{}, 10)
		rng := rand.New(rand.NewPCG(1, 2))
		h := shed.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			workers <- struct{}{}
			defer func() { <-workers }()
			d, _ := time.ParseDuration(r.Header.Get("Work"))
			time.Sleep(d)
		}))
		var good atomic.Int64
		offer := func(perSecond float64, d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); {
				time.Sleep(time.Duration(rng.ExpFloat64() / perSecond * 1e9))
				work := time.Duration(rng.ExpFloat64() * 1e7).String()
				go func() {
					ctx, cancel := context.WithCancel(context.Background())
					defer time.AfterFunc(time.Second, cancel).Stop()
					defer cancel()
					w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil)
					r.Header.Set("Work", work)
					h.ServeHTTP(w, r)
					if w.Code == 200 && ctx.Err() == nil {
						good.Add(1)
					}
				}()
			}
		}
		offer(500, 5*time.Second)
		good.Store(0)
		offer(3000, 4*time.Second)
		require.GreaterOrEqual(t, good.Load(), int64(0.95*4000))
		require.InDelta(t, 13, shed.Stats().Limit, 7)
		require.Greater(t, shed.Pressure(), 1.5)
		time.Sleep(time.Minute)
		st := shed.Stats()
		require.Zero(t, st.InFlight+st.Waiting)
		require.Less(t, st.Pressure, 0.1)
	})
}
