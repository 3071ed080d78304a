// Features leaves out what is nice to have before it fails at what it is for:
// a product page whose reviews and recommendations go off by level, by hand,
// or alone when what they need is down.
//
//	go run ./examples/features
//	curl localhost:8080/product                          # everything
//	curl localhost:8080/-/switch                         # level, features, overrides, history
//	curl -X PUT -H 'Content-Type: application/json' localhost:8080/-/switch \
//	     -d '{"target":"level","level":1,"author":"you","reason":"to see it","for":"1m"}'
//	curl -i localhost:8080/product                       # shorter, and marked Spillway-Degraded
//	curl -X DELETE -H 'Spillway-Admin: 1' 'localhost:8080/-/switch?target=level&author=you'
//
// By itself it turns when the shedder is under pressure. The page queries a
// database of five connections three times, for a tenth of a second in all. Send
// it more than that can carry, and look at the switch meanwhile:
//
//	seq 1500 | xargs -P60 -I{} curl -so /dev/null localhost:8080/product &
//	sleep 5; curl localhost:8080/-/switch                # "automatic": 1 or more, and what changed
//
// You should see reviews go off after a second or two, recommendations stay for a
// quarter of the users, and all come back some seconds after the end.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
)

// newChain is the part to copy.
func newChain(recommender func() bool) (*health.Checker, http.Handler, *degrade.Switch) {
	shed := degrade.MustNew(degrade.Config{})
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{shed.Pressure}})
	reviews := sw.Feature("reviews", degrade.Reduced)
	recommendations := sw.Feature("recommendations", degrade.Reduced).Keep(0.25).Needs(recommender)
	pageSize := degrade.NewKnob(sw, 50, 20, 5) // at full, reduced, minimal

	connections := make(chan struct{}, 5)
	query := func(takes time.Duration) {
		connections <- struct{}{}
		time.Sleep(takes)
		<-connections
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/product", func(w http.ResponseWriter, r *http.Request) {
		// Asked before the first byte, an answer that lacks something is marked.
		ctx := r.Context()
		withReviews, withRecommendations := reviews.EnabledFor(ctx), recommendations.EnabledFor(ctx)
		query(20 * time.Millisecond)
		fmt.Fprintln(w, "a kettle, 42.00")
		if withReviews {
			query(40 * time.Millisecond)
			fmt.Fprintf(w, "%d reviews\n", pageSize.GetFor(ctx))
		}
		if withRecommendations {
			query(40 * time.Millisecond)
			fmt.Fprintln(w, "people who bought this bought tea")
		}
	})
	mux.Handle("/reviews", reviews.Handler(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "all the reviews") }),
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "reviews are paused") }),
	))
	h := health.MustNew(health.Config{Drain: health.Drain{Delay: time.Second}})
	admin := http.NewServeMux()
	admin.Handle("/-/switch", sw.Admin()) // only from this machine, unless you say otherwise
	admin.Handle("/", shed.Handler(sw.Handler(mux)))
	return h, h.Handler(admin), sw
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to serve on")
	flag.Parse()
	var recommenderUp atomic.Bool // yours asks a health check
	recommenderUp.Store(true)
	h, chain, sw := newChain(recommenderUp.Load)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	go sw.Run(ctx) // the automatic part
	fmt.Printf("serving on http://%s; what to try is in the comment of main.go\n", *listen)
	if err := h.ListenAndServe(ctx, &http.Server{Addr: *listen, Handler: chain}); err != nil {
		log.Fatal(err)
	}
}
