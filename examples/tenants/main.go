// Tenants gives each customer of an API what their plan says, and keeps one
// who sends too much from being felt by the others: rates by plan, a price per
// route, and turns between tenants where requests queue.
//
//	go run ./examples/tenants
//	curl -i -H 'X-API-Key: free-1' localhost:8080/search     # costs 5 of 60 a minute: RateLimit says what is left
//	for i in $(seq 20); do curl -so /dev/null -w '%{http_code} ' -H 'X-API-Key: free-1' localhost:8080/search; done   # 200, then 429
//	curl -i -H 'X-API-Key: gold-1' localhost:8080/search     # another plan, another bucket: 200
//	curl -i localhost:8080/search                            # no key: 401, and a small bucket per address
//	curl -i -X PUT 'localhost:8080/-/plan?name=free&perminute=600'   # live: no debt is forgotten
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

// A directory knows the customers' plans. Yours is a table in a database,
// with a cache.Loader in front.
type directory struct {
	mu    sync.RWMutex
	plans map[string]ratelimit.Rate
}

var customers = map[string]string{"free-1": "free", "free-2": "free", "gold-1": "gold"}

func (d *directory) rate(r *http.Request) ratelimit.Rate {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.plans[customers[r.Header.Get("X-API-Key")]] // the zero Rate means Config.Rate
}

func (d *directory) set(name string, perMinute int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.plans[name]; !ok || perMinute <= 0 {
		return fmt.Errorf("name must be free or gold, perminute a positive number")
	}
	d.plans[name] = ratelimit.PerMinute(perMinute)
	return nil
}

// tenant is whom a request is charged to: a customer that exists, or else the
// address it comes from, so that made-up keys are worth nothing.
func tenant(address ratelimit.KeyFunc) func(*http.Request) string {
	return func(r *http.Request) string {
		if key := r.Header.Get("X-API-Key"); customers[key] != "" {
			return "customer " + key
		}
		return address(r)
	}
}

func price(r *http.Request) int {
	if strings.HasPrefix(r.URL.Path, "/search") {
		return 5
	}
	return 1
}

func newChain(d *directory, api http.Handler) (*health.Checker, http.Handler) {
	who := tenant(ratelimit.ClientIP())
	lim := ratelimit.MustNew(ratelimit.Config{
		Name:   "plan",
		Rate:   ratelimit.PerMinute(10), // for those without a plan
		Key:    who,
		RateOf: d.rate,
		Cost:   price,
	})
	shed := degrade.MustNew(degrade.Config{
		Tenant: who, // while requests wait, tenants take turns
		Priority: func(r *http.Request) degrade.Priority {
			if customers[r.Header.Get("X-API-Key")] == "gold" {
				return degrade.Critical
			}
			return degrade.Normal
		},
	})
	h := health.MustNew(health.Config{Drain: health.Drain{Delay: time.Second}})
	return h, h.Handler(lim.Handler(shed.Handler(api)))
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to serve on")
	flag.Parse()
	d := &directory{plans: map[string]ratelimit.Rate{"free": ratelimit.PerMinute(60), "gold": ratelimit.PerMinute(6000)}}
	api := http.NewServeMux()
	api.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if customers[r.Header.Get("X-API-Key")] == "" {
			http.Error(w, "X-API-Key must be free-1, free-2 or gold-1", http.StatusUnauthorized)
			return
		}
		fmt.Fprintln(w, "found")
	})
	h, chain := newChain(d, api)
	mux := http.NewServeMux()
	mux.Handle("/", chain)
	mux.HandleFunc("PUT /-/plan", func(w http.ResponseWriter, r *http.Request) {
		if host, _, _ := net.SplitHostPort(r.RemoteAddr); !net.ParseIP(host).IsLoopback() {
			http.Error(w, "only from this machine", http.StatusForbidden)
			return
		}
		perMinute, _ := strconv.Atoi(r.FormValue("perminute"))
		if err := d.set(r.FormValue("name"), perMinute); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fmt.Printf("serving on http://%s; what to try is in the comment of main.go\n", *listen)
	if err := h.ListenAndServe(ctx, &http.Server{Addr: *listen, Handler: mux}); err != nil {
		log.Fatal(err)
	}
}
