// Client calls somebody else's API as a good citizen: answers are kept as long
// as the API allows, calls are paced to the rate that it grants, a replica
// that fails is left out, and when all fail we stop calling for a while.
//
//	go run ./examples/client
//
// It starts the other side itself: an API of two replicas on loopback that
// allows 20 calls a second, of which one begins to fail. You should see that
// every call is answered, that the API had to refuse hardly any, and how many
// calls the cache saved. To try: set -calls, or leave a part out of newClient.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/ratelimit"
)

func main() {
	calls := flag.Int("calls", 120, "how `many` calls to make")
	flag.Parse()
	api := newAPI()
	defer api.Close()

	client, pages := newClient(api.first.URL, api.second.URL)
	answered := 0
	began := time.Now()
	for i := range *calls {
		if i == *calls/3 {
			api.broken.Store(true)
		}
		resp, err := client.Get(fmt.Sprintf("http://api.internal/price/%d", i%60))
		if err != nil {
			log.Print(err)
			continue
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			answered++
		}
	}
	fmt.Printf("%d of %d calls answered in %.1f s\n", answered, *calls, time.Since(began).Seconds())
	fmt.Printf("%d came from the cache, the API served %d, refused %d and failed %d\n",
		pages.Stats().Hits, api.served.Load(), api.refused.Load(), api.failed.Load())
}

// newClient is the part to copy. A call goes from the outside in: what is
// kept costs nothing, the rest is paced, then the breaker is asked, and then a
// replica is chosen.
func newClient(replicas ...string) (*http.Client, *cache.Cache) {
	pool := balancer.MustNew(balancer.Config{
		Name:     "prices",
		Backends: balancer.URLs(replicas...),
		Policy:   balancer.RoundRobin(),
		Retry:    balancer.Retry{When: func(r *http.Response, err error) bool { return err != nil || r.StatusCode == 500 }},
	})
	stop := breaker.MustNew(breaker.Config{Name: "prices"})
	pace := ratelimit.MustNew(ratelimit.Config{Name: "prices", Rate: ratelimit.Rate{Requests: 20, Per: time.Second, Burst: 10}})
	pages := cache.MustNew(cache.Config{Name: "prices"})
	return &http.Client{
		Transport: pages.Transport(pace.Transport(stop.Transport(pool.Transport(nil)))),
		Timeout:   10 * time.Second,
	}, pages
}

// An api is the other side.
type api struct {
	first, second           *httptest.Server
	served, refused, failed atomic.Int64
	broken                  atomic.Bool // the second replica
}

func newAPI() *api {
	a := &api{}
	quota := ratelimit.MustNew(ratelimit.Config{
		Rate:     ratelimit.PerSecond(20),
		Key:      func(*http.Request) string { return "all" },
		OnRefuse: func(*http.Request, string, ratelimit.Decision) { a.refused.Add(1) },
	})
	replica := func(breaks bool) *httptest.Server {
		price := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if breaks && a.broken.Load() {
				a.failed.Add(1)
				http.Error(w, "out of order", http.StatusInternalServerError)
				return
			}
			a.served.Add(1)
			w.Header().Set("Cache-Control", "max-age=60")
			fmt.Fprintln(w, "42.00")
		})
		return httptest.NewServer(quota.Handler(price))
	}
	a.first, a.second = replica(false), replica(true)
	return a
}

func (a *api) Close() {
	a.first.Close()
	a.second.Close()
}
