package health_test

import (
	"context"
	"encoding/json"
	"expvar"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

// The text format is also read by the official parsers, in the nested modules
// health/prom and health/promcheck.

// source is one made of a func.
type source func(emit func(name, help, kind string, value float64, labels ...string))

func (s *source) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	(*s)(emit)
}

func newSource(f source) health.Source { return &f }

func scrape(accept string, sources ...health.Source) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/metrics", nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	health.Metrics(sources...).ServeHTTP(rec, r)
	return rec
}

// only returns the lines about one metric.
func only(body, name string) string {
	var out []string
	for line := range strings.Lines(body) {
		if strings.Contains(line, name) {
			out = append(out, strings.TrimSuffix(line, "\n"))
		}
	}
	return strings.Join(out, "\n")
}

func TestTheTextFormat(t *testing.T) {
	s := newSource(func(emit func(name, help, kind string, value float64, labels ...string)) {
		emit("x_total", "Help with \\ and\nlines.", "counter", 3, "a", "1", "b", "q\"\\\n")
		emit("x_total", "", "counter", 2.5, "a", "2", "b", "")
		emit("y", "A gauge.", "gauge", math.Inf(-1))
		emit("y2", "A gauge.", "gauge", math.NaN())
		emit("z_seconds_bucket", "H.", "histogram", 1, "le", "0.1")
		emit("z_seconds_bucket", "H.", "histogram", 2, "le", "+Inf")
		emit("z_seconds_sum", "H.", "histogram", 0.25)
		emit("z_seconds_count", "H.", "histogram", 2)
	})
	rec := scrape("", s)
	require.Equal(t, "text/plain; version=0.0.4; charset=utf-8", rec.Header().Get("Content-Type"))
	body, _, _ := strings.Cut(rec.Body.String(), "# HELP spillway_build_info")
	require.Equal(t, `# HELP x_total Help with \\ and\nlines.
# TYPE x_total counter
x_total{a="1",b="q\"\\\n"} 3
x_total{a="2",b=""} 2.5
# HELP y A gauge.
# TYPE y gauge
y -Inf
# HELP y2 A gauge.
# TYPE y2 gauge
y2 NaN
# HELP z_seconds H.
# TYPE z_seconds histogram
z_seconds_bucket{le="0.1"} 1
z_seconds_bucket{le="+Inf"} 2
z_seconds_sum 0.25
z_seconds_count 2
`, body)
}

func TestOpenMetricsIsWrittenForWhoAcceptsIt(t *testing.T) {
	s := newSource(func(emit func(name, help, kind string, value float64, labels ...string)) {
		emit("x_total", "X.", "counter", 3)
		emit("odd", "No suffix.", "counter", 4)
	})
	const prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"
	for accept, want := range map[string]bool{
		prometheus:                     true,
		"application/openmetrics-text": true,
		"application/openmetrics-text; version=1.0.0, text/plain;q=0.9": true,
		"":                                 false,
		"*/*":                              false,
		"text/plain":                       false,
		"application/openmetrics-text;q=0": false,
		"application/openmetrics-text;version=2.0.0":      false,
		"application/openmetrics-text;q=0.1,text/plain":   false,
		"application/openmetrics-text;q=nan, text/html":   false,
		"application/openmetrics-text;q=7;;;,, \xff;q=\"": false,
	} {
		rec := scrape(accept, s)
		require.Equal(t, want, strings.HasPrefix(rec.Header().Get("Content-Type"), "application/openmetrics-text; version=1.0.0"), accept)
		require.Equal(t, want, strings.HasSuffix(rec.Body.String(), "# EOF\n"), accept)
		require.Equal(t, "Accept", rec.Header().Get("Vary"))
	}
	body := scrape(prometheus, s).Body.String()
	require.True(t, strings.HasPrefix(body, "# HELP x X.\n# TYPE x counter\nx_total 3\n"), "the family is named without the suffix")
	require.Contains(t, body, "# TYPE odd unknown\nodd 4\n")
}

func TestTwoSourcesWithOneNameDoNotMakeTheExpositionInvalid(t *testing.T) {
	a, b := health.MustNew(health.Config{}), health.MustNew(health.Config{})
	get(a.Handler(teapot), "/livez")
	body := scrape("", a, b, a, nil).Body.String()
	require.Equal(t, `spillway_health_probes_total{checker="default",group="live",code="200"} 1`,
		only(body, `spillway_health_probes_total{checker="default",group="live",code="200"}`), "the first has the series")
	require.NotContains(t, only(body, "spillway_scrape_refused_samples"), " 0", "and it is said")
	noRepeats(t, body)

	body = scrape("", a, a).Body.String()
	require.Contains(t, body, "spillway_scrape_refused_samples 0\n", "a source given twice is read once")
}

// noRepeats checks that no series and no family comes twice, and that each
// family is in one piece.
func noRepeats(t *testing.T, body string) {
	series, families := map[string]bool{}, map[string]bool{}
	current := ""
	for line := range strings.Lines(body) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			current, _, _ = strings.Cut(name, " ")
			require.False(t, families[current], "two families %s", current)
			families[current] = true
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		id := line[:strings.LastIndexByte(strings.TrimSpace(line), ' ')]
		require.False(t, series[id], "two series %s", id)
		series[id] = true
		require.True(t, strings.HasPrefix(id, current), "%s among %s", id, current)
	}
}

func TestSamplesOfOneNameFromSeveralSourcesStandTogether(t *testing.T) {
	checker := func(name string) health.Source {
		return health.MustNew(health.Config{Name: name, Checks: map[string]health.Check{"db": {Probe: pass}}})
	}
	body := scrape("", checker("a"), checker("b")).Body.String()
	noRepeats(t, body)
	require.Contains(t, body, "spillway_scrape_refused_samples 0\n")
	// A source may emit the buckets of all, then the sums of all.
	interleaved := newSource(func(emit func(name, help, kind string, value float64, labels ...string)) {
		for _, part := range []string{"bucket", "sum", "count"} {
			for _, who := range []string{"a", "b"} {
				labels := []string{"who", who}
				if part == "bucket" {
					labels = []string{"le", "+Inf", "who", who}
				}
				emit("x_seconds_"+part, "", "histogram", 1, labels...)
			}
		}
	})
	require.Equal(t, `# HELP x_seconds `+`
# TYPE x_seconds histogram
x_seconds_bucket{le="+Inf",who="a"} 1
x_seconds_sum{who="a"} 1
x_seconds_count{who="a"} 1
x_seconds_bucket{le="+Inf",who="b"} 1
x_seconds_sum{who="b"} 1
x_seconds_count{who="b"} 1`, only(scrape("", interleaved).Body.String(), "x_seconds"))

	var order string // of the samples of the histogram
	for _, m := range regexp.MustCompile(`check_duration_seconds_\w+\{checker="(.)"`).FindAllStringSubmatch(body, -1) {
		order += m[1]
	}
	require.Regexp(t, "^a+b+$", order)
}

func TestSourcesThatMisbehaveAreHeldBack(t *testing.T) {
	s := newSource(func(emit func(name, help, kind string, value float64, labels ...string)) {
		emit("good", "", "gauge", 1)
		for _, name := range []string{"", "9lives", "with space", "dash-ed", "new\nline", "ümlaut"} {
			emit(name, "", "gauge", 1)
		}
		emit("x", "", "summary", 1)
		emit("x", "", "histogram", 1)
		emit("y", "", "gauge", 1, "odd")
		emit("y", "", "gauge", 1, "a", "1", "a", "2")
		emit("y", "", "gauge", 1, "__name__", "z")
		emit("y", "", "gauge", 1, "a:b", "z")
		emit("good", "", "counter", 1)
		emit("good", "", "counter", 1, "of", "another kind")
		emit("good", "", "gauge", 2)
		panic("boom")
	})
	after := newSource(func(emit func(name, help, kind string, value float64, labels ...string)) {
		emit("after", "", "gauge", 1)
	})
	body := scrape("", s, after).Body.String()
	noRepeats(t, body)
	require.Equal(t, "# HELP good \n# TYPE good gauge\ngood 1", only(body, "good"))
	require.Contains(t, body, "\nafter 1\n")
	require.Contains(t, body, "\nspillway_scrape_refused_samples 15\n")
	require.Contains(t, body, "\nspillway_scrape_panics 1\n")
}

func TestEverySeriesIsThereFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{Checks: map[string]health.Check{"db": {Probe: pass}, "redis": {Probe: fail}}})
		names := func() (out []string) {
			h.Collect(func(name, _, _ string, _ float64, labels ...string) {
				out = append(out, name+strings.Join(labels, ","))
			})
			return out
		}
		before := names()
		run(t, h)
		front := h.Handler(teapot)
		get(front, "/")
		get(front, "/readyz")
		h.SetMaintenance(true, "")
		h.Drain()
		require.Equal(t, before, names(), "none comes later, and the order stays")
	})
}

func TestTheNumbersOfACheckerAreTrue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{Checks: map[string]health.Check{
			"db":    {Probe: func(context.Context) error { time.Sleep(30 * time.Millisecond); return nil }, Jitter: -1, Every: time.Second},
			"redis": {Probe: fail, Optional: true, Jitter: -1, Every: time.Second},
		}})
		front := h.Handler(teapot)
		get(front, "/readyz")
		start := time.Now()
		run(t, h)
		get(front, "/readyz")
		get(front, "/")
		require.Equal(t, 1.0, value(t, h, "spillway_health_check_up", "check", "db"))
		require.Equal(t, 0.0, value(t, h, "spillway_health_check_up", "check", "redis"))
		require.Equal(t, 1.0, value(t, h, "spillway_health_check_status", "check", "redis", "status", "fail"))
		require.Equal(t, 0.0, value(t, h, "spillway_health_check_status", "check", "redis", "status", "pass"))
		require.Equal(t, 2.0, value(t, h, "spillway_health_check_runs_total", "check", "db", "result", "pass"))
		require.Equal(t, 3.0, value(t, h, "spillway_health_check_runs_total", "check", "redis", "result", "fail"))
		require.Equal(t, 1.0, value(t, h, "spillway_health_check_changes_total", "check", "redis"))
		require.Equal(t, 2.0, value(t, h, "spillway_health_check_duration_seconds_count", "check", "db"))
		require.InDelta(t, 0.06, value(t, h, "spillway_health_check_duration_seconds_sum", "check", "db"), 1e-9)
		require.Equal(t, 0.0, value(t, h, "spillway_health_check_duration_seconds_bucket", "check", "db", "le", "0.025"))
		require.Equal(t, 2.0, value(t, h, "spillway_health_check_duration_seconds_bucket", "check", "db", "le", "0.05"))
		require.Equal(t, 0.0, value(t, h, "spillway_health_check_last_pass_timestamp_seconds", "check", "redis"))
		require.Equal(t, float64(start.Add(2*time.Second).Unix()), value(t, h, "spillway_health_check_last_run_timestamp_seconds", "check", "redis"))
		require.Equal(t, 1.0, value(t, h, "spillway_health_probes_total", "group", "ready", "code", "503"))
		require.Equal(t, 1.0, value(t, h, "spillway_health_probes_total", "group", "ready", "code", "200"))
		require.Equal(t, float64(time.Now().Unix()), value(t, h, "spillway_health_probe_last_timestamp_seconds", "group", "ready"))
		require.Equal(t, 0.0, value(t, h, "spillway_health_probe_last_timestamp_seconds", "group", "live"))
		require.Equal(t, 1.0, value(t, h, "spillway_health_group_up", "group", "ready"))
		require.Equal(t, 0.0, value(t, h, "spillway_health_draining"))
		h.Drain()
		require.Equal(t, 1.0, value(t, h, "spillway_health_draining"))
		require.Equal(t, 1.0, value(t, h, "spillway_health_drain_phase", "phase", "draining"))
		require.Equal(t, 0.0, value(t, h, "spillway_health_group_up", "group", "ready"))

		s := h.Stats()
		require.Equal(t, health.Stats{
			Live: health.Pass, Ready: health.Fail, Startup: health.Pass, Phase: health.Draining,
			Checks: 2, Passing: 1, Runs: 5, Changes: 2, Probes: 2, Requests: 1,
		}, s)
	})
}

func TestVarsIsForExpvar(t *testing.T) {
	var v expvar.Var = health.Vars(newSource(func(emit func(name, help, kind string, value float64, labels ...string)) {
		emit("x_total", "", "counter", 3, "a", `q"`)
		emit("y", "", "gauge", math.NaN())
	}))
	require.JSONEq(t, `{"x_total{a=\"q\\\"\"}": 3, "y": null}`, v.String())
	require.True(t, json.Valid([]byte(health.Vars(health.MustNew(health.Config{})).String())))
}

func TestMetricsAnswersGetAndHead(t *testing.T) {
	rec := httptest.NewRecorder()
	health.Metrics().ServeHTTP(rec, httptest.NewRequest("HEAD", "/metrics", nil))
	require.Equal(t, 200, rec.Code)
	require.Empty(t, rec.Body.String())
	rec = httptest.NewRecorder()
	health.Metrics().ServeHTTP(rec, httptest.NewRequest("POST", "/metrics", nil))
	require.Equal(t, http.StatusMethodNotAllowed, rec.Code)
}

func TestTheProcessIsDescribed(t *testing.T) {
	body := scrape("").Body.String()
	for _, name := range []string{
		"spillway_build_info{", "go_info{", "go_goroutines ", "go_memstats_heap_alloc_bytes ", "process_cpu_seconds_total ",
		"process_resident_memory_bytes ", "process_open_fds ", "process_max_fds ", "process_start_time_seconds ",
	} {
		require.Contains(t, body, "\n"+name)
	}
}
