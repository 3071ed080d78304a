// Autoscale serves the two numbers to scale on, which are not CPU: a service
// that sheds has time to spare, so its CPU stays low while users are refused.
//
//	go run ./examples/autoscale            # from the root of the repository; brings its own load
//	curl -s localhost:8080/metrics | grep -E 'demand|saturation'
//
// The service can do 300 requests a second, 30 at a time. The load that it
// brings is a third of that and twice that by turns, ten seconds each. You
// should see the demand rise from 10 to above 100 and KEDA's replicas from the 2
// that it keeps to 6 or more. (600 a second need 60 slots; those who wait, and
// the time that an overloaded service takes, count too, so that it errs on the
// safe side.)
//
//	go run ./examples/autoscale -high 1500     # five times too much: demand goes on rising, saturation does not
//	go run ./examples/autoscale -high 0        # no load but yours
//
// Demand is the slots that all who came would have kept busy, those who were
// refused included: it says how many replicas are missing, where saturation only
// says that some are. keda.yaml scales on demand; hpa.yaml, with
// prometheus-adapter.yaml, on saturation. The part to copy is newService; the
// labels job, namespace and pod in the manifests are those that Prometheus adds.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
)

// What a replica does well at once: two thirds of the limit that it finds. The
// threshold in keda.yaml is the same; the test checks it.
const perReplica = 20

// newService is the part to copy: an API behind a shedder, and its numbers
// beside it, where no limit applies.
func newService(api http.Handler) (*health.Checker, *degrade.Shedder, http.Handler) {
	h := health.MustNew(health.Config{Drain: health.Drain{Delay: time.Second}})
	shed := degrade.MustNew(degrade.Config{})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", health.Metrics(shed, h))
	mux.Handle("/", shed.Handler(api))
	return h, shed, h.Handler(mux)
}

// newAPI stands for yours: each request holds one of 30 connections of a
// database for 100 ms.
func newAPI() http.Handler {
	connections := make(chan struct{}, 30)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case connections <- struct{}{}:
			time.Sleep(100 * time.Millisecond)
			<-connections
			fmt.Fprintln(w, "done")
		case <-r.Context().Done():
		}
	})
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to serve on")
	low := flag.Float64("low", 100, "`requests` a second of the load's quiet turn")
	high := flag.Float64("high", 600, "`requests` a second of its other turn; 0 sends none at all")
	turn := flag.Duration("turn", 10*time.Second, "how `long` a turn lasts")
	flag.Parse()
	if *low < 0 || *high < 0 || *low > 10_000 || *high > 10_000 || *turn < time.Second {
		log.Fatal("autoscale: -low and -high must be from 0 to 10000, -turn at least 1s")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fmt.Printf("serving on http://%s; what to try is in the comment of main.go\n", *listen)
	h, shed, service := newService(newAPI())
	var wg sync.WaitGroup
	if *high > 0 {
		wg.Go(func() { flood(ctx, "http://"+*listen+"/", *low, *high, *turn) })
		wg.Go(func() { tell(ctx, shed, os.Stdout) })
	}
	err := h.ListenAndServe(ctx, &http.Server{Addr: *listen, Handler: service})
	stop()
	wg.Wait()
	if err != nil {
		log.Fatal(err)
	}
}

// tell prints the numbers once a second.
func tell(ctx context.Context, shed *degrade.Shedder, out io.Writer) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	var before degrade.Stats
	for {
		select {
		case <-ctx.Done():
			return
		case <-second.C:
		}
		s := shed.Stats()
		fmt.Fprintf(out, "came %4d/s  refused %4d/s  running %3d  limit %3d  demand %4.0f  saturation %.2f  KEDA would have %d replicas\n",
			s.Admitted-before.Admitted+s.Refused-before.Refused, s.Refused-before.Refused, s.InFlight, s.Limit,
			s.Demand, float64(s.InFlight+s.Waiting)/float64(s.Limit), max(2, int(math.Ceil(s.Demand/perReplica))))
		before = s
	}
}

// flood sends requests when they are due, however long the answers take, as
// the public does.
func flood(ctx context.Context, url string, low, high float64, turn time.Duration) {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	defer wg.Wait()
	began, owed := time.Now(), 0.0
	for last := began; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		now := time.Now()
		rate := low
		if int(now.Sub(began)/turn)%2 == 1 {
			rate = high
		}
		owed += rate * min(now.Sub(last), time.Second).Seconds()
		last = now
		for ; owed >= 1; owed-- {
			wg.Go(func() {
				if resp, err := client.Get(url); err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
	}
}
