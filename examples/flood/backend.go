package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-spillway/spillway/health"
)

// The model: how many servers there are, what their databases can do at once,
// and what a request costs there. Everything else follows from these figures
// and from how the requests queue for them.
const (
	backendCount       = 3
	connections        = 2                     // to the database, for each backend
	productQuery       = 50 * time.Millisecond // mean; log-normal
	recommendQuery     = 25 * time.Millisecond // the expensive optional feature: half as much again
	orderQuery         = 50 * time.Millisecond
	databaseSpread     = 0.35 // sigma of the log-normal
	slowDatabase       = 5.0  // how many times slower in the act of that name
	pageBytes          = 2048
	backendStartup     = 300 * time.Millisecond // until a started backend listens: loading, connecting
	backendDrainDelay  = 400 * time.Millisecond
	backendDrainAtMost = 3 * time.Second
)

// nominalCapacity is how many requests a second of the usual mix the backends'
// connections can carry, every feature included. What they really carry is
// measured before the flood: see calibrate.
func nominalCapacity() float64 {
	orders := politeShare * checkoutShare
	mean := orders*orderQuery.Seconds() + (1-orders)*(productQuery+recommendQuery).Seconds()
	return backendCount * connections / mean
}

// A database is modelled as what a service sees of one: a pool with a fixed
// number of connections, each busy with one query at a time, and a queue in
// front of it. Queries sleep instead of computing, so that what is measured is
// the queueing and not this machine's processor.
type database struct {
	pool chan struct{}
	slow atomic.Uint64 // bits of a float64

	mu  sync.Mutex
	rnd *rand.Rand
}

func newDatabase(connections int, seed uint64) *database {
	d := &database{pool: make(chan struct{}, connections), rnd: rand.New(rand.NewPCG(seed, 1))}
	d.setSlow(1)
	return d
}

func (d *database) setSlow(times float64) { d.slow.Store(math.Float64bits(times)) }

// query waits for a connection, first come first served, and uses it. It stops
// waiting when ctx ends, as database/sql does. A query that has begun runs to
// its end all the same: the server does not look whether anybody still listens.
func (d *database) query(ctx context.Context, mean time.Duration) error {
	select {
	case d.pool <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.pool }()
	d.mu.Lock()
	z := d.rnd.NormFloat64()
	d.mu.Unlock()
	factor := math.Exp(databaseSpread*z - databaseSpread*databaseSpread/2) // its mean is 1
	time.Sleep(time.Duration(float64(mean) * factor * math.Float64frombits(d.slow.Load())))
	return nil
}

// backendHandler is one of the replicas behind the shop.
func backendHandler(name, version string, db *database) http.Handler {
	filler := strings.Repeat("all you want to know about it ", pageBytes/30)
	answer := func(mean time.Duration, format string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if version == "v2" {
				http.Error(w, name+" has a bug in "+version, http.StatusInternalServerError)
				return
			}
			if err := db.query(r.Context(), mean); err != nil {
				http.Error(w, "no database connection: "+err.Error(), http.StatusServiceUnavailable)
				return
			}
			w.Header().Set("X-Backend", name)
			fmt.Fprintf(w, format, r.PathValue("sku"), filler)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{sku}", answer(productQuery, "product %s: %s\n"))
	mux.HandleFunc("GET /recommendations/{sku}", answer(recommendQuery, "who bought %s also bought %.64s\n"))
	mux.HandleFunc("POST /orders", answer(orderQuery, "ordered%s: %.64s\n"))
	mux.HandleFunc("PUT /-/database", func(w http.ResponseWriter, r *http.Request) {
		times, err := strconv.ParseFloat(r.FormValue("slower"), 64)
		if err != nil || !(times > 0) {
			http.Error(w, "slower must be a positive number", http.StatusBadRequest)
			return
		}
		db.setSlow(times)
	})
	return mux
}

// runBackend serves until SIGTERM. Both kinds end their requests in flight
// before they close. The protected one has health around it: it answers probes,
// and says that it is going before it goes.
func runBackend(spec childSpec, ln net.Listener, announce func()) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	db := newDatabase(spec.Connections, spec.Seed)
	if spec.Slow > 0 {
		db.setSlow(spec.Slow)
	}
	handler := backendHandler(spec.Name, spec.Version, db)
	if spec.Protected {
		h := health.MustNew(health.Config{Name: spec.Name, Drain: health.Drain{
			Delay: backendDrainDelay, Timeout: backendDrainAtMost, Grace: 10 * time.Second,
		}})
		announce()
		return h.Serve(ctx, &http.Server{Handler: h.Handler(handler)}, ln)
	}
	announce()
	return servePlainly(ctx, handler, ln)
}

// servePlainly is what a careful program without Spillway does at SIGTERM.
func servePlainly(ctx context.Context, handler http.Handler, ln net.Listener) error {
	srv := &http.Server{Handler: handler}
	down := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		late, cancel := context.WithTimeout(context.Background(), backendDrainAtMost)
		defer cancel()
		down <- srv.Shutdown(late)
	})
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-down
}
