package breaker_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-spillway/spillway/breaker"
)

// patience is how long a service waits for the next one.
const patience = 2 * time.Second

// A chain is three services over real sockets: front asks middle, middle asks
// back, and back is stuck. Without breakers each request keeps a goroutine and
// a connection busy in front and in middle until the patience of middle is
// over.
type chain struct {
	front   *httptest.Server
	waiting atomic.Int64 // requests that back holds
	close   func()
}

func newChain(guard func(name string) func(http.RoundTripper) http.RoundTripper) *chain {
	c := &chain{}
	release := make(chan struct{})
	back := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		c.waiting.Add(1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	relay := func(name, next string) *httptest.Server {
		client := &http.Client{Transport: guard(name)(nil), Timeout: patience}
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			resp, err := client.Get(next)
			var open *breaker.OpenError
			switch {
			case errors.As(err, &open):
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusServiceUnavailable)
			case err != nil:
				w.WriteHeader(http.StatusGatewayTimeout)
			default:
				defer resp.Body.Close()
				w.WriteHeader(resp.StatusCode)
				_, _ = io.Copy(w, resp.Body)
			}
		}))
	}
	middle := relay("back", back.URL)
	c.front = relay("middle", middle.URL)
	c.close = func() {
		close(release)
		c.front.Close()
		middle.Close()
		back.Close()
	}
	return c
}

// wave sends n requests at once, and returns how long the slowest took and how
// many of them came to wait for back.
func (c *chain) wave(n int) (slowest time.Duration, waited int64) {
	before := c.waiting.Load()
	start := time.Now()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if resp, err := http.Get(c.front.URL); err == nil {
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	return time.Since(start), c.waiting.Load() - before
}

// Three services in a row, the last one stuck. Without breakers every request
// waits, in all of them; with them, only the first few do.
func Example_cascade() {
	none := func(string) func(http.RoundTripper) http.RoundTripper {
		return func(http.RoundTripper) http.RoundTripper { return http.DefaultTransport.(*http.Transport).Clone() }
	}
	guarded := func(name string) func(http.RoundTripper) http.RoundTripper {
		return breaker.MustNew(breaker.Config{Name: name, OpenFor: time.Minute}).Transport
	}
	for _, c := range []struct {
		name  string
		chain *chain
	}{{"without", newChain(none)}, {"with", newChain(guarded)}} {
		c.chain.wave(20) // the breaker learns
		slowest, waited := c.chain.wave(100)
		fmt.Printf("%s breakers: %d of 100 requests waited for the stuck service, the slowest for all its patience: %v\n",
			c.name, waited, slowest >= patience)
		c.chain.close()
	}
	// Output:
	// without breakers: 100 of 100 requests waited for the stuck service, the slowest for all its patience: true
	// with breakers: 0 of 100 requests waited for the stuck service, the slowest for all its patience: false
}
