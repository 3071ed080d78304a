package otel_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/health/otel"
)

// collect registers the sources with a real SDK and returns what it reads.
func collect(t *testing.T, sources ...health.Source) (map[string]metricdata.Metrics, error) {
	reader := metric.NewManualReader()
	_, err := otel.Register(metric.NewMeterProvider(metric.WithReader(reader)).Meter("spillway"), sources...)
	require.NoError(t, err)
	var got metricdata.ResourceMetrics
	err = reader.Collect(t.Context(), &got)
	out := map[string]metricdata.Metrics{}
	for _, scope := range got.ScopeMetrics {
		for _, m := range scope.Metrics {
			out[m.Name] = m
		}
	}
	return out, err
}

func TestEveryMetricIsAnInstrument(t *testing.T) {
	h := health.MustNew(health.Config{Checks: map[string]health.Check{
		"db": {Probe: func(context.Context) error { return errors.New("down") }},
	}})
	front := h.Handler(http.NotFoundHandler())
	for range 3 {
		front.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}
	front.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/livez", nil))
	got, err := collect(t, h, h)
	require.NoError(t, err)

	probes := got["spillway.health.probes"].Data.(metricdata.Sum[float64])
	require.True(t, probes.IsMonotonic)
	sum := 0.0
	for _, p := range probes.DataPoints {
		sum += p.Value
	}
	require.Equal(t, 1.0, sum, "a source given twice counts once")

	up := got["spillway.health.check_up"].Data.(metricdata.Gauge[float64])
	require.Len(t, up.DataPoints, 1)
	require.Equal(t, attribute.NewSet(attribute.String("checker", "default"), attribute.String("check", "db")), up.DataPoints[0].Attributes)

	requests := got["spillway.http.request_duration.count"].Data.(metricdata.Sum[float64])
	sum = 0
	for _, p := range requests.DataPoints {
		sum += p.Value
	}
	require.Equal(t, 3.0, sum)
	require.Equal(t, "s", got["spillway.http.request_duration.sum"].Unit)
	require.Equal(t, "1", got["spillway.http.request_duration.bucket"].Unit)

	names := map[string]bool{}
	h.Collect(func(name, _, _ string, _ float64, _ ...string) { names[name] = true })
	require.Len(t, got, len(names), "none is lost")
}

// samples emits one of each.
type samples map[string]string

func (s samples) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	for name, kind := range s {
		emit(name, "", kind, 1)
	}
}

func TestNamesAndUnits(t *testing.T) {
	got, err := collect(t, samples{
		"spillway_ratelimit_requests_total":             "counter",
		"spillway_cache_size_bytes":                     "gauge",
		"spillway_degrade_saturation_ratio":             "gauge",
		"spillway_breaker_open_until_timestamp_seconds": "gauge",
		"spillway_http_request_duration_seconds_sum":    "histogram",
		"spillway_http_request_duration_seconds_bucket": "histogram",
		"go_goroutines": "gauge",
	})
	require.NoError(t, err)
	for name, unit := range map[string]string{
		"spillway.ratelimit.requests":           "1",
		"spillway.cache.size":                   "By",
		"spillway.degrade.saturation":           "1",
		"spillway.breaker.open_until_timestamp": "s",
		"spillway.http.request_duration.sum":    "s",
		"spillway.http.request_duration.bucket": "1",
		"go_goroutines":                         "1",
	} {
		require.Equal(t, unit, got[name].Unit, name)
		delete(got, name)
	}
	require.Empty(t, got)
}

type panics struct{ now bool }

func (p *panics) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	if p.now {
		panic("boom")
	}
	emit("x_total", "", "counter", 1)
}

func TestASourceThatPanicsDoesNotTakeTheOthersWithIt(t *testing.T) {
	h := health.MustNew(health.Config{})
	p := new(panics)
	reader := metric.NewManualReader()
	_, err := otel.Register(metric.NewMeterProvider(metric.WithReader(reader)).Meter("spillway"), p, h)
	require.NoError(t, err)
	p.now = true
	var got metricdata.ResourceMetrics
	require.ErrorContains(t, reader.Collect(t.Context(), &got), "otel: a source panicked: boom")
	require.NotEmpty(t, got.ScopeMetrics[0].Metrics)

	_, err = otel.Register(noop.Meter{}, p)
	require.ErrorContains(t, err, "otel: a source panicked: boom")
}

func ExampleRegister() {
	h := health.MustNew(health.Config{})
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	_, err := otel.Register(provider.Meter("spillway"), h)
	fmt.Println(err)
	// Output: <nil>
}
