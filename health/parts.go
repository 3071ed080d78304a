package health

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
)

// parts are the instances that the samples name.
func parts(g *gathering, r rates) []part {
	out := []part{} // the page wants a list, not null
	add := func(kind, prefix, label string, fill func(p *part, match ...string)) {
		for _, name := range g.values(prefix, label) {
			p := part{Kind: kind, Name: name}
			fill(&p, label, name)
			out = append(out, p)
		}
	}
	add("rate limit", "spillway_ratelimit_", "policy", func(p *part, m ...string) {
		p.count(r, "allowed", "spillway_ratelimit_requests_total", append(m, "outcome", "allowed"))
		p.count(r, "denied", "spillway_ratelimit_requests_total", append(m, "outcome", "denied"))
		p.gauge(g, "keys", "", "spillway_ratelimit_keys", m)
	})
	add("cache", "spillway_cache_", "cache", func(p *part, m ...string) {
		hits := r.of("spillway_cache_requests_total", append(m, "outcome", cacheHits)...)
		p.Facts = append(p.Facts, fact{Label: "hit ratio", Unit: "%",
			Value: number(ratio(hits, r.of("spillway_cache_requests_total", append(m, "outcome", cacheLookups)...)))})
		p.count(r, "stale", "spillway_cache_requests_total", append(m, "outcome", "stale"))
		p.gauge(g, "entries", "", "spillway_cache_entries", m)
		p.gauge(g, "size", "B", "spillway_cache_size_bytes", m)
	})
	add("load shedder", "spillway_degrade_", "shedder", func(p *part, m ...string) {
		p.gauge(g, "in flight", "", "spillway_degrade_inflight", m)
		p.gauge(g, "limit", "", "spillway_degrade_limit", m)
		p.gauge(g, "queued", "", "spillway_degrade_queued", m)
		p.count(r, "shed", "spillway_degrade_requests_total", append(m, "outcome", "shed"))
		p.Tone = toneAbove(r.of("spillway_degrade_requests_total", append(m, "outcome", "shed")...), 0, 1)
	})
	add("switch", "spillway_degrade_level", "switch", func(p *part, m ...string) {
		p.gauge(g, "level", "", "spillway_degrade_level", m)
		for _, name := range g.values("spillway_degrade_feature_share", "feature", m...) {
			share := g.sum("spillway_degrade_feature_share", append(slices.Clone(m), "feature", name)...)
			p.Rows = append(p.Rows, part{Kind: "feature", Name: name, Facts: []fact{
				{Label: "share", Value: number(100 * share), Unit: "%", Tone: toneAbove(1-share, 0, math.Inf(1))},
			}})
		}
		p.Tone = toneAbove(g.sum("spillway_degrade_level", m...), 0, math.Inf(1))
	})
	add("breaker", "spillway_breaker_state", "breaker", func(p *part, m ...string) {
		for _, state := range g.values("spillway_breaker_state", "state", m...) {
			if g.sum("spillway_breaker_state", append(m, "state", state)...) == 1 {
				tone := map[string]string{"open": "bad", "half_open": "warn", "recovering": "warn"}[state]
				p.Facts = append(p.Facts, fact{Label: "state", Text: state, Tone: tone})
				p.Tone = tone
			}
		}
		if until := g.sum("spillway_breaker_open_until_timestamp_seconds", m...); until > 0 {
			p.Facts = append(p.Facts, fact{Label: "until", Value: number(until), Unit: "time"})
		}
		p.count(r, "calls", "spillway_breaker_requests_total", append(m, "outcome", "success|failure|slow"))
		p.count(r, "failed", "spillway_breaker_requests_total", append(m, "outcome", "failure|slow"))
		p.count(r, "rejected", "spillway_breaker_requests_total", append(m, "outcome", "rejected"))
	})
	add("pool", "spillway_balancer_", "pool", func(p *part, m ...string) {
		for _, up := range g.values("spillway_balancer_upstream_up", "upstream", m...) {
			row := part{Kind: "backend", Name: up}
			um := append(slices.Clone(m), "upstream", up)
			state := fact{Label: "state", Text: "up"}
			if g.sum("spillway_balancer_upstream_up", um...) == 0 {
				state.Text, state.Tone, row.Tone = "out", "bad", "bad"
				p.Tone = "warn"
			}
			row.Facts = append(row.Facts, state)
			row.gauge(g, "in flight", "", "spillway_balancer_upstream_inflight", um)
			p.Rows = append(p.Rows, row)
		}
		if v := g.sum("spillway_balancer_available_ratio", m...); !math.IsNaN(v) {
			p.Facts = append(p.Facts, fact{Label: "available", Value: number(100 * v), Unit: "%", Tone: toneAbove(1-v, 0, .3)})
		}
		if g.sum("spillway_balancer_failopen", m...) > 0 {
			p.Facts = append(p.Facts, fact{Label: "fail open", Text: "yes", Tone: "bad"})
			p.Tone = "bad"
		}
		p.count(r, "retries", "spillway_balancer_retries_total", m)
	})
	return out
}

// count adds the rate of a counter, unless nothing emits it.
func (p *part) count(r rates, label, name string, match []string) {
	if f := r.now.byName[name]; f != nil {
		p.Facts = append(p.Facts, fact{Label: label, Value: number(r.of(name, match...)), Unit: "/s"})
	}
}

// gauge adds a gauge, unless nothing emits it.
func (p *part) gauge(g *gathering, label, unit, name string, match []string) {
	if g.byName[name] != nil {
		p.Facts = append(p.Facts, fact{Label: label, Value: number(g.sum(name, match...)), Unit: unit})
	}
}

func processFacts(g *gathering, now time.Time) []fact {
	facts := []fact{
		{Label: "uptime", Value: number(float64(now.UnixMilli())/1e3 - g.sum("process_start_time_seconds")), Unit: "s"},
		{Label: "goroutines", Value: number(g.sum("go_goroutines"))},
		{Label: "heap", Value: number(g.sum("go_memstats_heap_alloc_bytes")), Unit: "B"},
		{Label: "resident", Value: number(g.sum("process_resident_memory_bytes")), Unit: "B"},
		{Label: "open files", Value: number(g.sum("process_open_fds"))},
		{Label: "Go", Text: strings.Join(g.values("go_info", "version"), " ")},
		{Label: "Spillway", Text: cmp.Or(strings.Join(g.values("spillway_build_info", "version"), " "), "unknown")},
	}
	return slices.DeleteFunc(facts, func(f fact) bool { return f.Value == nil && f.Text == "" })
}
