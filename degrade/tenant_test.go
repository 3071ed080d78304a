package degrade

import (
	"hash/maphash"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// One tenant sends a hundred requests, then another one sends five. They are
// served in turns.
func TestATenantWhoSendsMuchDoesNotPushOutTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shed := MustNew(Config{Limit: 1, MaxWait: time.Hour, Tenant: func(r *http.Request) string { return r.Header.Get("Tenant") }})
		var served []string
		quiet := "quiet"
		h := shed.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(5 * time.Millisecond)
			served = append(served, r.Header.Get("Tenant"))
		}))
		as := func(name string) *http.Request {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Tenant", name)
			return r
		}
		get := func(r *http.Request) int {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code
		}
		flow := func(name string) uint64 { return maphash.String(shed.seed, name) % flows }
		for flow(quiet) == flow("loud") {
			quiet += "x" // 64 tenants are told apart; these two must be
		}
		get(as("warm-up"))
		codes := make(chan int, 200)
		for _, c := range []struct {
			name string
			n    int
		}{{"loud", 100}, {quiet, 2}} {
			for range c.n {
				go func() {
					code := get(as(c.name))
					if c.name == quiet {
						codes <- code
					}
				}()
				synctest.Wait()
			}
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, 200, <-codes)
		require.Equal(t, 200, <-codes)
		last := 0
		for i, name := range served {
			if name == quiet {
				last = i
			}
		}
		require.LessOrEqual(t, last, 7, "served in turns: %v", served)
	})
}
