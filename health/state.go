package health

import (
	"cmp"
	"iter"
	"math"
	"slices"
	"strings"
	"time"
)

// A pageState is what the dashboard shows, and what "copy as JSON" copies.
type pageState struct {
	Time       string      `json:"time"`
	Service    string      `json:"service,omitempty"`
	Release    string      `json:"release,omitempty"`
	Verdict    string      `json:"verdict"` // pass, warn, fail
	Headline   string      `json:"headline"`
	Phase      string      `json:"phase,omitempty"`
	Conditions []condition `json:"conditions"`
	Now        []fact      `json:"now"`
	Plots      []plot      `json:"plots"`
	Parts      []part      `json:"parts"`
	Checks     []checkRow  `json:"checks"`
	Timeline   []event     `json:"timeline"`
	Process    []fact      `json:"process"`
	Actions    []string    `json:"actions,omitempty"`
}

type condition struct {
	Subject string `json:"subject"`
	Text    string `json:"text"`
}

// A fact is one number with its name. Value is nil while it is not known.
type fact struct {
	Label string   `json:"label"`
	Value *float64 `json:"value"`
	Unit  string   `json:"unit,omitempty"` // "/s", "%", "s", "B", "time" or ""
	Text  string   `json:"text,omitempty"` // instead of Value
	Tone  string   `json:"tone,omitempty"` // "bad", "warn" or ""
}

// A part is one instance of something: a limiter, a breaker, a pool.
type part struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	Tone  string `json:"tone,omitempty"`
	Facts []fact `json:"facts"`
	Rows  []part `json:"rows,omitempty"` // the backends of a pool
}

type checkRow struct {
	Name   string   `json:"name"`
	Status string   `json:"status"`
	Reason string   `json:"reason,omitempty"`
	Impact string   `json:"impact"`
	Groups string   `json:"groups"`
	Age    *float64 `json:"age"` // seconds since its last run ended; nil before the first
	TookMS float64  `json:"tookMs"`
	Since  string   `json:"since"`
	Shared bool     `json:"shared,omitempty"`
}

type event struct {
	Time string `json:"time"`
	Text string `json:"text"`
}

// Besides Collect, what the page looks for in a source. Both are shapes that
// the packages of this library share.
type (
	changer interface {
		Changes() iter.Seq2[time.Time, string]
	}
	conditioner interface {
		Conditions() iter.Seq2[string, string]
	}
)

// state works out what the page shows at now, from g and the history.
func (p *Page) state(g *gathering, now time.Time) *pageState {
	s := &pageState{
		Time: timestamp(now), Verdict: "pass", Headline: "Serving",
		Conditions: []condition{}, Checks: []checkRow{}, Timeline: []event{},
	}
	p.fromCheckers(s, now)
	s.Conditions = append(s.Conditions, g.conditions...)
	for _, name := range g.silent {
		s.Conditions = append(s.Conditions, condition{name, "does not answer: what it has to show is missing"})
	}
	events := slices.Clone(g.changes)
	slices.Reverse(events) // what came later in one instant is shown above
	slices.SortStableFunc(events, func(a, b timedText) int { return b.at.Compare(a.at) })
	for _, e := range events[:min(len(events), 100)] {
		s.Timeline = append(s.Timeline, event{timestamp(e.at), e.text})
	}
	if len(s.Conditions) > 0 && s.Verdict == "pass" {
		s.Verdict, s.Headline = "warn", "Serving, not all is normal"
	}

	rates := p.rates(g, now)
	s.Now = p.nowFacts(g, rates)
	s.Parts = parts(g, rates)
	s.Plots = p.plots()
	s.Process = processFacts(g, now)
	if p.authorize != nil {
		for _, a := range p.actions {
			s.Actions = append(s.Actions, a.Name)
		}
	}
	return s
}

// fromCheckers fills in what only a Checker knows.
func (p *Page) fromCheckers(s *pageState, now time.Time) {
	worst := Pass
	for _, h := range p.checkers {
		rep := h.Report()
		if s.Service == "" {
			s.Service, s.Release = h.cfg.Service, h.cfg.Release
		}
		ready := rep.Ready
		worst = max(worst, ready)
		switch {
		case rep.Phase != Serving:
			s.Phase = rep.Phase.String()
			s.Headline = strings.ToUpper(s.Phase[:1]) + s.Phase[1:]
			if rep.Phase == Draining {
				s.Headline = "Draining: not ready, still serving"
			}
		case rep.Maintenance:
			s.Headline = "Not ready: in maintenance"
		case !rep.Startup.ok():
			s.Headline = "Starting"
		case !ready.ok():
			s.Headline = "Not ready"
		case ready == Warn && worst == Warn:
			s.Headline = "Serving, degraded"
		}
		if !rep.Live.ok() {
			worst, s.Headline = Fail, "Not alive"
		}
		for _, r := range rep.Checks {
			row := checkRow{
				Name: r.Name, Status: r.Status.String(), Reason: r.Reason, Impact: r.impact(), Shared: r.Shared,
				Groups: r.Groups.String(), TookMS: float64(r.Took.Microseconds()) / 1000, Since: timestamp(r.Since),
			}
			if !r.LastRun.IsZero() {
				age := now.Sub(r.LastRun).Seconds()
				row.Age = &age
			}
			s.Checks = append(s.Checks, row)
		}
	}
	s.Verdict = worst.String()
}

func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// sum adds the samples of one name that match all of the labels given as
// name, value; a value may list several, separated by "|". It returns NaN if
// there is no such family.
func (g *gathering) sum(name string, match ...string) float64 {
	f := g.byName[name]
	if f == nil {
		f = g.byName[histogramName(name)]
	}
	if f == nil {
		return math.NaN()
	}
	total := 0.0
	for i := range f.samples {
		if s := &f.samples[i]; s.name == name && s.matches(match) {
			total += s.value
		}
	}
	return total
}

func (s *sample) matches(match []string) bool {
	for i := 0; i+1 < len(match); i += 2 {
		if !slices.Contains(strings.Split(match[i+1], "|"), s.label(match[i])) {
			return false
		}
	}
	return true
}

// values lists the distinct values of a label over the families whose name has
// a prefix, in the order in which they were emitted.
func (g *gathering) values(prefix, label string, match ...string) (out []string) {
	for _, f := range g.families {
		if !strings.HasPrefix(f.name, prefix) {
			continue
		}
		for i := range f.samples {
			v := f.samples[i].label(label)
			if v != "" && f.samples[i].matches(match) && !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
	}
	return out
}

// nowFacts are the numbers at the top of the page.
func (p *Page) nowFacts(g *gathering, r rates) []fact {
	t := r.total()
	facts := []fact{
		{Label: "requests", Value: number(t.requests), Unit: "/s"},
		{Label: "errors", Value: number(ratio(t.errors, t.requests)), Unit: "%", Tone: toneAbove(ratio(t.errors, t.requests), .001, .01)},
		{Label: "p50", Value: number(t.p50), Unit: "s"},
		{Label: "p99", Value: number(t.p99), Unit: "s"},
	}
	c := measure(g)
	facts = append(facts, fact{Label: "in flight", Value: number(c.inflight)})
	if !math.IsNaN(c.limit) {
		facts = append(facts,
			fact{Label: "limit", Value: number(c.limit)},
			fact{Label: "queued", Value: number(c.queued), Tone: toneAbove(c.queued, 0, math.Inf(1))},
			fact{Label: "shed", Value: number(t.shed), Unit: "/s", Tone: toneAbove(t.shed, 0, 1)})
	}
	if !math.IsNaN(c.limited) {
		facts = append(facts, fact{Label: "denied", Value: number(t.limited), Unit: "/s"})
	}
	if !math.IsNaN(c.lookups) {
		facts = append(facts, fact{Label: "cache hits", Value: number(ratio(t.hits, t.lookups)), Unit: "%"})
	}
	return facts
}

// ratio is a of b in percent, NaN while there is nothing to divide by.
func ratio(a, b float64) float64 {
	if !(b > 0) {
		return math.NaN()
	}
	return 100 * a / b
}

func toneAbove(v, warn, bad float64) string {
	switch {
	case v > bad:
		return "bad"
	case v > warn:
		return "warn"
	}
	return ""
}

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
