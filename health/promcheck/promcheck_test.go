package promcheck_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

type odd struct{}

func (odd) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	emit("odd_total", "With \\ and \"quotes\" and\na line.", "counter", 1, "v", "a \"quoted\" \\ value\nof two lines \xff")
	emit("no_suffix", "", "counter", 2)
	emit("infinite", "", "gauge", math.Inf(1))
	emit("not_a_number", "", "gauge", math.NaN())
	emit("odd", "", "gauge", 1) // the family of odd_total in OpenMetrics
	emit("odd_total", "", "gauge", 1)
}

// all are all parts of the library, some of them twice.
func all() []health.Source {
	shed := degrade.MustNew(degrade.Config{})
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{shed.Pressure}})
	sw.Feature("reviews", degrade.Optional)
	h := health.MustNew(health.Config{Checks: map[string]health.Check{
		"db": {Probe: func(context.Context) error { return nil }},
	}})
	limit := ratelimit.Config{Rate: ratelimit.PerMinute(100), Key: ratelimit.ClientIP()}
	other := limit
	other.Name = "other"
	return []health.Source{
		h, h, shed, sw, ratelimit.MustNew(limit), ratelimit.MustNew(limit), ratelimit.MustNew(other),
		cache.MustNew(cache.Config{}), breaker.MustNew(breaker.Config{Name: "inventory"}),
		balancer.MustNew(balancer.Config{Backends: balancer.URLs("http://10.0.0.1:8080")}), odd{},
	}
}

func TestTheServerReadsBothFormats(t *testing.T) {
	handler := health.Metrics(all()...)
	for name, accept := range map[string]string{
		"text":        "",
		"OpenMetrics": "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4",
	} {
		t.Run(name, func(t *testing.T) {
			rec := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "/metrics", nil)
			r.Header.Set("Accept", accept)
			handler.ServeHTTP(rec, r)
			p, err := textparse.New(rec.Body.Bytes(), rec.Header().Get("Content-Type"), labels.NewSymbolTable(), textparse.ParserOptions{})
			require.NoError(t, err)
			types := map[string]model.MetricType{}
			series := map[string]bool{}
			for {
				entry, err := p.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				require.NoError(t, err)
				switch entry {
				case textparse.EntryType:
					family, kind := p.Type()
					require.NotContains(t, types, string(family))
					types[string(family)] = kind
				case textparse.EntrySeries:
					var l labels.Labels
					p.Labels(&l)
					require.False(t, series[l.String()], "%s comes twice", l)
					series[l.String()] = true
				}
			}
			require.Greater(t, len(series), 200)
			require.Equal(t, model.MetricTypeHistogram, types["spillway_http_request_duration_seconds"])
			require.Contains(t, series, `{__name__="odd_total", v="a \"quoted\" \\ value\nof two lines `+"\uFFFD"+`"}`)
			if name == "OpenMetrics" {
				require.Equal(t, model.MetricTypeCounter, types["spillway_ratelimit_requests"])
			} else {
				require.Equal(t, model.MetricTypeCounter, types["spillway_ratelimit_requests_total"])
			}
		})
	}
}
