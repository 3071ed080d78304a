package degrade_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
)

// Handlers that take microseconds and want nothing but a processor. There are
// many more clients than processors, and goroutines that could run but do not
// hold slots all the same: that is the scheduler's queue, which is no reason to
// refuse anybody. Each client waits for its answer before it asks again.
func TestQuickHandlersAreNotRefusedBecauseTheProcessorIsBusy(t *testing.T) {
	if testing.Short() {
		t.Skip("under the race detector these handlers are not quick")
	}
	shed := degrade.MustNew(degrade.Config{})
	var sink sync.Map
	h := shed.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := 0
		for i := range 5000 {
			n += i * i
		}
		runtime.Gosched() // as a channel, a mutex or a log line would
		sink.Store(n, n)
	}))
	const clients, each = 128, 200
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(context.Background(), "GET", "/", nil))
			}
		})
	}
	wg.Wait()
	st := shed.Stats()
	t.Logf("%d refused of %d, limit %d, latency %v", st.Refused, clients*each, st.Limit, st.Latency)
	require.Less(t, st.Refused, uint64(clients*each/100))
}
