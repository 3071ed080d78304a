package health_test

import (
	"context"
	"database/sql"
	"errors"
	"expvar"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/go-spillway/spillway/health"
)

var db *sql.DB

func pingRedis(context.Context) error { return nil }

// A whole service: checks, probes, metrics, the live page, and a stop that
// loses nothing.
func Example() {
	h := health.MustNew(health.Config{Checks: map[string]health.Check{
		"db":    {Probe: func(ctx context.Context) error { return db.PingContext(ctx) }, Shared: true},
		"redis": {Probe: pingRedis, Optional: true, Every: 5 * time.Second, Timeout: time.Second},
	}})

	mux := http.NewServeMux()
	mux.Handle("/metrics", health.Metrics(h))
	mux.Handle("/-/", health.Dashboard(h))

	serve := func() error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return h.ListenAndServe(ctx, &http.Server{Addr: ":8080", Handler: h.Handler(mux)})
	}
	_ = serve // in main: if err := serve(); err != nil { log.Fatal(err) }

	rec := httptest.NewRecorder()
	h.Handler(mux).ServeHTTP(rec, httptest.NewRequest("GET", "/readyz", nil))
	fmt.Print(rec.Code, " ", rec.Body)
	// Output: 503 {"status":"fail","notes":["starting"]}
}

func ExampleNew_invalid() {
	_, err := health.New(health.Config{
		Checks: map[string]health.Check{
			"db":    {Every: -time.Second},
			"redis": {Probe: pingRedis, Shared: true, EscalateAfter: time.Minute},
		},
		Drain: health.Drain{Delay: 20 * time.Second},
	})
	fmt.Println(err)
	// Output:
	// health: Config.Drain.Grace is 30s, less than Delay 20s, Timeout 15s and hooks 0s together: the platform would kill the process first
	// health: Config.Checks["db"].Probe is nil, must return whether the thing is there
	// health: Config.Checks["db"].Every is -1s, must not be negative
	// health: Config.Checks["redis"].EscalateAfter is set with Shared, which would restart every replica at once
}

// With a server of your own, run the checks beside it.
func ExampleChecker_Run() {
	ready := make(chan bool, 1)
	h := health.MustNew(health.Config{
		Checks: map[string]health.Check{"redis": {Probe: pingRedis, Every: time.Millisecond}},
		OnChange: func(c health.Change) {
			if c.Subject == "ready" && c.To == "pass" {
				ready <- true
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	<-ready
	cancel()
	fmt.Println(h.Ready(), <-done)
	// Output: true <nil>
}

// A port that is taken is an error at once.
func ExampleChecker_ListenAndServe() {
	taken := httptest.NewServer(nil)
	defer taken.Close()
	h := health.MustNew(health.Config{})
	err := h.ListenAndServe(context.Background(), &http.Server{Addr: taken.Listener.Addr().String()})
	fmt.Println(errors.Is(err, syscall.EADDRINUSE))
	// Output: true
}

// A stream of events ends when the service begins to drain, and its client
// comes back to another replica.
func ExampleDrainStarted() {
	h := health.MustNew(health.Config{})
	stream := h.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "tick")
		go h.Drain() // a deploy, while the stream is open
		for {
			select {
			case <-health.DrainStarted(r.Context()):
				fmt.Println("goodbye")
				return
			case <-r.Context().Done():
				return
			case <-time.After(10 * time.Millisecond):
				fmt.Fprintln(w, "tick")
			}
		}
	}))
	rec := httptest.NewRecorder()
	stream.ServeHTTP(rec, httptest.NewRequest("GET", "/events", nil))
	fmt.Println("Spillway-Draining:", rec.Header().Get("Spillway-Draining") != "")
	// Output:
	// goodbye
	// Spillway-Draining: false
}

// The loop of a worker that hangs makes the platform restart the process.
func ExampleBeat() {
	beat := &health.Beat{MaxAge: time.Minute}
	h := health.MustNew(health.Config{Checks: map[string]health.Check{
		"consumer": {Probe: beat.Probe, Groups: health.Live},
	}})
	for range 3 { // the loop
		beat.Touch()
	}
	fmt.Println(h.Status(health.Live), beat.Probe(context.Background()))
	// Output: pass <nil>
}

// Real requests count as runs of a check, so that its probe can rest.
func ExampleChecker_Observe() {
	upstream := httptest.NewServer(http.NotFoundHandler())
	defer upstream.Close()
	h := health.MustNew(health.Config{Checks: map[string]health.Check{
		"inventory": {Probe: health.HTTPGet(nil, upstream.URL)},
	}})
	client := &http.Client{Transport: h.Observe("inventory", nil)}
	resp, err := client.Get(upstream.URL)
	if err == nil {
		resp.Body.Close()
	}
	fmt.Println(h.Report().Checks[0].Status)
	// Output: pass
}

func ExampleChecker_Register() {
	h := health.MustNew(health.Config{})
	fmt.Println(h.Register("tenant-42", health.Check{Probe: pingRedis, Optional: true}))
	fmt.Println(h.Register("tenant-42", health.Check{Probe: pingRedis}))
	// Output:
	// <nil>
	// health: Register("tenant-42"): there is a check of that name
}

func ExampleDegraded() {
	lag := 40 * time.Second
	probe := func(context.Context) error {
		if lag > 30*time.Second {
			return health.Degraded(health.Public(fmt.Sprintf("lags by %v", lag), nil))
		}
		return nil
	}
	fmt.Println(probe(context.Background()))
	// Output: lags by 40s
}

// What other parts know about themselves can be a check.
func ExampleAtLeast() {
	up := func() float64 { return 0.25 } // such as the share of a pool that is up
	fmt.Println(health.AtLeast(up, 0.5)(context.Background()))
	// Output: 0.25, at least 0.5 is expected
}

func ExampleMetrics() {
	h := health.MustNew(health.Config{})
	rec := httptest.NewRecorder()
	health.Metrics(h).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(rec.Body.String()) {
		if strings.Contains(line, "spillway_health_draining") {
			fmt.Print(line)
		}
	}
	// Output:
	// # HELP spillway_health_draining Whether the service drains or has stopped.
	// # TYPE spillway_health_draining gauge
	// spillway_health_draining{checker="default"} 0
}

func ExampleVars() {
	h := health.MustNew(health.Config{})
	expvar.Publish("spillway", health.Vars(h))
	fmt.Println(strings.Contains(expvar.Get("spillway").String(), `"spillway_health_draining{checker=\"default\"}":0`))
	// Output: true
}

// Operators may switch maintenance on from the live page.
func ExamplePage_Allow() {
	h := health.MustNew(health.Config{})
	operator := func(r *http.Request) bool {
		return r.Header.Get("Authorization") == "Bearer "+os.Getenv("OPERATOR_TOKEN")
	}
	page := health.Dashboard(h).Allow(operator, h.MaintenanceActions()...)
	rec := httptest.NewRecorder()
	page.ServeHTTP(rec, httptest.NewRequest("POST", "/-/?action=maintenance+on", nil))
	fmt.Println(rec.Code, h.Ready())
	// Output: 403 true
}

// Whoever wants to know of every change can log it.
func ExampleConfig_onChange() {
	h := health.MustNew(health.Config{OnChange: func(c health.Change) { fmt.Println(c) }})
	h.SetMaintenance(true, "moving the database")
	h.SetMaintenance(false, "")
	// Output:
	// ready: fail: maintenance (was pass)
	// ready: pass (was fail)
}
