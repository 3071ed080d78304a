// Kubernetes is a service that Kubernetes can deploy, scale and kill without a
// lost request; deployment.yaml and Dockerfile beside it are the other half.
//
//	go run ./examples/kubernetes       # from the root of the repository
//	curl -i localhost:8080/readyz      # 503 "starting" in the first second, then 200
//	curl -s localhost:8080/ ; curl -s localhost:8080/metrics | grep health ; open http://localhost:8080/-/
//	kill -TERM $(pgrep -nx kubernetes) # or Ctrl-C: what a rollout does
//	curl -i localhost:8080/readyz ; curl -i localhost:8080/
//
// You should see 503 "draining" from /readyz and still 200 from / for ten
// seconds, in which the platform takes the replica out, and then a clean end. The
// part to copy is config, with the numbers in deployment.yaml that it names.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-spillway/spillway/health"
)

// config is what has to agree with deployment.yaml.
func config() health.Config {
	return health.Config{
		Service: "orders",
		Checks: map[string]health.Check{
			// Only this process can be short of memory, so it may leave the
			// balancer, and is restarted if that lasts.
			"memory": {Probe: health.Memory(0.9), EscalateAfter: 5 * time.Minute},
			// All replicas use the same database. If it fails, they all stay:
			// somebody has to answer, and the answer may be in a cache.
			"db": {Probe: pingDatabase, Shared: true},
			// Nobody is sent here before the cache is warm.
			"warm-up": {Probe: warmUp, Groups: health.Startup},
		},
		Drain: health.Drain{
			Delay:   10 * time.Second, // readiness: 2 failures, 2 s apart, and time for every proxy to hear of it
			Timeout: 25 * time.Second,
			Grace:   45 * time.Second, // terminationGracePeriodSeconds
			Hooks:   []func(context.Context) error{closeDatabase},
		},
		OnChange: func(c health.Change) { log.Print(c) },
	}
}

// These stand for what a real service has.
func pingDatabase(context.Context) error  { return nil }
func closeDatabase(context.Context) error { return nil }

var started = time.Now()

func warmUp(context.Context) error {
	if time.Since(started) < time.Second {
		return errors.New("still cold")
	}
	return nil
}

// service is the whole chain.
func service(h *health.Checker) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Hello.") })
	mux.Handle("GET /metrics", health.Metrics(h))
	mux.Handle("/-/", health.Dashboard(h)) // keep it from the public in your Ingress
	return h.Handler(mux)
}

func main() {
	listen := flag.String("listen", ":8080", "`address` to serve on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	h := health.MustNew(config())
	log.Printf("serving on %s; what to try is in the comment of main.go", *listen)
	if err := h.ListenAndServe(ctx, &http.Server{Addr: *listen, Handler: service(h), ReadHeaderTimeout: 10 * time.Second}); err != nil {
		log.Fatal(err)
	}
}
