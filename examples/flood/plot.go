package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// A plot draws measured values over the time of a run as SVG. It draws no line
// where there is no value.
type plot struct {
	strings.Builder
	w, h                     float64 // of the whole
	left, right, top, bottom float64 // margins
	seconds                  float64 // the time axis begins at 0
	y0, y1                   float64
	log                      bool
	id                       string
}

// The widths of the page, of phones, where the names of the acts are numbers,
// and of the picture for a README, where they stand on two lines.
const (
	wide    = 960.0
	narrow  = 375.0
	picture = 840.0
)

func newPlot(id, title, describe string, width, height, seconds, y0, y1 float64, log bool) *plot {
	p := &plot{w: width, h: height, left: 46, right: 8, top: 24, bottom: 26, seconds: seconds, y0: y0, y1: y1, log: log, id: fmt.Sprintf("%s%.0f", id, width)}
	switch width {
	case narrow:
		p.left, p.right = 44, 4
	case picture:
		p.top, p.right = 40, 20
	}
	fmt.Fprintf(p, `<svg viewBox="0 0 %.0f %.0f" role="img" aria-labelledby="%s-t %s-d"><title id="%s-t">%s</title><desc id="%s-d">%s</desc>`,
		p.w, p.h, p.id, p.id, p.id, html.EscapeString(title), p.id, html.EscapeString(describe))
	fmt.Fprintf(p, `<clipPath id="%s-c"><rect x="%.1f" y="%.1f" width="%.1f" height="%.1f"/></clipPath>`, p.id, p.left, p.top, p.w-p.left-p.right, p.h-p.top-p.bottom)
	return p
}

func (p *plot) x(t float64) float64 { return p.left + t/p.seconds*(p.w-p.left-p.right) }

func (p *plot) y(v float64) float64 {
	share := (v - p.y0) / (p.y1 - p.y0)
	if p.log {
		share = math.Log(max(v, p.y0)/p.y0) / math.Log(p.y1/p.y0)
	}
	return p.h - p.bottom - share*(p.h-p.top-p.bottom)
}

// acts draws the bands of the script, with their names, or on a narrow plot
// their numbers.
func (p *plot) acts(acts []actReport) {
	for i, a := range acts {
		if i%2 == 0 {
			fmt.Fprintf(p, `<rect class="band" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, p.x(a.From), p.top, p.x(a.To)-p.x(a.From), p.h-p.top-p.bottom)
		}
		name, x := a.Name, p.x((a.From+a.To)/2)
		if first, second, ok := strings.Cut(name, " "); ok && p.w == picture {
			p.text(x, p.top-24, "act", "middle", first)
			name = second
		} else if room := p.x(a.To) - p.x(a.From); p.w != picture && (p.w == narrow || room < 5.4*float64(len(name))) {
			name = fmt.Sprint(i + 1)
		}
		p.text(x, p.top-8, "act", "middle", name)
	}
}

// grid draws the axes: a line for each value, with a label, and the seconds.
func (p *plot) grid(values []float64, label func(float64) string) {
	for _, v := range values {
		fmt.Fprintf(p, `<path class="grid" d="M%.1f %.1fH%.1f"/>`, p.left, p.y(v), p.w-p.right)
		p.text(p.left-5, p.y(v)+4, "tick", "end", label(v))
	}
	step := nice(p.seconds / (p.w / 90))
	for t := 0.0; t <= p.seconds+0.001; t += step {
		unit, anchor := "", "middle"
		if t == 0 {
			unit = " s"
		}
		if p.x(t) > p.w-p.right-12 {
			anchor = "end"
		}
		p.text(p.x(t), p.h-p.bottom+16, "tick", anchor, trim(t)+unit)
	}
}

func (p *plot) text(x, y float64, class, anchor, s string) {
	fmt.Fprintf(p, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, class, x, y, anchor, html.EscapeString(s))
}

// A point is a value that held from one time to another.
type point struct{ from, to, v float64 }

// steps draws values as the steps that they are: each is the sum or the
// quantile of a stretch of time, and says nothing of a moment.
func (p *plot) steps(class string, points []point) {
	var d strings.Builder
	end := math.Inf(-1)
	for _, q := range points {
		if math.IsNaN(q.v) {
			continue
		}
		if math.Abs(q.from-end) < 1e-6 {
			fmt.Fprintf(&d, "V%.1fH%.1f", p.y(q.v), p.x(q.to))
		} else {
			fmt.Fprintf(&d, "M%.1f %.1fH%.1f", p.x(q.from), p.y(q.v), p.x(q.to))
		}
		end = q.to
	}
	fmt.Fprintf(p, `<path class="line %s" clip-path="url(#%s-c)" d="%s"/>`, class, p.id, d.String())
}

// stack draws layers of areas, the first one at the bottom. All layers have
// the same times.
func (p *plot) stack(classes []string, layers [][]point) {
	if len(layers) == 0 {
		return
	}
	base := make([]float64, len(layers[0]))
	for i, layer := range layers {
		var d strings.Builder
		for j, q := range layer {
			if math.IsNaN(q.v) || q.v == 0 {
				continue
			}
			fmt.Fprintf(&d, "M%.1f %.1fV%.1fH%.1fV%.1fZ", p.x(q.from), p.y(base[j]), p.y(base[j]+q.v), p.x(q.to), p.y(base[j]))
			base[j] += q.v
		}
		fmt.Fprintf(p, `<path class="area %s" clip-path="url(#%s-c)" d="%s"/>`, classes[i], p.id, d.String())
	}
}

// level draws a horizontal line with a name at its right end.
func (p *plot) level(class string, v float64, name string) {
	fmt.Fprintf(p, `<path class="line %s" d="M%.1f %.1fH%.1f"/>`, class, p.left, p.y(v), p.w-p.right)
	p.text(p.w-p.right-3, p.y(v)-5, "note", "end", name)
}

// marks draws a dotted line at each event of the script.
func (p *plot) marks(events []event) {
	for _, e := range events {
		if e.Who == "script" {
			fmt.Fprintf(p, `<path class="mark" d="M%.1f %.1fV%.1f"><title>%s s: %s</title></path>`, p.x(e.At), p.top, p.h-p.bottom, trim(math.Round(10*e.At)/10), html.EscapeString(e.Text))
		}
	}
}

// hints lays an invisible box with a text to point at over each stretch.
func (p *plot) hints(points []point, text func(i int) string) {
	for i, q := range points {
		fmt.Fprintf(p, `<rect class="hint" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`,
			p.x(q.from), p.top, p.x(q.to)-p.x(q.from), p.h-p.top-p.bottom, html.EscapeString(text(i)))
	}
}

func (p *plot) svg() string { return p.String() + "</svg>" }

// nice returns 1, 2 or 5 times a power of ten, at least x.
func nice(x float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(x)))
	for _, m := range []float64{1, 2, 5} {
		if m*p >= x*0.999 {
			return m * p
		}
	}
	return 10 * p
}

// ticks are the values of a linear axis up to its end.
func ticks(end float64, about int) []float64 {
	step := nice(end / float64(about))
	var all []float64
	for v := 0.0; v <= end*1.001; v += step {
		all = append(all, v)
	}
	return all
}
