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
const patience = time.Second

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

// wave sends 20 requests at once, and prints how many of them came to wait for
// back, and how many were answered only when somebody's patience was over.
func (c *chain) wave(who string) {
	const n = 20
	var late atomic.Int64
	before := c.waiting.Load()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			resp, err := http.Get(c.front.URL)
			if err != nil {
				return
			}
			resp.Body.Close()
			if resp.StatusCode == http.StatusGatewayTimeout {
				late.Add(1)
			}
		})
	}
	wg.Wait()
	fmt.Printf("%s: %d of %d requests waited for the stuck service, %d timed out\n", who, c.waiting.Load()-before, n, late.Load())
}

// Three services in a row, the last one stuck. Without breakers every request
// waits, in all of them; with them, only the first few do.
func Example_cascade() {
	bare := newChain(func(string) func(http.RoundTripper) http.RoundTripper {
		return func(http.RoundTripper) http.RoundTripper { return http.DefaultTransport.(*http.Transport).Clone() }
	})
	defer bare.close()
	bare.wave("without breakers")

	guarded := newChain(func(name string) func(http.RoundTripper) http.RoundTripper {
		return breaker.MustNew(breaker.Config{Name: name, OpenFor: time.Minute}).Transport
	})
	defer guarded.close()
	guarded.wave("with breakers")
	guarded.wave("from then on")
	// Output:
	// without breakers: 20 of 20 requests waited for the stuck service, 20 timed out
	// with breakers: 20 of 20 requests waited for the stuck service, 20 timed out
	// from then on: 0 of 20 requests waited for the stuck service, 0 timed out
}
