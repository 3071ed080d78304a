// Async takes work that is longer than a request: it answers 202 with a
// Location to poll, does the work on a few workers, tries again what failed,
// and puts on a list what goes on failing. The queue is on disk (goqite on
// SQLite, in this process), or NATS JetStream, for many processes.
//
//	go run -C examples/async .                            # from the root of the repository; keeps its jobs in async.db
//	curl -i -d report localhost:8080/jobs                 # 202, Location: /jobs/…
//	curl -i localhost:8080/jobs/…                         # queued, running, done
//	for i in 1 2; do curl -si -H 'Idempotency-Key: one' -d report localhost:8080/jobs | grep Location; done   # the same job twice
//	for i in $(seq 20); do curl -so /dev/null -w '%{http_code} ' -d report localhost:8080/jobs; done          # 202, then 503: -backlog is full
//	curl -d 'fail this' localhost:8080/jobs; sleep 8; curl localhost:8080/dead    # tried three times, then here
//	kill %1 (or Ctrl-C), and start it again               # what runs is finished first; what is queued, later
//	go run -C examples/async . -nats nats://localhost:4222    # the same with JetStream; needs: nats-server -js
//
// jobs.go has the handlers and the worker, queue.go the queue on disk, nats.go
// the other one. It is longer than an example should be because what makes such
// a service safe is in those parts: one transaction for key, bound and job, and
// a job that is only forgotten once it is known how it ended.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to serve on")
	file := flag.String("db", "async.db", "SQLite `file` of the queue")
	natsURL := flag.String("nats", "", "`URL` of a NATS server with JetStream, instead of SQLite")
	backlog := flag.Int("backlog", 10, "how `many` jobs may be queued or running")
	workers := flag.Int("workers", 2, "how `many` jobs run at once")
	takes := flag.Duration("takes", time.Second, "how long the work of one job takes")
	flag.Parse()

	q, err := openSQLite(*file, *backlog)
	if *natsURL != "" {
		q, err = openNATS(*natsURL, *backlog)
	}
	if err != nil {
		log.Fatal("async: ", err)
	}
	s := &service{queue: q, workers: max(1, *workers), takes: *takes}
	api := http.NewServeMux()
	api.HandleFunc("POST /jobs", s.post)
	api.HandleFunc("GET /jobs/{id}", func(w http.ResponseWriter, r *http.Request) {
		j, err := q.get(r.Context(), r.PathValue("id"))
		answer(w, http.StatusOK, j, err)
	})
	api.HandleFunc("GET /dead", func(w http.ResponseWriter, r *http.Request) {
		jobs, err := q.dead(r.Context())
		answer(w, http.StatusOK, jobs, err)
	})

	working, stopWorking := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range s.workers {
		wg.Go(func() {
			for working.Err() == nil {
				if t, err := q.next(working); err == nil {
					s.run(t)
				} else if working.Err() == nil {
					log.Print("async: ", err)
					time.Sleep(time.Second)
				}
			}
		})
	}
	h := health.MustNew(health.Config{
		Checks: map[string]health.Check{"queue": {Probe: q.ping, Shared: *natsURL != ""}},
		Drain: health.Drain{Delay: time.Second, Timeout: 5 * time.Second, HookTimeout: jobTimeout + time.Second, Hooks: []func(context.Context) error{
			func(context.Context) error { stopWorking(); wg.Wait(); return q.close() },
		}},
	})
	shed := degrade.MustNew(degrade.Config{}) // how many requests the queue's disk can take at once
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fmt.Printf("serving on http://%s; what to try is in the comment of main.go\n", *listen)
	if err := h.ListenAndServe(ctx, &http.Server{Addr: *listen, Handler: h.Handler(shed.Handler(api))}); err != nil {
		log.Fatal(err)
	}
}
