// Quickstart wraps an existing handler: a rate limit for each client, a cache,
// load shedding, and probes that are answered whatever the load.
//
//	go run ./examples/quickstart
//	curl -i localhost:8080/       # see RateLimit; again within 10 s: see Cache-Status say hit
//	for i in $(seq 30); do curl -so /dev/null -w '%{http_code} ' localhost:8080/; done   # 200, then 429
//	curl localhost:8080/readyz    # never limited; Ctrl-C drains before it stops
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to serve on")
	flag.Parse()
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // yours
		w.Header().Set("Cache-Control", "max-age=10")
		fmt.Fprintln(w, "it is", time.Now().Format(time.TimeOnly))
	})

	h := health.MustNew(health.Config{})
	lim := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerMinute(20),
		Key:  ratelimit.ClientIP(), // behind proxies name them here, or all clients are one
	})
	pages := cache.MustNew(cache.Config{})
	shed := degrade.MustNew(degrade.Config{})
	chain := h.Handler(lim.Handler(pages.Handler(shed.Handler(api))))

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fmt.Printf("serving on http://%s; what to try is in the comment of main.go\n", *listen)
	if err := h.ListenAndServe(ctx, &http.Server{Addr: *listen, Handler: chain}); err != nil {
		log.Fatal(err)
	}
}
