package main

import (
	"encoding/json"
	"io"
)

// The Grafana dashboard, laid out. Tests fail when a query names a metric or a
// label that the library does not emit, or when dashboard.json is not what this
// writes.

// A panel is one graph: its queries by their legends.
type panel struct {
	title, unit, about string
	queries            [][2]string
	width              int
}

// A row is a title and the panels under it.
type row struct {
	title  string
	panels []panel
}

// sel selects the job and the instances that the viewer has chosen.
const sel = `job=~"$job",instance=~"$instance"`

var rows = []row{
	{"Are we serving?", []panel{
		{"Requests", "reqps", "By the class of their status; canceled are clients that hung up.", [][2]string{
			{`sum by (code) (rate(spillway_http_request_duration_seconds_count{` + sel + `}[$__rate_interval]))`, "{{code}}"}}, 8},
		{"Errors", "percentunit", "Share of 5xx among the requests whose client waited.", [][2]string{
			{`sum(rate(spillway_http_request_duration_seconds_count{` + sel + `,code="5xx"}[$__rate_interval])) / sum(rate(spillway_http_request_duration_seconds_count{` + sel + `,code!="canceled"}[$__rate_interval]))`, "5xx"}}, 8},
		{"Latency", "s", "Of all requests; streams of events are not timed.", [][2]string{
			{`histogram_quantile(0.5, sum by (le) (rate(spillway_http_request_duration_seconds_bucket{` + sel + `}[$__rate_interval])))`, "p50"},
			{`histogram_quantile(0.99, sum by (le) (rate(spillway_http_request_duration_seconds_bucket{` + sel + `}[$__rate_interval])))`, "p99"}}, 8},
		{"Ready replicas", "short", "", [][2]string{
			{`sum(spillway_health_group_up{` + sel + `,group="ready"})`, "ready"},
			{`sum(spillway_health_draining{` + sel + `})`, "draining"}}, 8},
		{"Failing checks", "short", "", [][2]string{
			{`count by (check) (spillway_health_check_up{` + sel + `} == 0)`, "{{check}}"}}, 8},
		{"Age of the last run", "s", "It grows without end when a check hangs.", [][2]string{
			{`max by (check) (time() - (spillway_health_check_last_run_timestamp_seconds{` + sel + `} > 0))`, "{{check}}"}}, 8},
	}},
	{"Overload", []panel{
		{"Saturation", "percentunit", "Running and waiting over the limit, by replica: the number to scale on.", [][2]string{
			{`spillway_degrade_saturation_ratio{` + sel + `}`, "{{instance}} {{shedder}}"}}, 8},
		{"In flight and limit", "short", "", [][2]string{
			{`sum(spillway_degrade_inflight{` + sel + `})`, "in flight"},
			{`sum(spillway_degrade_queued{` + sel + `})`, "waiting"},
			{`sum(spillway_degrade_limit{` + sel + `})`, "limit"},
			{`sum(spillway_degrade_demand{` + sel + `})`, "demand"}}, 8},
		{"Shed", "reqps", "", [][2]string{
			{`sum by (priority) (rate(spillway_degrade_requests_total{` + sel + `,outcome="shed"}[$__rate_interval]))`, "{{priority}}"}}, 8},
		{"Rate limits", "reqps", "", [][2]string{
			{`sum by (policy, outcome) (rate(spillway_ratelimit_requests_total{` + sel + `}[$__rate_interval]))`, "{{policy}} {{outcome}}"}}, 8},
		{"Keys", "short", "Callers that a limit remembers.", [][2]string{
			{`sum by (policy) (spillway_ratelimit_keys{` + sel + `})`, "{{policy}}"}}, 8},
		{"Degradation level", "short", "0 is everything.", [][2]string{
			{`max by (switch) (spillway_degrade_level{` + sel + `})`, "{{switch}}"}}, 8},
	}},
	{"Cache", []panel{
		{"Hit ratio", "percentunit", "", [][2]string{
			{`sum by (cache) (rate(spillway_cache_requests_total{` + sel + `,outcome=~"hit|stale|revalidated|coalesced"}[$__rate_interval])) / sum by (cache) (rate(spillway_cache_requests_total{` + sel + `,outcome!="bypass"}[$__rate_interval]))`, "{{cache}}"}}, 8},
		{"Lookups", "reqps", "", [][2]string{
			{`sum by (outcome) (rate(spillway_cache_requests_total{` + sel + `}[$__rate_interval]))`, "{{outcome}}"}}, 8},
		{"Size", "bytes", "", [][2]string{
			{`sum by (cache) (spillway_cache_size_bytes{` + sel + `})`, "{{cache}}"}}, 8},
	}},
	{"Breakers and backends", []panel{
		{"Open breakers", "short", "", [][2]string{
			{`max by (breaker) (spillway_breaker_state{` + sel + `,state="open"})`, "{{breaker}}"}}, 8},
		{"Calls through breakers", "reqps", "", [][2]string{
			{`sum by (breaker, outcome) (rate(spillway_breaker_requests_total{` + sel + `}[$__rate_interval]))`, "{{breaker}} {{outcome}}"}}, 8},
		{"Available backends", "percentunit", "", [][2]string{
			{`min by (pool) (spillway_balancer_available_ratio{` + sel + `})`, "{{pool}}"}}, 8},
		{"Requests to backends", "reqps", "", [][2]string{
			{`sum by (upstream, outcome) (rate(spillway_balancer_requests_total{` + sel + `}[$__rate_interval]))`, "{{upstream}} {{outcome}}"}}, 8},
		{"In flight by backend", "short", "", [][2]string{
			{`sum by (upstream) (spillway_balancer_upstream_inflight{` + sel + `})`, "{{upstream}}"}}, 8},
		{"Retries", "reqps", "", [][2]string{
			{`sum by (pool) (rate(spillway_balancer_retries_total{` + sel + `}[$__rate_interval]))`, "{{pool}}"}}, 8},
	}},
	{"Process", []panel{
		{"CPU", "short", "Cores in use.", [][2]string{
			{`rate(process_cpu_seconds_total{` + sel + `}[$__rate_interval])`, "{{instance}}"}}, 8},
		{"Memory", "bytes", "", [][2]string{
			{`process_resident_memory_bytes{` + sel + `}`, "{{instance}} resident"},
			{`go_memstats_heap_alloc_bytes{` + sel + `}`, "{{instance}} heap"}}, 8},
		{"Goroutines", "short", "", [][2]string{
			{`go_goroutines{` + sel + `}`, "{{instance}}"}}, 8},
	}},
}

type object = map[string]any

// dashboard is the whole document, laid out from rows.
func dashboard() object {
	source := object{"type": "prometheus", "uid": "${datasource}"}
	var panels []object
	id, y := 0, 0
	for _, r := range rows {
		id++
		panels = append(panels, object{"id": id, "type": "row", "title": r.title, "collapsed": false, "panels": []any{},
			"gridPos": object{"x": 0, "y": y, "w": 24, "h": 1}})
		y++
		x := 0
		for _, p := range r.panels {
			if x+p.width > 24 {
				x, y = 0, y+8
			}
			var targets []object
			for i, q := range p.queries {
				targets = append(targets, object{"refId": string(rune('A' + i)), "datasource": source,
					"expr": q[0], "legendFormat": q[1], "editorMode": "code", "range": true})
			}
			id++
			panels = append(panels, object{
				"id": id, "type": "timeseries", "title": p.title, "description": p.about, "datasource": source, "targets": targets,
				"gridPos":     object{"x": x, "y": y, "w": p.width, "h": 8},
				"fieldConfig": object{"defaults": object{"unit": p.unit, "min": 0, "custom": object{"fillOpacity": 8, "showPoints": "never"}}, "overrides": []any{}},
				"options":     object{"tooltip": object{"mode": "multi", "sort": "desc"}, "legend": object{"showLegend": true, "displayMode": "list", "placement": "bottom"}},
			})
			x += p.width
		}
		y += 8
	}
	variable := func(name, query string) object {
		return object{"name": name, "type": "query", "datasource": source, "query": query, "refresh": 2,
			"includeAll": true, "multi": true, "current": object{"text": "All", "value": "$__all"}}
	}
	return object{
		"title": "Spillway", "uid": "spillway", "tags": []string{"spillway", "go"}, "timezone": "browser",
		"schemaVersion": 39, "version": 1, "editable": true, "refresh": "10s", "graphTooltip": 1,
		"time":   object{"from": "now-1h", "to": "now"},
		"panels": panels,
		"templating": object{"list": []object{
			{"name": "datasource", "type": "datasource", "query": "prometheus"},
			variable("job", `label_values(spillway_build_info, job)`),
			variable("instance", `label_values(spillway_build_info{job=~"$job"}, instance)`),
		}},
	}
}

func writeDashboard(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(dashboard())
}
