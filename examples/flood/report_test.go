package main

import (
	"bytes"
	"encoding/xml"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMetricsAreReadByPart(t *testing.T) {
	got, err := parseMetrics(strings.NewReader(`# HELP spillway_degrade_limit Requests that may run at once.
# TYPE spillway_degrade_limit gauge
spillway_degrade_limit{shedder="shop"} 12
spillway_degrade_level{switch="shop"} 1
spillway_ratelimit_requests_total{policy="a } b",outcome="allowed"} 5
spillway_ratelimit_requests_total{policy="a } b",outcome="denied"} 7
spillway_degrade_requests_total{shedder="shop",priority="normal",outcome="shed"} 3
spillway_degrade_requests_total{shedder="shop",priority="sheddable",outcome="shed"} 4
spillway_degrade_requests_total{shedder="shop",priority="normal",outcome="admitted"} 100
spillway_breaker_requests_total{breaker="catalogue",outcome="rejected"} 2
spillway_breaker_requests_total{breaker="recommendations",outcome="rejected"} 50
spillway_balancer_unavailable_total{pool="catalogue"} 1
garbage
go_goroutines 7
`))
	require.NoError(t, err)
	require.Equal(t, sample{Limit: 12, Level: 1, Refused: map[string]float64{"ratelimit": 7, "degrade": 7, "breaker": 2, "balancer": 1}}, got)
}

func TestWordsForFigures(t *testing.T) {
	ms := func(x float64) *float64 { return &x }
	require.Equal(t, "at most 0.4 ms", atMost(ms(0.42)))
	require.Equal(t, "more than 1000 ms", atMost(ms(999)))
	require.Equal(t, "no time that was measured", atMost(nil))
	require.Equal(t, "1,234,567", thousands(1234567))
	require.Equal(t, "999", thousands(999))
	require.Equal(t, "all", share(3, 3))
	require.Equal(t, "none", share(0, 3))
	require.Equal(t, "99.9 %", share(99_999, 100_000), "not rounded up to all")
	require.Equal(t, "a, b and c", list([]string{"a", "b", "c"}))
	require.Equal(t, "one two\nthree", wrap("one two three", 8))
	require.Equal(t, 200.0, nice(150))
}

// aRun has been played without a network: bare answers half, the other all.
func aRun(t *testing.T, played time.Duration) *run {
	r := &run{options: options{length: 49 * time.Second, seed: 1}, acts: script(), capacity: 100, gen: generatorFor(nil), start: time.Now(), end: played}
	r.lay()
	r.direct("bare", "")
	r.direct("spillway", "")
	for a := range arrivals(1, r.spans, nil) {
		if a.due >= played {
			break
		}
		for i, rec := range r.recorders {
			rec.offered(a, 0)
			o := outcome{took: 30 * time.Millisecond}
			if i == 0 && a.id%2 == 0 {
				o = outcome{result: late, took: deadline}
			}
			rec.answered(a, o)
		}
	}
	r.note("script", "<script>alert(1)</script>")
	return r
}

func TestReportOfAnyLengthCanBeWritten(t *testing.T) {
	for _, played := range []time.Duration{0, time.Millisecond, 700 * time.Millisecond, 5 * time.Second, 20 * time.Second, 49 * time.Second} {
		rep := aRun(t, played).report(played < 49*time.Second)
		requireVerdict := rep.Verdict
		require.NotEmpty(t, requireVerdict)
		for _, s := range requireVerdict {
			require.NotContains(t, s, "NaN")
			require.NotContains(t, s, "Inf")
		}
		var page, data bytes.Buffer
		require.NoError(t, rep.writeJSON(&data))
		require.NoError(t, rep.writeHTML(&page))
		require.NotContains(t, page.String(), "NaN", played)
		require.NotContains(t, page.String(), "<script>alert", "what is said is text")
		require.Equal(t, 1, strings.Count(page.String(), "</script>"), "the data can't end its element")

		var picture bytes.Buffer
		if played < 500*time.Millisecond {
			require.ErrorContains(t, rep.writeSVG(&picture), "too little was measured")
			continue
		}
		require.NoError(t, rep.writeSVG(&picture))
		require.NotContains(t, picture.String(), "NaN", played)
		require.NoError(t, xml.Unmarshal(picture.Bytes(), new(struct{})), "it is well-formed")
	}
	rep := aRun(t, 49*time.Second).report(false)
	require.Len(t, rep.Verdict, 3)
	require.Contains(t, rep.Verdict[0], "At 10 times its capacity of 100 requests a second")
}

func TestTableFitsATerminalAndSaysWhatIsMeasured(t *testing.T) {
	r := aRun(t, 49*time.Second)
	r.start = time.Now().Add(-20 * time.Second)
	var out bytes.Buffer
	v := newView(&out, r)
	require.False(t, v.live, "a buffer is no terminal")
	v.draw()
	v.draw()
	text := strings.NewReplacer("\x1b[2K", "", "\x1b[7A", "").Replace(out.String())
	require.NotContains(t, text, "\x1b")
	for line := range strings.Lines(text) {
		require.LessOrEqual(t, len(strings.TrimRight(line, "\n")), 79, line)
	}
	require.Contains(t, text, "spillway")

	out.Reset()
	v.lines(true)
	require.Equal(t, 4, strings.Count(out.String(), "times what it can carry"), "the acts that have begun")
	require.Contains(t, out.String(), "100 %")
}
