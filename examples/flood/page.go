package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
)

//go:embed page.html
var pageSource string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"few": few, "ms": millisOf, "trim": trim,
	"inc": func(i int) int { return i + 1 },
	"at":  func(s float64) string { return fmt.Sprintf("%.1f", s) },
}).Parse(pageSource))

// A figure is one plot with its words, in the form for each width.
type figure struct {
	ID, Title, Says string
	Key             []key
	Wide, Narrow    template.HTML
}

// A key says what a colour or line means.
type key struct{ Class, Text string }

// A row of the table is one act.
type row struct {
	actReport
	Offered float64
	Cells   []cell // of each side
}

type cell struct {
	Good     float64
	P99      *float64
	Critical string
}

// writeHTML writes the report as a page that needs nothing else: no network, no
// script, no font.
func (rep *report) writeHTML(w io.Writer) error {
	data, err := json.Marshal(rep) // escapes <, > and &, so it can't end its element
	if err != nil {
		return err
	}
	return pageTemplate.Execute(w, struct {
		*report
		Columns []string // of the table, for each side
		Rows    []row
		Figures []figure
		Data    template.JS
	}{rep, []string{"good a second", "99 of 100 in ms", "checkouts"}, rep.rows(), rep.figures(), template.JS(data)})
}

func (rep *report) rows() []row {
	var all []row
	for i, a := range rep.Acts {
		r := row{actReport: a, Offered: rep.rate(i, rep.Sides[0].Acts[i].Offered)}
		for _, s := range rep.Sides {
			c := cell{Good: rep.rate(i, s.Acts[i].Good), P99: s.Acts[i].P99, Critical: "-"}
			if n := s.Acts[i].Critical; n > 0 {
				c.Critical = fmt.Sprintf("%.0f%%", math.Floor(100*float64(s.Acts[i].CriticalGood)/float64(n)))
			}
			r.Cells = append(r.Cells, c)
		}
		all = append(all, r)
	}
	return all
}

// figures draws what there is to draw.
func (rep *report) figures() []figure {
	if len(rep.Sides) == 0 || len(rep.Sides[0].Bins) == 0 {
		return nil
	}
	good, drawn := rep.goodput()
	all := []figure{draw(good, func(width float64) *plot { return drawn(width, width*0.2+120) })}
	for i := range rep.Sides {
		all = append(all, rep.fates(i))
	}
	all = append(all, rep.latencies())
	if len(rep.Samples) > 1 {
		all = append(all, rep.refusals(), rep.limits())
	}
	if len(rep.Events) > 0 {
		all = append(all, rep.timeline())
	}
	return append(all, rep.lags())
}

// draw draws a figure in both widths.
func draw(f figure, one func(width float64) *plot) figure {
	f.Wide, f.Narrow = template.HTML(one(wide).svg()), template.HTML(one(narrow).svg())
	return f
}

// series turns the bins of a side into points.
func (rep *report) series(side int, value func(summary) float64) []point {
	var all []point
	for i, b := range rep.Sides[side].Bins {
		from := float64(i) * rep.BinSeconds
		all = append(all, point{from, from + rep.BinSeconds, value(b)})
	}
	return all
}

func orNaN(v *float64) float64 {
	if v == nil {
		return math.NaN()
	}
	return *v
}

func highest(all ...[]point) float64 {
	var top float64
	for _, points := range all {
		for _, p := range points {
			top = max(top, p.v)
		}
	}
	return top
}

// goodput is the figure that says the most; it is drawn for the page, and alone
// for a README.
func (rep *report) goodput() (f figure, drawn func(width, height float64) *plot) {
	perSecond := func(n func(summary) int) func(summary) float64 {
		return func(s summary) float64 { return float64(n(s)) / rep.BinSeconds }
	}
	offered := rep.series(0, perSecond(func(s summary) int { return s.Offered }))
	var lines [][]point
	f = figure{ID: "good", Title: "Answered well, per second", Key: []key{{"offered", "offered"}}}
	if len(rep.Sides) > 1 {
		f.Key[0].Text = "offered to each"
	}
	for i, s := range rep.Sides {
		lines = append(lines, rep.series(i, perSecond(func(s summary) int { return s.Good })))
		f.Key = append(f.Key, key{s.Name, title(s.Name)})
	}
	f.Says = fmt.Sprintf("Answers with a good status within %s ms of when the request was due, against what was offered, for every %s s. Where more was offered than fits, the figure at the top says how much.", trim(rep.DeadlineMS), trim(rep.BinSeconds))
	top := max(highest(lines...)*1.1, min(rep.Capacity*2.4, highest(offered)*1.1))
	step := nice(top / 4)
	top = math.Ceil(top/step) * step
	name := "measured capacity"
	if rep.Target != "" {
		name = "-rate"
	}
	return f, func(width, height float64) *plot {
		p := newPlot(f.ID, f.Title, f.Says, width, height, rep.Seconds, 0, top, false)
		p.acts(rep.Acts)
		p.grid(ticks(top, 4), trim)
		p.marks(rep.Events)
		p.steps("offered", offered)
		for i, a := range rep.Acts {
			if mean := rep.rate(i, rep.Sides[0].Acts[i].Offered); mean > top {
				p.text(p.x((a.From+a.To)/2), p.top+14, "note", "middle", thousands(int(math.Round(mean)))+" offered")
			}
		}
		p.level("capacity", rep.Capacity, fmt.Sprintf("%s: %.0f", name, rep.Capacity))
		for i, l := range lines {
			p.steps(rep.Sides[i].Name, l)
		}
		p.hints(offered, func(i int) string {
			s := fmt.Sprintf("%s to %s s: offered %.0f a second", trim(offered[i].from), trim(offered[i].to), offered[i].v)
			for j, l := range lines {
				s += fmt.Sprintf(", %s %.0f", title(rep.Sides[j].Name), l[i].v)
			}
			return s
		})
		return p
	}
}

// fates shows what became of all requests to one side, as shares.
func (rep *report) fates(side int) figure {
	name := rep.Sides[side].Name
	f := figure{ID: "fate-" + name, Title: "What became of the requests: " + title(name),
		Says: fmt.Sprintf("Shares of the requests that were due in each %s s. Late means that the client gave up after %s ms; refused is 429 or 503; an error is any other status or a broken connection.", trim(rep.BinSeconds), trim(rep.DeadlineMS)),
		Key:  []key{{"good", "good"}, {"refused", "refused"}, {"late", "late"}, {"failed", "error"}}}
	parts := []func(summary) int{
		func(s summary) int { return s.Good }, func(s summary) int { return s.Refused },
		func(s summary) int { return s.Late }, func(s summary) int { return s.Errors },
	}
	var layers [][]point
	for _, n := range parts {
		layers = append(layers, rep.series(side, func(s summary) float64 {
			return 100 * float64(n(s)) / max(1, float64(s.Offered))
		}))
	}
	return draw(f, func(width float64) *plot {
		p := newPlot(f.ID, f.Title, f.Says, width, width*0.08+110, rep.Seconds, 0, 100, false)
		p.acts(rep.Acts)
		p.grid([]float64{0, 50, 100}, func(v float64) string { return trim(v) + " %" })
		p.stack([]string{"good", "refused", "late", "failed"}, layers)
		p.marks(rep.Events)
		p.hints(layers[0], func(i int) string {
			b := rep.Sides[side].Bins[i]
			return fmt.Sprintf("%s to %s s: %d good, %d refused, %d late, %d errors", trim(layers[0][i].from), trim(layers[0][i].to), b.Good, b.Refused, b.Late, b.Errors)
		})
		return p
	})
}

func (rep *report) latencies() figure {
	f := figure{ID: "latency", Title: "Time to the answer, in milliseconds",
		Says: fmt.Sprintf("Half (thin) and 99 of 100 (thick) of the good and the late answers took at most so long, counted from when the request was due; one that its client gave up is drawn at %s ms, and took longer.", trim(rep.DeadlineMS))}
	var p50, p99 [][]point
	low := rep.DeadlineMS
	for i, s := range rep.Sides {
		p50 = append(p50, rep.series(i, func(s summary) float64 { return orNaN(s.P50) }))
		p99 = append(p99, rep.series(i, func(s summary) float64 { return orNaN(s.P99) }))
		f.Key = append(f.Key, key{s.Name, title(s.Name)})
		for _, q := range p50[i] {
			if q.v < low {
				low = q.v
			}
		}
	}
	low = math.Pow(10, math.Floor(math.Log10(max(low, 0.01))))
	var lines []float64
	for v := low; v <= rep.DeadlineMS; v *= 10 {
		lines = append(lines, v)
	}
	return draw(f, func(width float64) *plot {
		p := newPlot(f.ID, f.Title, f.Says, width, width*0.14+120, rep.Seconds, low, rep.DeadlineMS*1.2, true)
		p.acts(rep.Acts)
		p.grid(lines, func(v float64) string { return fmt.Sprint(v) })
		p.marks(rep.Events)
		for i, s := range rep.Sides {
			p.steps("thin "+s.Name, p50[i])
			p.steps("thick "+s.Name, p99[i])
		}
		p.hints(p50[0], func(i int) string {
			s := fmt.Sprintf("%s to %s s:", trim(p50[0][i].from), trim(p50[0][i].to))
			for j, side := range rep.Sides {
				s += fmt.Sprintf(" %s half %s ms, 99 of 100 %s ms.", title(side.Name), millis(p50[j][i].v), millis(p99[j][i].v))
			}
			return s
		})
		return p
	})
}

// refusals shows what each part has refused, between two readings.
func (rep *report) refusals() figure {
	f := figure{ID: "refused", Title: "Turned away by each part, per second",
		Says: "From the protected shop's own /metrics, between two readings. The cache answers some of what degrade turns away with a page that it still has, so the clients saw fewer refusals than this."}
	var layers [][]point
	var classes []string
	for _, r := range refusers {
		var layer []point
		a := rep.Samples[0]
		for _, b := range rep.Samples[1:] {
			// Two readings that a busy machine has made at nearly the same time
			// would show a rate that never was.
			if b.At-a.At < 0.8*rep.BinSeconds {
				continue
			}
			layer = append(layer, point{a.At, b.At, (b.Refused[r.part] - a.Refused[r.part]) / (b.At - a.At)})
			a = b
		}
		last := rep.Samples[len(rep.Samples)-1].Refused[r.part]
		f.Key = append(f.Key, key{r.part, fmt.Sprintf("%s: %s in all", r.part, thousands(int(last)))})
		layers, classes = append(layers, layer), append(classes, r.part)
	}
	sums := make([]point, len(layers[0]))
	for _, l := range layers {
		for i, q := range l {
			sums[i] = point{q.from, q.to, sums[i].v + q.v}
		}
	}
	top := max(1, highest(sums))
	step := nice(top / 3)
	top = math.Ceil(top/step) * step
	return draw(f, func(width float64) *plot {
		p := newPlot(f.ID, f.Title, f.Says, width, width*0.1+110, rep.Seconds, 0, top, false)
		p.acts(rep.Acts)
		p.grid(ticks(top, 3), trim)
		p.stack(classes, layers)
		p.marks(rep.Events)
		p.hints(sums, func(i int) string {
			s := fmt.Sprintf("%.1f to %.1f s, per second:", sums[i].from, sums[i].to)
			for j, r := range refusers {
				s += fmt.Sprintf(" %s %.0f", r.part, layers[j][i].v)
			}
			return s
		})
		return p
	})
}

// limits shows what the shedder and the switch had set at each reading.
func (rep *report) limits() figure {
	f := figure{ID: "limit", Title: "How much at once, and what is left out",
		Says: "The limit that degrade found for requests in flight, and shaded when its switch left the recommendations out, as read from /metrics. Nobody told it that there are " + fmt.Sprint(backendCount*connections) + " database connections.",
		Key:  []key{{"limit", "limit"}, {"reduced", "recommendations left out"}}}
	var limit, reduced []point
	for i := 1; i < len(rep.Samples); i++ {
		a, b := rep.Samples[i-1], rep.Samples[i]
		limit = append(limit, point{a.At, b.At, a.Limit})
		if a.Level > 0 {
			reduced = append(reduced, point{a.At, b.At, 1})
		} else {
			reduced = append(reduced, point{a.At, b.At, 0})
		}
	}
	top := max(1, highest(limit)*1.1)
	step := nice(top / 3)
	top = math.Ceil(top/step) * step
	for i := range reduced {
		reduced[i].v *= top
	}
	return draw(f, func(width float64) *plot {
		p := newPlot(f.ID, f.Title, f.Says, width, width*0.08+100, rep.Seconds, 0, top, false)
		p.acts(rep.Acts)
		p.stack([]string{"reduced"}, [][]point{reduced})
		p.grid(ticks(top, 3), trim)
		p.marks(rep.Events)
		p.steps("limit", limit)
		p.hints(limit, func(i int) string {
			return fmt.Sprintf("%.1f s: limit %.0f, level %.0f", limit[i].from, rep.Samples[i].Limit, rep.Samples[i].Level)
		})
		return p
	})
}

// timeline shows who said something when.
func (rep *report) timeline() figure {
	f := figure{ID: "events", Title: "What happened, and which part noticed",
		Says: "Each dot is a sentence in the list below: of the script, or of a part of the chain about itself. A part remembers its last 64."}
	var lanes []string
	for _, e := range rep.Events {
		if !slices.Contains(lanes, e.Who) {
			lanes = append(lanes, e.Who)
		}
	}
	order := []string{"script", "health", "ratelimit", "cache", "degrade", "switch", "breaker", "balancer"}
	slices.SortFunc(lanes, func(a, b string) int { return slices.Index(order, a) - slices.Index(order, b) })
	return draw(f, func(width float64) *plot {
		p := newPlot(f.ID, f.Title, f.Says, width, 22*float64(len(lanes))+50, rep.Seconds, 0, float64(len(lanes)), false)
		p.left = 64
		p.acts(rep.Acts)
		p.marks(rep.Events)
		p.grid(nil, nil)
		for i, lane := range lanes {
			y := p.y(float64(len(lanes)-i) - 0.5)
			fmt.Fprintf(p, `<path class="grid" d="M%.1f %.1fH%.1f"/>`, p.left, y, p.w-p.right)
			p.text(p.left-6, y+4, "tick", "end", lane)
			for _, e := range rep.Events {
				if e.Who == lane {
					fmt.Fprintf(p, `<circle class="dot %s" cx="%.1f" cy="%.1f" r="4"><title>%.1f s: %s</title></circle>`, lane, p.x(e.At), y, e.At, template.HTMLEscapeString(e.Text))
				}
			}
		}
		return p
	})
}

// lags shows how well the generator kept to its schedule.
func (rep *report) lags() figure {
	f := figure{ID: "lag", Title: "How late the load generator was, in milliseconds",
		Says: fmt.Sprintf("The worst in each %s s. It is part of the latencies above, which count from when a request was due. What runs on this machine too was short of processor time when the generator was.", trim(rep.BinSeconds))}
	lag := rep.series(0, func(s summary) float64 { return s.Lag })
	top := max(10, highest(lag))
	step := nice(top / 3)
	top = math.Ceil(top/step) * step
	return draw(f, func(width float64) *plot {
		p := newPlot(f.ID, f.Title, f.Says, width, width*0.04+100, rep.Seconds, 0, top, false)
		p.acts(rep.Acts)
		p.grid(ticks(top, 3), trim)
		p.steps("offered", lag)
		p.hints(lag, func(i int) string { return fmt.Sprintf("%s s: %.1f ms", trim(lag[i].from), lag[i].v) })
		return p
	})
}

func title(name string) string {
	if name == "spillway" {
		return "Spillway"
	}
	return strings.ToLower(name)
}
