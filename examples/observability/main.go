// Observability shows all that a service tells of itself, and what it takes: a
// line for Prometheus, one for OpenTelemetry, and hooks that write with slog.
//
//	go run -C examples/observability .        # from the root of the repository
//	curl -s localhost:8080/metrics | grep ^spillway_        # no dependency; for those without a registry of their own
//	curl -s localhost:8080/metrics/client | grep ^spillway_ # the same through the Prometheus client
//	for i in $(seq 25); do curl -so /dev/null -w '%{http_code} ' localhost:8080/stock; done   # 500, then 503: the breaker has opened
//	for i in $(seq 60); do curl -so /dev/null -w '%{http_code} ' localhost:8080/; done        # 200, then 429: the limit
//
// You should see a line of slog when the breaker opens and for the first
// refusal of each second, the same on the live page, http://localhost:8080/-/,
// and every ten seconds what OpenTelemetry reads, as JSON on the standard output.
//
// In this folder too: dashboard.json for Grafana (10 or later; it is written by
// go run -C examples/observability . -dashboard dashboard.json), and alerts.yaml,
// rules with tests for promtool. For traces, put otelhttp around the chain.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdoutmetric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/health/otel"
	"github.com/go-spillway/spillway/health/prom"
	"github.com/go-spillway/spillway/ratelimit"
)

// newService is the part to copy. The hooks of states are for every change:
// there are few. That of refusals is called for each, in a flood too, so it
// writes one line a second and says how many it stands for.
func newService(log *slog.Logger) (*health.Checker, http.Handler, []health.Source) {
	h := health.MustNew(health.Config{
		Drain: health.Drain{Delay: time.Second},
		OnChange: func(c health.Change) {
			log.Info("health", "subject", c.Subject, "from", c.From, "to", c.To, "reason", c.Reason)
		},
	})
	var refused, last atomic.Int64
	lim := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerMinute(40),
		OnRefuse: func(r *http.Request, key string, d ratelimit.Decision) {
			refused.Add(1)
			if now, before := time.Now().Unix(), last.Load(); now > before && last.CompareAndSwap(before, now) {
				log.Warn("refused", "key", key, "path", r.URL.Path, "retry_after", d.RetryAfter.String(), "since_last", refused.Swap(0))
			}
		},
	})
	shed := degrade.MustNew(degrade.Config{OnChange: func(c degrade.Change) { log.Warn("shed", "what", c.Text) }})
	stock := breaker.MustNew(breaker.Config{Name: "stock", OnChange: func(c breaker.Change) {
		log.Warn("breaker", "circuit", c.Name, "from", c.From.String(), "to", c.To.String(), "why", c.Why)
	}})
	sources := []health.Source{h, lim, shed, stock}

	shop := http.NewServeMux()
	shop.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "a kettle, 42.00") })
	shop.Handle("GET /stock", stock.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "the stock is not known", http.StatusInternalServerError)
	})))

	registry := prometheus.NewRegistry()
	registry.MustRegister(prom.Collector(sources...)) // the line for the Prometheus client
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", health.Metrics(sources...)) // the line for Prometheus
	mux.Handle("GET /metrics/client", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("/-/", health.Dashboard(sources...)) // the live page; keep it from the public
	mux.Handle("/", lim.Handler(shed.Handler(shop)))
	return h, h.Handler(mux), sources
}

func run(ctx context.Context, listen string, every time.Duration) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	h, service, sources := newService(log)

	exporter, err := stdoutmetric.New() // yours goes to a collector
	if err != nil {
		return err
	}
	provider := sdk.NewMeterProvider(sdk.WithReader(sdk.NewPeriodicReader(exporter, sdk.WithInterval(every))))
	defer provider.Shutdown(context.WithoutCancel(ctx))
	if _, err := otel.Register(provider.Meter("spillway"), sources...); err != nil { // the line for OpenTelemetry
		return err
	}
	log.Info("serving", "url", "http://"+listen, "try", "what is in the comment of main.go")
	return h.ListenAndServe(ctx, &http.Server{Addr: listen, Handler: service})
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to serve on")
	every := flag.Duration("every", 10*time.Second, "how often OpenTelemetry reads")
	dashboard := flag.String("dashboard", "", "write the dashboard for Grafana to this `file`, and end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := func() error {
		if *dashboard == "" {
			return run(ctx, *listen, *every)
		}
		f, err := os.Create(*dashboard)
		if err != nil {
			return err
		}
		defer f.Close()
		return writeDashboard(f)
	}()
	if err != nil {
		slog.Error("observability", "err", err)
		os.Exit(1)
	}
}
