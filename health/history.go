package health

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The history of the dashboard: a point every step, for the last ten minutes.
const (
	historyStep = 5 * time.Second
	historyLen  = 120
)

// What counts as answered by a cache, and as asked of it.
const (
	cacheHits    = "hit|stale|revalidated|coalesced"
	cacheLookups = cacheHits + "|miss|error"
)

// totals are the sums over all parts that the plots are made of: counters
// since the start, and gauges as they are. NaN is what no source emits.
type totals struct {
	requests, errors, shed, limited, hits, lookups float64
	inflight, limit, queued                        float64
	latency                                        []bucket // cumulative
}

type bucket struct{ le, n float64 }

const requestSeconds = "spillway_http_request_duration_seconds"

// measure adds up what was gathered.
func measure(g *gathering) totals {
	t := totals{
		requests: g.sum(requestSeconds + "_count"),
		errors:   g.sum(requestSeconds+"_count", "code", "5xx"),
		shed:     g.sum("spillway_degrade_requests_total", "outcome", "shed"),
		limited:  g.sum("spillway_ratelimit_requests_total", "outcome", "denied"),
		hits:     g.sum("spillway_cache_requests_total", "outcome", cacheHits),
		lookups:  g.sum("spillway_cache_requests_total", "outcome", cacheLookups),
		inflight: g.sum("spillway_degrade_inflight"),
		limit:    g.sum("spillway_degrade_limit"),
		queued:   g.sum("spillway_degrade_queued"),
	}
	if math.IsNaN(t.inflight) {
		t.inflight = g.sum("spillway_health_inflight_requests")
	}
	if f := g.byName[requestSeconds]; f != nil {
		byBound := map[float64]float64{}
		for i := range f.samples {
			s := &f.samples[i]
			if le, err := strconv.ParseFloat(s.label("le"), 64); err == nil && strings.HasSuffix(s.name, "_bucket") {
				byBound[le] += s.value
			}
		}
		for le, n := range byBound {
			t.latency = append(t.latency, bucket{le, n})
		}
		slices.SortFunc(t.latency, func(a, b bucket) int {
			if a.le < b.le {
				return -1
			}
			return 1
		})
	}
	return t
}

// A moment is what happened between two totals, counters per second.
type moment struct {
	requests, errors, shed, limited, hits, lookups float64
	p50, p99                                       float64 // seconds
}

// since is the moment from old to t, d apart.
func (t *totals) since(old *totals, d time.Duration) moment {
	rate := func(now, then float64) float64 { return max(0, now-then) / d.Seconds() }
	return moment{
		requests: rate(t.requests, old.requests), errors: rate(t.errors, old.errors),
		shed: rate(t.shed, old.shed), limited: rate(t.limited, old.limited),
		hits: rate(t.hits, old.hits), lookups: rate(t.lookups, old.lookups),
		p50: t.quantile(old, .5), p99: t.quantile(old, .99),
	}
}

// quantile estimates a quantile of the latency between old and t, as
// histogram_quantile does: linear within a bucket. NaN if there was nothing.
func (t *totals) quantile(old *totals, q float64) float64 {
	if len(t.latency) == 0 || len(old.latency) != len(t.latency) {
		return math.NaN()
	}
	delta := func(i int) float64 { return t.latency[i].n - old.latency[i].n }
	last := len(t.latency) - 1
	want := q * delta(last)
	if !(want > 0) {
		return math.NaN()
	}
	lower, below := 0.0, 0.0
	for i, b := range t.latency {
		if n := delta(i); n >= want {
			if math.IsInf(b.le, 1) {
				return lower // all that is known is that it is more
			}
			return lower + (b.le-lower)*(want-below)/(n-below)
		} else {
			below = n
		}
		lower = b.le
	}
	return math.NaN()
}

// A point is one entry of the history.
type point struct {
	at time.Time
	totals
}

// A view is a gathering with its time, kept to work out rates.
type view struct {
	at time.Time
	g  *gathering
}

// rates compares two gatherings.
type rates struct {
	now, then *gathering
	apart     time.Duration
}

// of is the rate per second of a counter's samples, NaN if it is not known.
func (r rates) of(name string, match ...string) float64 {
	if r.then == nil {
		return math.NaN()
	}
	return max(0, r.now.sum(name, match...)-r.then.sum(name, match...)) / r.apart.Seconds()
}

func (r rates) total() moment {
	if r.then == nil {
		nan := math.NaN()
		return moment{nan, nan, nan, nan, nan, nan, nan, nan}
	}
	now, then := measure(r.now), measure(r.then)
	return now.since(&then, r.apart)
}

// rates compares g with what was gathered about ten seconds ago, or the oldest
// there is. It requires that p.mu be held.
func (p *Page) rates(g *gathering, now time.Time) rates {
	r := rates{now: g}
	for _, v := range p.recent {
		if d := now.Sub(v.at); d > 0 && (r.then == nil || d >= 10*time.Second) {
			r.then, r.apart = v.g, d
		}
	}
	return r
}

// keep adds g to the history. It requires that p.mu be held.
func (p *Page) keep(g *gathering, now time.Time) {
	p.recent = append(p.recent, view{now, g})
	p.recent = slices.DeleteFunc(p.recent, func(v view) bool {
		return now.Sub(v.at) > 10*time.Second+2*historyStep
	})
	if n := len(p.points); n == 0 || now.Sub(p.points[n-1].at) >= historyStep-historyStep/10 {
		p.points = append(p.points, point{now, measure(g)})
		if len(p.points) > historyLen {
			p.points = slices.Delete(p.points, 0, len(p.points)-historyLen)
		}
	}
}

// A plot is a few lines over the same seconds.
type plot struct {
	Title string    `json:"title"`
	Unit  string    `json:"unit,omitempty"`
	Times []float64 `json:"times"` // Unix seconds
	Lines []line    `json:"lines"`
}

type line struct {
	Name   string     `json:"name"`
	Tone   string     `json:"tone,omitempty"`
	Values []*float64 `json:"values"` // nil where nothing is known
}

// plots draws the history. It requires that p.mu be held.
func (p *Page) plots() []plot {
	out := []plot{
		{Title: "requests", Unit: "/s", Lines: []line{{Name: "all"}, {Name: "5xx", Tone: "bad"}}},
		{Title: "latency", Unit: "s", Lines: []line{{Name: "p50"}, {Name: "p99", Tone: "warn"}}},
		{Title: "in flight", Lines: []line{{Name: "now"}, {Name: "limit", Tone: "warn"}, {Name: "queued", Tone: "bad"}}},
		{Title: "refused", Unit: "/s", Lines: []line{{Name: "shed", Tone: "bad"}, {Name: "rate limited", Tone: "warn"}}},
		{Title: "cache hits", Unit: "%", Lines: []line{{Name: "ratio"}}},
	}
	for i := 1; i < len(p.points); i++ {
		old, t := &p.points[i-1], &p.points[i]
		m := t.since(&old.totals, t.at.Sub(old.at))
		values := [][]float64{
			{m.requests, m.errors}, {m.p50, m.p99}, {t.inflight, t.limit, t.queued},
			{m.shed, m.limited}, {ratio(m.hits, m.lookups)},
		}
		for j, vs := range values {
			out[j].Times = append(out[j].Times, math.Round(float64(t.at.UnixMilli())/100)/10)
			for k, v := range vs {
				out[j].Lines[k].Values = append(out[j].Lines[k].Values, number(v))
			}
		}
	}
	// A line that no source feeds, and a plot without lines, is not shown.
	for i := range out {
		out[i].Lines = slices.DeleteFunc(out[i].Lines, func(l line) bool {
			return !slices.ContainsFunc(l.Values, func(v *float64) bool { return v != nil })
		})
	}
	return slices.DeleteFunc(out, func(pl plot) bool { return len(pl.Lines) == 0 })
}
