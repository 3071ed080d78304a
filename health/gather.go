package health

import (
	"fmt"
	"slices"
	"strings"
)

// A sample is one number of a source.
type sample struct {
	name   string   // in full, such as x_bucket
	labels []string // alternating names and values
	value  float64
}

// index returns where in s.labels the name of one label is, or -1.
func (s *sample) index(name string) int {
	for i := 0; i+1 < len(s.labels); i += 2 {
		if s.labels[i] == name {
			return i
		}
	}
	return -1
}

// label returns the value of one label, or "".
func (s *sample) label(name string) string {
	if i := s.index(name); i >= 0 {
		return s.labels[i+1]
	}
	return ""
}

// A family is all samples of one metric, from all sources.
type family struct {
	name, help, kind string // a histogram's name is without _bucket and so on
	samples          []sample
}

// A gathering is what the sources emit in one moment, brought into the form
// that the exposition formats demand: the samples of a family side by side
// though they come from several sources, and no series twice.
type gathering struct {
	families []*family
	byName   map[string]*family
	seen     map[string]bool // series
	key      []byte          // for seen
	refused  int             // samples that can't be shown
	panics   int             // sources that panicked
	silent   []string        // the types of those that did not answer

	// What the sources say in words.
	conditions []condition
	changes    []timedText
}

// gather reads each source once.
func gather(sources []*reader) *gathering {
	g := &gathering{byName: map[string]*family{}, seen: map[string]bool{}}
	for _, r := range sources {
		got := r.read()
		if got == nil {
			g.silent = append(g.silent, fmt.Sprintf("%T", r.src))
			continue
		}
		for _, e := range got.samples {
			g.add(e)
		}
		if got.panicked {
			g.panics++
		}
		g.conditions = append(g.conditions, got.conditions...)
		g.changes = append(g.changes, got.changes...)
	}
	return g
}

// add takes a sample. The first source to use a name or a series has it; a
// sample that contradicts it, such as that of a second source with the same
// name, is refused and counted, as an exposition that holds both is not valid
// as a whole.
func (g *gathering) add(e emitted) {
	name, kind, labels := e.name, e.kind, e.labels
	base := name
	switch kind {
	case "counter", "gauge":
	case "histogram":
		base = histogramName(name)
	default:
		g.refused++
		return
	}
	if !validMetric(base) || !validLabels(labels) {
		g.refused++
		return
	}
	f := g.byName[base]
	if f == nil {
		f = &family{name: base, help: e.help, kind: kind}
		g.byName[base] = f
		g.families = append(g.families, f)
	}
	g.key = appendSeries(g.key[:0], name, labels)
	if f.kind != kind || g.seen[string(g.key)] {
		g.refused++
		return
	}
	g.seen[string(g.key)] = true
	f.samples = append(f.samples, sample{name, labels, e.value})
}

// histogramName is the name of the family of a histogram's sample, or "".
func histogramName(name string) string {
	for _, suffix := range [...]string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			return base
		}
	}
	return ""
}

// appendSeries appends what identifies a series: its name, and its labels
// whatever their order.
func appendSeries(b []byte, name string, labels []string) []byte {
	var few [8]int // enough for most, without an allocation
	order := few[:0]
	for i := 0; i < len(labels); i += 2 {
		at := len(order)
		for at > 0 && labels[order[at-1]] > labels[i] {
			at--
		}
		order = slices.Insert(order, at, i)
	}
	b = append(b, name...)
	for _, i := range order {
		b = append(b, 0xff) // in no valid text
		b = append(b, labels[i]...)
		b = append(b, 0xff)
		b = append(b, labels[i+1]...)
	}
	return b
}

// validMetric reports whether s matches [a-zA-Z_:][a-zA-Z0-9_:]*.
func validMetric(s string) bool {
	for i, b := range []byte(s) {
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '_' || b == ':'
		if !letter && (i == 0 || b < '0' || b > '9') {
			return false
		}
	}
	return s != ""
}

// validLabels reports whether labels are pairs of a valid, unique name and any
// value.
func validLabels(labels []string) bool {
	if len(labels)%2 != 0 {
		return false
	}
	for i := 0; i < len(labels); i += 2 {
		name := labels[i]
		if !validMetric(name) || strings.Contains(name, ":") || strings.HasPrefix(name, "__") {
			return false
		}
		for j := 0; j < i; j += 2 {
			if labels[j] == name {
				return false
			}
		}
	}
	return true
}

// unique returns sources without nil ones and without those given twice.
func unique(sources []Source) []Source {
	out := make([]Source, 0, len(sources))
	for _, s := range sources {
		if s != nil && !slices.ContainsFunc(out, func(o Source) bool { return same(o, s) }) {
			out = append(out, s)
		}
	}
	return out
}

// same reports whether a and b are the same source. Sources whose type can't
// be compared are never the same.
func same(a, b Source) (yes bool) {
	defer func() { _ = recover() }() // comparing, for example, structs that hold funcs
	return a == b
}
