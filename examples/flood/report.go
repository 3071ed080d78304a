package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// A report is everything that was measured in one run, and nothing else. The
// page is drawn from it, and flood.json is it.
type report struct {
	Started     time.Time       `json:"started"`
	Seconds     float64         `json:"seconds"` // how long requests were sent
	Interrupted bool            `json:"interrupted,omitempty"`
	Seed        uint64          `json:"seed"`
	Machine     string          `json:"machine"`
	Target      string          `json:"target,omitempty"`
	DeadlineMS  float64         `json:"deadline_ms"`
	Capacity    float64         `json:"capacity"`                   // requests a second; of a target, what was said
	Model       float64         `json:"capacity_of_model,omitzero"` // what the sleeping times alone would give
	BinSeconds  float64         `json:"bin_seconds"`
	Acts        []actReport     `json:"acts"`
	Sides       []sideReport    `json:"sides"`
	Events      []event         `json:"events"`
	Samples     []sample        `json:"samples,omitempty"` // of the protected side's own metrics
	Generator   generatorReport `json:"generator"`
	Verdict     []string        `json:"verdict"`
}

type actReport struct {
	Name string  `json:"name"`
	Load float64 `json:"load"` // multiples of the capacity
	From float64 `json:"from"` // seconds
	To   float64 `json:"to"`
}

type sideReport struct {
	Name   string         `json:"name"`
	Acts   []summary      `json:"acts"`
	Bins   []summary      `json:"bins"` // by when the requests were due
	Total  summary        `json:"total"`
	Errors map[string]int `json:"error_texts,omitempty"`
}

// A summary is a tally with its latencies. Nil is where there was none.
type summary struct {
	tally
	P50     *float64 `json:"p50_ms"`
	P99     *float64 `json:"p99_ms"`
	Refusal *float64 `json:"refusal_p99_ms"`
}

type generatorReport struct {
	P50  float64 `json:"lag_p50_ms"`
	P99  float64 `json:"lag_p99_ms"`
	Max  float64 `json:"lag_max_ms"`
	Busy bool    `json:"machine_busy"` // too much for the figures to be the services' alone
	Says string  `json:"says"`
}

// From when on the report says that the machine was too busy: when the generator
// was so late with one request of a hundred, or the bare shop could carry less
// than this share of what its model promises.
const (
	busyLag   = 50 * time.Millisecond
	busyShare = 0.85
)

func summarize(t tally) summary {
	ms := func(q float64, refusal bool) *float64 {
		h := t.latency
		if refusal {
			h = t.refusal
		}
		if x := quantile(h, q); !math.IsNaN(x) {
			return &x
		}
		return nil
	}
	return summary{t, ms(50, false), ms(99, false), ms(99, true)}
}

// report gathers what was measured. Call it when the last answer is in.
func (r *run) report(interrupted bool) *report {
	rep := &report{
		Started: r.start, Seconds: r.end.Seconds(), Interrupted: interrupted,
		Seed: r.seed, Machine: machine(), Target: r.target,
		DeadlineMS: float64(deadline.Milliseconds()), Capacity: r.capacity,
		BinSeconds: r.bin().Seconds(),
	}
	if r.target == "" {
		rep.Model = nominalCapacity()
	}
	for i, a := range r.acts {
		if s := r.spans[i]; s.from < r.end {
			rep.Acts = append(rep.Acts, actReport{a.Name, a.Load, s.from.Seconds(), min(s.to, r.end).Seconds()})
		}
	}
	for i, rec := range r.recorders {
		side := sideReport{Name: r.names[i], Errors: rec.why}
		var total tally
		for j := range rep.Acts {
			t := rec.act(j)
			total.add(&t)
			side.Acts = append(side.Acts, summarize(t))
		}
		side.Total = summarize(total)
		for b := range int(r.end / rec.width) { // whole ones
			side.Bins = append(side.Bins, summarize(rec.bins[b]))
		}
		rep.Sides = append(rep.Sides, side)
	}
	r.mu.Lock()
	rep.Events = slices.Clone(r.notes)
	r.mu.Unlock()
	if r.scraper != nil {
		rep.Samples = r.scraper.samples
		if changes, err := r.scraper.changes(); err != nil {
			rep.Events = append(rep.Events, event{r.end.Seconds(), "script", "what changed in the protected shop could not be read: " + err.Error()})
		} else {
			for _, c := range changes {
				if at := c.At.Sub(r.start); at >= 0 && at <= r.end {
					rep.Events = append(rep.Events, event{at.Seconds(), c.Part, c.Text})
				}
			}
		}
	}
	slices.SortStableFunc(rep.Events, func(a, b event) int { return cmp.Compare(a.At, b.At) })
	rep.Generator = honest(r.gen, rep.Capacity, rep.Model)
	rep.Verdict = verdict(rep)
	return rep
}

// honest says how well the generator kept to its schedule, and whether the
// machine was quiet enough for what was measured.
func honest(g *generator, capacity, model float64) generatorReport {
	ms := func(us int64) float64 { return float64(us) / 1000 }
	gr := generatorReport{P50: ms(g.lag.ValueAtQuantile(50)), P99: ms(g.lag.ValueAtQuantile(99)), Max: ms(g.lag.Max())}
	gr.Says = fmt.Sprintf("The load generator sent half of the requests within %.1f ms of when they were due, 99 of 100 within %.1f ms, and all within %.0f ms; every latency counts from when a request was due.", gr.P50, gr.P99, gr.Max)
	if gr.P99 > ms(busyLag.Microseconds()) {
		gr.Busy = true
		gr.Says += " It fell behind: this machine was too busy, and some of the latency is the generator's own."
	}
	if capacity < busyShare*model {
		gr.Busy = true
		gr.Says += fmt.Sprintf(" When the capacity was measured this machine was busy with something else: the model promises %.0f a second, and the shares of the capacity are so much too high.", model)
	}
	return gr
}

// find returns the act of a name, or -1.
func (rep *report) find(name string) int {
	return slices.IndexFunc(rep.Acts, func(a actReport) bool { return a.Name == name })
}

// rate is a number of requests in an act, a second.
func (rep *report) rate(act, n int) float64 {
	return float64(n) / (rep.Acts[act].To - rep.Acts[act].From)
}

// verdict says in three sentences what came of it.
func verdict(rep *report) []string {
	if len(rep.Acts) == 0 || rep.Sides[0].Total.Offered == 0 {
		return []string{"Nothing was measured."}
	}
	if len(rep.Sides) == 1 {
		return verdictOfTarget(rep)
	}
	var v []string
	bare, ours := rep.Sides[0], rep.Sides[1]
	peak := 0 // the greatest load that lasted long enough for a rate
	for i, a := range rep.Acts {
		if a.Load > rep.Acts[peak].Load && a.To-a.From >= 1 {
			peak = i
		}
	}
	b, s := bare.Acts[peak], ours.Acts[peak]
	without := ""
	if s.Reduced > 0 {
		without = ", as it left the recommendations out"
	}
	v = append(v, fmt.Sprintf("At %s times its capacity of %.0f requests a second, the bare shop answered %s a second in time; with Spillway it answered %s, %.0f of them from the backends (%.0f %% of that capacity%s) and the rest from the cache; half of its answers took %s, and 99 of 100 %s.",
		trim(rep.Acts[peak].Load), rep.Capacity, few(rep.rate(peak, b.Good)), few(rep.rate(peak, s.Good)),
		rep.rate(peak, s.fresh()), 100*rep.rate(peak, s.fresh())/rep.Capacity, without, atMost(s.P50), atMost(s.P99)))

	var broken []string
	var bt, st tally
	for i, a := range rep.Acts {
		if what, ok := mishaps[a.Name]; ok {
			broken = append(broken, what)
			bt.add(&bare.Acts[i].tally)
			st.add(&ours.Acts[i].tally)
		}
	}
	if len(broken) > 0 {
		v = append(v, fmt.Sprintf("While %s, the bare shop left %s of %s requests and %d of %d checkouts without a good answer in time; with Spillway it was %s and %d.",
			list(broken), thousands(bt.Offered-bt.Good), thousands(bt.Offered), bt.Critical-bt.CriticalGood, bt.Critical,
			thousands(st.Offered-st.Good), st.Critical-st.CriticalGood))
	}
	t := ours.Total
	v = append(v, fmt.Sprintf("In all, Spillway turned %s of %s requests away (99 of 100 refusals took %s; %s of them said when to come back) and served %s of %d checkouts; on the bare shop %s requests waited for nothing, and it served %s of the checkouts.",
		thousands(t.Refused), thousands(t.Offered), atMost(t.Refusal), share(t.RetryAfter, t.Refused),
		share(t.CriticalGood, t.Critical), t.Critical, thousands(bare.Total.Late), share(bare.Total.CriticalGood, bare.Total.Critical)))
	return v
}

// mishaps are the acts in which something breaks, in words for the verdict.
var mishaps = map[string]string{
	"backend killed":  "a backend was killed",
	"backend hung":    "one hung",
	"slow database":   "the database was five times slower",
	"bad deploy":      "a deploy was bad",
	"rolling restart": "all were restarted",
}

func verdictOfTarget(rep *report) []string {
	side := rep.Sides[0]
	var v []string
	for _, name := range []string{"ten times", "recovery"} {
		i := rep.find(name)
		if i < 0 {
			continue
		}
		a := side.Acts[i]
		v = append(v, fmt.Sprintf("%s: of %s requests a second, %s were answered well within %s ms, %s were refused, %s came too late and %s failed; half of the answers took %s and 99 of 100 %s.",
			strings.ToUpper(name[:1])+name[1:], few(rep.rate(i, a.Offered)), few(rep.rate(i, a.Good)), trim(rep.DeadlineMS),
			few(rep.rate(i, a.Refused)), few(rep.rate(i, a.Late)), few(rep.rate(i, a.Errors)), atMost(a.P50), atMost(a.P99)))
	}
	t := side.Total
	return append(v, fmt.Sprintf("In all, %s of %s requests were answered well in time.", thousands(t.Good), thousands(t.Offered)))
}

// atMost says what a quantile of latencies says.
func atMost(ms *float64) string {
	switch s := millisOf(ms); {
	case ms == nil:
		return "no time that was measured"
	case s[0] == '>':
		return "more than " + s[1:] + " ms"
	default:
		return "at most " + s + " ms"
	}
}

func millisOf(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return millis(*ms)
}

// few shows a rate, with a decimal where it is small.
func few(x float64) string {
	if x < 10 {
		return trim(math.Round(x*10) / 10)
	}
	return thousands(int(math.Round(x)))
}

func share(n, of int) string {
	switch {
	case of == 0:
		return "none"
	case n == of:
		return "all"
	case n == 0:
		return "none"
	}
	return fmt.Sprintf("%.1f %%", math.Floor(1000*float64(n)/float64(of))/10)
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func list(s []string) string {
	if len(s) < 2 {
		return strings.Join(s, "")
	}
	return strings.Join(s[:len(s)-1], ", ") + " and " + s[len(s)-1]
}

func (rep *report) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(rep)
}
