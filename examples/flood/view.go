package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// A view shows the flood while it runs: a table that is drawn over in a
// terminal, lines elsewhere.
type view struct {
	out   io.Writer
	flood *run
	live  bool
	rows  int // of the table that is on the screen
	said  int // events, of lines
	act   int // the next one that lines tell of
}

func newView(out io.Writer, r *run) *view {
	return &view{out: out, flood: r, live: isTerminal(out) && os.Getenv("TERM") != "dumb"}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// run shows until ctx ends, and once more then.
func (v *view) run(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for over := false; ; {
		if v.live {
			v.draw()
		} else {
			v.lines(over)
		}
		if over {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			over = true
		}
	}
}

// A line is at most 79 columns wide: one that wraps could not be drawn over.
const columns = "           offered  good  late refused errors   p50   p99 critical level limit"

// row is one side's line of the table, as rates over seconds.
func (v *view) row(name string, t tally, seconds float64, state *sample) string {
	rate := func(n int) string {
		if seconds == 0 {
			return "-"
		}
		return fmt.Sprintf("%.0f", float64(n)/seconds)
	}
	critical, level, limit := "-", "-", "-"
	if t.Critical > 0 {
		critical = fmt.Sprintf("%.0f %%", 100*float64(t.CriticalGood)/float64(t.Critical))
	}
	if state != nil {
		level, limit = fmt.Sprintf("%.0f", state.Level), fmt.Sprintf("%.0f", state.Limit)
	}
	return fmt.Sprintf(" %-9s %7s %5s %5s %7s %6s %5s %5s %8s %5s %5s", name,
		rate(t.Offered), rate(t.Good), rate(t.Late), rate(t.Refused), rate(t.Errors),
		millis(quantile(t.latency, 50)), millis(quantile(t.latency, 99)), critical, level, limit)
}

// table is what one stretch of time looked like for all sides, and what the
// protected one had set at its end.
func (v *view) table(of func(side int) tally, seconds float64, end time.Duration) []string {
	var rows []string
	for i, name := range v.flood.names {
		var state *sample
		if s := v.flood.scraper; s != nil && i == len(v.flood.names)-1 {
			state = s.at(end)
		}
		rows = append(rows, v.row(name, of(i), seconds, state))
	}
	return rows
}

// draw draws the table over the one before.
func (v *view) draw() {
	r := v.flood
	now := max(0, min(time.Since(r.start), r.length))
	i := r.act(now)
	// The newest requests may still be answered in time, so the table shows
	// those that were due one deadline ago.
	to := (now - deadline).Truncate(r.bin())
	from := max(0, to-max(time.Second, r.bin()))
	seconds := max(0, to-from).Seconds()

	lines := []string{
		fmt.Sprintf(" %s: %s times what it can carry", r.acts[i].Name, trim(r.acts[i].Load)),
		" " + v.progress(now, 60) + fmt.Sprintf(" %3.0f of %.0f s", now.Seconds(), r.length.Seconds()),
		columns,
	}
	lines = append(lines, v.table(func(side int) tally { return r.recorders[side].between(from, to) }, seconds, now)...)
	what := ""
	if e, ok := r.lastNote(); ok {
		what = fmt.Sprintf(" %.1f s: %s", e.At, e.Text)
	}
	lines = append(lines, " per second, of the requests that were due a second ago; p50 and p99 in ms", cut(what, 78))

	var b strings.Builder
	if v.rows > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.rows)
	}
	for _, l := range lines {
		b.WriteString("\x1b[2K" + l + "\n")
	}
	v.rows = len(lines)
	io.WriteString(v.out, b.String())
}

// progress is a bar with a mark where each act begins.
func (v *view) progress(now time.Duration, width int) string {
	bar := []byte(strings.Repeat(".", width))
	at := func(d time.Duration) int {
		return min(width-1, int(float64(d)/float64(v.flood.length)*float64(width)))
	}
	for i := range at(now) {
		bar[i] = '='
	}
	for _, s := range v.flood.spans[1:] {
		bar[at(s.from)] = '|'
	}
	bar[at(now)] = '>'
	return "[" + string(bar) + "]"
}

// lines tells of each event and of each act that has ended, once its last
// request has been answered or given up.
func (v *view) lines(all bool) {
	r := v.flood
	r.mu.Lock()
	notes := r.notes[v.said:]
	v.said = len(r.notes)
	r.mu.Unlock()
	for _, e := range notes {
		fmt.Fprintf(v.out, "%5.1f s  %s\n", e.At, e.Text)
	}
	elapsed := time.Since(r.start)
	for ; v.act < len(r.spans); v.act++ {
		s := r.spans[v.act]
		if !all && elapsed < s.to+deadline+100*time.Millisecond || elapsed < s.from {
			return
		}
		end := min(elapsed, s.to)
		fmt.Fprintf(v.out, "%5.1f s  %s: %s times what it can carry; per second, and in ms\n%s\n", s.from.Seconds(), r.acts[v.act].Name, trim(r.acts[v.act].Load), columns)
		for _, row := range v.table(func(side int) tally { return r.recorders[side].act(v.act) }, (end - s.from).Seconds(), end) {
			fmt.Fprintln(v.out, row)
		}
	}
}

// millis shows a latency; what the whole deadline was not enough for took
// longer than that, and nobody knows how long.
func millis(ms float64) string {
	switch {
	case math.IsNaN(ms):
		return "-"
	case ms >= 0.99*float64(deadline.Milliseconds()):
		return ">" + fmt.Sprint(deadline.Milliseconds())
	case ms < 10:
		return fmt.Sprintf("%.1f", ms)
	}
	return fmt.Sprintf("%.0f", ms)
}

func trim(x float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0") }

func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

// wrap breaks a text into lines.
func wrap(s string, width int) string {
	var b strings.Builder
	n := 0
	for i, word := range strings.Fields(s) {
		switch l := utf8.RuneCountInString(word); {
		case i == 0:
			n = l
		case n+1+l > width:
			b.WriteByte('\n')
			n = l
		default:
			b.WriteByte(' ')
			n += 1 + l
		}
		b.WriteString(word)
	}
	return b.String()
}
