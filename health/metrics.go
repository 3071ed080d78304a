package health

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// The media types of expositions.
const (
	textFormat  = "text/plain; version=0.0.4; charset=utf-8"
	openMetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8"
)

// Metrics returns a handler that writes the numbers of the sources, and of
// the process and the Go runtime, for Prometheus: in its text format 0.0.4, or
// in OpenMetrics 1.0 if the request accepts that. It reads the sources when it
// is asked, and costs nothing otherwise.
//
// A source given twice is read once. Where two sources emit the same series,
// as two of one type and one Name do, the first has it, and
// spillway_scrape_refused_samples says how many were left out.
func Metrics(sources ...Source) http.Handler {
	all := readers(append(unique(sources), processSource{}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !getOrHead(w, r) {
			return
		}
		g := gather(all)
		about := func(name, help string, n int) { g.add(emitted{name, help, "gauge", float64(n), nil}) }
		about("spillway_scrape_refused_samples", "Samples left out of this answer: not valid, or of a series that another source has.", g.refused)
		about("spillway_scrape_panics", "Sources that panicked during this answer.", g.panics)
		about("spillway_scrape_timeouts", "Sources left out of this answer because they did not answer in time.", len(g.silent))
		open := prefersOpenMetrics(r.Header.Values("Accept"))
		body := g.text(open)
		header := w.Header()
		header.Set("Content-Type", textFormat)
		if open {
			header.Set("Content-Type", openMetrics)
		}
		header["Cache-Control"] = noStore
		header["X-Content-Type-Options"] = noSniff
		header.Set("Vary", "Accept")
		header.Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method != http.MethodHead {
			w.Write(body)
		}
	})
}

// prefersOpenMetrics reports whether Accept gives OpenMetrics 1.0 a higher
// quality than plain text, which also stands for whoever says nothing.
func prefersOpenMetrics(accept []string) bool {
	var open, text float64
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		media, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if s, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(s, 64); err != nil || !(q >= 0 && q <= 1) {
				continue
			}
		}
		switch media {
		case "application/openmetrics-text":
			if v := params["version"]; v == "" || strings.HasPrefix(v, "1.") {
				open = max(open, q)
			}
		case "text/plain":
			text = max(text, q)
		}
	}
	return open > 0 && open >= text
}

// text writes the exposition.
func (g *gathering) text(open bool) []byte {
	var b bytes.Buffer
	for _, f := range g.families {
		name, kind := f.name, f.kind
		if open && kind == "counter" {
			// OpenMetrics names the family without the suffix of its samples,
			// and demands the suffix.
			if base, ok := strings.CutSuffix(name, "_total"); ok && g.byName[base] == nil {
				name = base
			} else {
				kind = "unknown"
			}
		}
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, escape(f.help, open), name, kind)
		for _, s := range f.ordered() {
			b.WriteString(s.name)
			for i := 0; i < len(s.labels); i += 2 {
				sep := byte(',')
				if i == 0 {
					sep = '{'
				}
				b.WriteByte(sep)
				b.WriteString(s.labels[i])
				b.WriteString(`="`)
				b.WriteString(escape(s.labels[i+1], true))
				b.WriteByte('"')
			}
			if len(s.labels) > 0 {
				b.WriteByte('}')
			}
			b.WriteByte(' ')
			b.Write(appendValue(b.AvailableBuffer(), s.value))
			b.WriteByte('\n')
		}
	}
	if open {
		b.WriteString("# EOF\n")
	}
	return b.Bytes()
}

// ordered returns the samples of f with those of one histogram side by side,
// whatever the order in which several sources emitted them.
func (f *family) ordered() []sample {
	if f.kind != "histogram" {
		return f.samples
	}
	place := map[string]int{}
	var key []byte
	at := make([]int, len(f.samples))
	order := make([]int, len(f.samples))
	for i, s := range f.samples {
		labels := s.labels
		if j := s.index("le"); j >= 0 && strings.HasSuffix(s.name, "_bucket") {
			labels = slices.Delete(slices.Clone(labels), j, j+2)
		}
		key = appendSeries(key[:0], "", labels)
		if _, ok := place[string(key)]; !ok {
			place[string(key)] = len(place)
		}
		at[i], order[i] = place[string(key)], i
	}
	slices.SortStableFunc(order, func(a, b int) int { return at[a] - at[b] })
	out := make([]sample, len(order))
	for i, j := range order {
		out[i] = f.samples[j]
	}
	return out
}

// escape makes a help text or a label value fit on its line.
func escape(s string, quote bool) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.ReplaceAll(s, `\`, `\\`)
	s = strings.ReplaceAll(s, "\n", `\n`)
	if quote {
		s = strings.ReplaceAll(s, `"`, `\"`)
	}
	return s
}

func appendValue(b []byte, v float64) []byte {
	switch {
	case math.IsInf(v, 1):
		return append(b, "+Inf"...)
	case math.IsInf(v, -1):
		return append(b, "-Inf"...)
	case math.IsNaN(v):
		return append(b, "NaN"...)
	case v == math.Trunc(v) && math.Abs(v) < 1<<53:
		return strconv.AppendInt(b, int64(v), 10)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

// Vars returns the numbers of the sources as JSON, for expvar:
//
//	expvar.Publish("spillway", health.Vars(limiter, h))
//
// Its String method, all that expvar asks for, reads the sources. This package
// does not import expvar, which would register /debug/vars on
// [http.DefaultServeMux].
func Vars(sources ...Source) fmt.Stringer { return vars(readers(unique(sources))) }

type vars []*reader

func (v vars) String() string {
	out := map[string]any{}
	for _, f := range gather(v).families {
		for _, s := range f.samples {
			name := s.name
			for i := 0; i < len(s.labels); i += 2 {
				sep := ","
				if i == 0 {
					sep = "{"
				}
				name += sep + s.labels[i] + "=" + strconv.Quote(s.labels[i+1])
			}
			if len(s.labels) > 0 {
				name += "}"
			}
			out[name] = jsonNumber(s.value)
		}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return "{}" // not reached: all values are numbers or null
	}
	return string(b)
}

// jsonNumber is v, or nil where JSON has no number for it.
func jsonNumber(v float64) any {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return v
}
