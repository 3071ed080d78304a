package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert/yaml"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

// The files that query Prometheus.
var files = []string{"alerts.yaml", "dashboard.json", "../autoscale/keda.yaml", "../autoscale/hpa.yaml", "../autoscale/prometheus-adapter.yaml"}

// sources are all parts of the library, as they are from the start.
func sources() []health.Source {
	shed := degrade.MustNew(degrade.Config{})
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{shed.Pressure}})
	sw.Feature("reviews", degrade.Optional)
	h := health.MustNew(health.Config{Checks: map[string]health.Check{
		"db": {Probe: func(context.Context) error { return nil }},
	}})
	return []health.Source{
		h, shed, sw,
		ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(100), Key: ratelimit.ClientIP()}),
		cache.MustNew(cache.Config{}),
		breaker.MustNew(breaker.Config{Name: "inventory"}),
		balancer.MustNew(balancer.Config{Backends: balancer.URLs("http://10.0.0.1:8080")}),
	}
}

// emitted is what they emit: the values of every label of every sample, by its
// name.
func emitted(t *testing.T) map[string]map[string][]string {
	out := map[string]map[string][]string{}
	for _, source := range sources() {
		source.Collect(func(name, _, _ string, _ float64, labels ...string) {
			if out[name] == nil {
				out[name] = map[string][]string{}
			}
			for i := 0; i < len(labels); i += 2 {
				if !slices.Contains(out[name][labels[i]], labels[i+1]) {
					out[name][labels[i]] = append(out[name][labels[i]], labels[i+1])
				}
			}
		})
	}
	require.Greater(t, len(out), 50, "this has found the parts")
	out["spillway_build_info"] = map[string][]string{"version": nil, "go_version": nil} // of Metrics itself
	return out
}

var (
	metricRE  = regexp.MustCompile(`\b(spillway_[a-z0-9_]+)(\{[^{}]*\})?`)
	matcherRE = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)\\?"([^"\\]*)\\?"`)
	byRE      = regexp.MustCompile(`\b(?:by|on) \(([^()]*)\)`)
)

// What Prometheus, Kubernetes and Grafana add.
var foreign = []string{"job", "instance", "namespace", "pod", "le"}

func TestEveryMetricAndLabelInTheKitExists(t *testing.T) {
	known := emitted(t)
	var labels []string // of any metric
	for _, l := range known {
		for name := range l {
			labels = append(labels, name)
		}
	}
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range metricRE.FindAllStringSubmatch(string(text), -1) {
			name, selector := m[1], m[2]
			seen++
			require.Contains(t, known, name, "%s names %s, which nothing emits", file, name)
			for _, match := range matcherRE.FindAllStringSubmatch(selector, -1) {
				label, value := match[1], match[3]
				if slices.Contains(foreign, label) {
					continue
				}
				require.Contains(t, known[name], label, "%s: %s has no label %s", file, name, label)
				for v := range strings.SplitSeq(value, "|") {
					require.Contains(t, known[name][label], v, "%s: %s{%s} is never %q", file, name, label, v)
				}
			}
		}
		for _, m := range byRE.FindAllStringSubmatch(string(text), -1) {
			for label := range strings.SplitSeq(m[1], ",") {
				if label = strings.TrimSpace(label); !slices.Contains(foreign, label) && !strings.HasPrefix(label, "<<") {
					require.Contains(t, labels, label, "%s groups by %s", file, label)
				}
			}
		}
	}
	require.Greater(t, seen, 50, "this has found the queries")
}

func TestTheFilesAreWellFormed(t *testing.T) {
	for _, file := range append(slices.Clone(files), "alerts_test.yaml", "../kubernetes/deployment.yaml") {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for doc := range bytes.SplitSeq(text, []byte("\n---\n")) {
			var v map[string]any
			require.NoError(t, yaml.Unmarshal(doc, &v), file)
			require.NotEmpty(t, v, file)
		}
	}
}

func TestTheDashboardIsWhatThisProgramWrites(t *testing.T) {
	file, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	require.NoError(t, enc.Encode(dashboard()))
	require.JSONEq(t, buf.String(), string(file), "run: go run -C examples/observability . -dashboard dashboard.json")
}

func TestEveryMetricIsUsedOrKnownToBeForOtherEyes(t *testing.T) {
	// A metric that no file shows is no mistake, but the ones that an operator
	// needs in an incident must be there.
	var text string
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		text += string(b)
	}
	for _, name := range []string{
		"spillway_health_group_up", "spillway_health_check_up", "spillway_breaker_state", "spillway_balancer_available_ratio",
		"spillway_degrade_saturation_ratio", "spillway_degrade_requests_total", "spillway_ratelimit_requests_total", "spillway_cache_requests_total",
	} {
		require.Contains(t, text, name)
	}
}

func promtool(t *testing.T, args ...string) {
	bin, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool on this machine: apt-get install prometheus")
	}
	out, err := exec.Command(bin, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestPromtoolAcceptsTheRules(t *testing.T) { promtool(t, "check", "rules", "alerts.yaml") }

func TestEachAlertFiresWhenItShould(t *testing.T) {
	if testing.Short() {
		t.Skip("evaluates some days")
	}
	promtool(t, "test", "rules", "alerts_test.yaml")
}

func TestEachAlertHasATest(t *testing.T) {
	rules, err := os.ReadFile("alerts.yaml")
	require.NoError(t, err)
	tests, err := os.ReadFile("alerts_test.yaml")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`- alert: (\w+)`).FindAllSubmatch(rules, -1) {
		require.Regexp(t, `alertname: `+string(m[1])+`\n\s+exp_alerts:\n`, string(tests), "no test in which it fires")
	}
}

func TestPromtoolAcceptsTheQueriesOfTheDashboard(t *testing.T) {
	// As recording rules, for promtool checks those.
	var b strings.Builder
	b.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for _, r := range rows {
		for _, p := range r.panels {
			for _, q := range p.queries {
				expr, err := json.Marshal(strings.NewReplacer("$__rate_interval", "1m").Replace(q[0]))
				require.NoError(t, err)
				b.WriteString("  - record: x:y:z\n    labels: {q: " + string(expr) + "}\n    expr: " + string(expr) + "\n")
			}
		}
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(file, []byte(b.String()), fs.FileMode(0o600)))
	promtool(t, "check", "rules", file)
}

func TestPromtoolAcceptsTheMetrics(t *testing.T) {
	bin, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool on this machine: apt-get install prometheus")
	}
	cmd := exec.Command(bin, "check", "metrics")
	rec := httptest.NewRecorder()
	health.Metrics(sources()...).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	cmd.Stdin = rec.Body
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
