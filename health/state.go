package health

import (
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
