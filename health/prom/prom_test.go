package prom_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/health/prom"
)

func checker(name string) *health.Checker {
	h := health.MustNew(health.Config{Name: name, Checks: map[string]health.Check{
		"db":    {Probe: func(context.Context) error { return nil }},
		"redis": {Probe: func(context.Context) error { return errors.New("down") }, Optional: true},
	}})
	h.Handler(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	return h
}

// odd emits what label values may hold, and what they may not do.
type odd struct{}

func (odd) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	emit("odd_total", "With \\ and\na line.", "counter", 1, "v", "a \"quoted\" \\ value\nof two lines \xff")
	emit("odd_total", "", "counter", 2, "v", "other")
	emit("odd_total", "", "gauge", 3, "v", "of another kind")
}

type panics struct{}

func (panics) Collect(func(name, help, kind string, value float64, labels ...string)) { panic("boom") }

func families(t *testing.T, body string) map[string]*dto.MetricFamily {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	f, err := parser.TextToMetricFamilies(strings.NewReader(body))
	require.NoError(t, err)
	return f
}

func scrape(h http.Handler) string {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	return rec.Body.String()
}

func TestTheOfficialParserReadsTheTextFormat(t *testing.T) {
	a := checker("a")
	body := scrape(health.Metrics(a, a, checker("b"), checker("a"), odd{}, panics{}, nil))
	got := families(t, body)
	require.Equal(t, dto.MetricType_HISTOGRAM, got["spillway_http_request_duration_seconds"].GetType())
	require.Len(t, got["spillway_health_check_up"].Metric, 4, "two checks of two Checkers; the third has the name of the first")
	require.Len(t, got["spillway_health_check_duration_seconds"].Metric, 4)
	require.Equal(t, "a \"quoted\" \\ value\nof two lines \uFFFD", got["odd_total"].Metric[0].Label[0].GetValue())
	require.Equal(t, "With \\ and\na line.", got["odd_total"].GetHelp())
	require.Positive(t, got["spillway_scrape_refused_samples"].Metric[0].Gauge.GetValue())
	require.Equal(t, 1.0, got["spillway_scrape_panics"].Metric[0].Gauge.GetValue())
	for _, name := range []string{"go_goroutines", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds", "spillway_build_info"} {
		require.Contains(t, got, name)
	}
	for _, m := range got["spillway_http_request_duration_seconds"].Metric {
		require.Equal(t, m.Histogram.GetSampleCount(), m.Histogram.Bucket[len(m.Histogram.Bucket)-1].GetCumulativeCount())
	}

	problems, err := promlint.New(strings.NewReader(scrape(health.Metrics(a)))).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestTheCollectorShowsWhatMetricsShows(t *testing.T) {
	h := checker("a")
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(prom.Collector(h, h), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	fromRegistry := families(t, scrape(promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})))
	for name, want := range families(t, scrape(health.Metrics(h))) {
		if !strings.HasPrefix(name, "spillway_health_") && !strings.HasPrefix(name, "spillway_http_") {
			continue
		}
		got := fromRegistry[name]
		require.NotNil(t, got, name)
		require.Equal(t, want.GetType(), got.GetType(), name)
		require.Equal(t, want.GetHelp(), got.GetHelp(), name)
		require.Len(t, got.Metric, len(want.Metric), name)
		values := func(f *dto.MetricFamily) (out []string) {
			for _, m := range f.Metric {
				slices.SortFunc(m.Label, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
				out = append(out, fmt.Sprint(m.Label, m.Counter.GetValue(), m.Gauge.GetValue(), m.Histogram.GetSampleCount(), m.Histogram.GetSampleSum(), len(m.Histogram.GetBucket())))
			}
			return out
		}
		require.ElementsMatch(t, values(want), values(got), name)
	}
}

func TestTheCollectorNeverMakesAScrapeInvalid(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(prom.Collector(checker("a"), checker("a"), checker("b"), odd{}, odd{}))
	_, err := registry.Gather()
	require.NoError(t, err, "neither two of one name nor odd labels and kinds")

	registry = prometheus.NewRegistry()
	registry.MustRegister(prom.Collector(panics{}, checker("a")))
	got, err := registry.Gather()
	require.ErrorContains(t, err, "a source panicked: boom")
	require.NotEmpty(t, got, "the others are shown all the same")
}

func ExampleCollector() {
	h := health.MustNew(health.Config{})
	registry := prometheus.NewRegistry()
	registry.MustRegister(prom.Collector(h))
	got, err := registry.Gather()
	fmt.Println(got[0].GetName(), err)
	// Output: spillway_health_drain_aborted_requests_total <nil>
}
