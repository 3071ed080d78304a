package main

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A tally counts what became of the requests that were due in some stretch of
// time. Offered is the sum of Good, Late, Refused and Errors, once all of them
// have been answered or given up.
type tally struct {
	Offered int `json:"offered"`
	Good    int `json:"good"`
	Late    int `json:"late"`
	Refused int `json:"refused"`
	Errors  int `json:"errors"`

	Cached     int `json:"cached"`      // of Good: answered by the cache, fresh or stale
	Reduced    int `json:"reduced"`     // of Good: without the recommendations
	RetryAfter int `json:"retry_after"` // of Refused: said when to come back

	Critical     int `json:"critical"`      // of Offered: checkouts
	CriticalGood int `json:"critical_good"` // of Good

	Lag float64 `json:"lag_max_ms"` // the most that the generator was late with one of them

	latency *hdrhistogram.Histogram // of Good and Late, in microseconds; a late one counts with the whole deadline
	refusal *hdrhistogram.Histogram // of Refused
}

func (t *tally) offer(a arrival, lag time.Duration) {
	t.Offered++
	t.Lag = max(t.Lag, float64(lag.Microseconds())/1000)
	if a.kind == checkout {
		t.Critical++
	}
}

func (t *tally) answer(a arrival, o outcome) {
	one := func(n *int, is bool) {
		if is {
			*n++
		}
	}
	us := max(1, o.took.Microseconds())
	switch o.result {
	case good:
		t.Good++
		one(&t.Cached, o.cached)
		one(&t.Reduced, o.reduced)
		one(&t.CriticalGood, a.kind == checkout)
		record(&t.latency, us)
	case late:
		t.Late++
		record(&t.latency, us)
	case refused:
		t.Refused++
		one(&t.RetryAfter, o.retryAfter)
		record(&t.refusal, us)
	case failed:
		t.Errors++
	}
}

// record makes a histogram when it gets its first value: most of a long run's
// tallies never need all of theirs.
func record(h **hdrhistogram.Histogram, us int64) {
	if *h == nil {
		*h = newHistogram()
	}
	(*h).RecordValue(us)
}

// add adds what b has counted.
func (t *tally) add(b *tally) {
	for _, f := range []struct{ to, from *int }{
		{&t.Offered, &b.Offered}, {&t.Good, &b.Good}, {&t.Late, &b.Late}, {&t.Refused, &b.Refused}, {&t.Errors, &b.Errors},
		{&t.Cached, &b.Cached}, {&t.Reduced, &b.Reduced}, {&t.RetryAfter, &b.RetryAfter},
		{&t.Critical, &b.Critical}, {&t.CriticalGood, &b.CriticalGood},
	} {
		*f.to += *f.from
	}
	t.Lag = max(t.Lag, b.Lag)
	for _, h := range []struct{ to, from **hdrhistogram.Histogram }{{&t.latency, &b.latency}, {&t.refusal, &b.refusal}} {
		if *h.from == nil {
			continue
		}
		if *h.to == nil {
			*h.to = newHistogram()
		}
		(*h.to).Merge(*h.from)
	}
}

// answeredAll is how many have an outcome by now.
func (t *tally) answeredAll() int { return t.Good + t.Late + t.Refused + t.Errors }

// fresh is how many good answers the backends made, and not the cache.
func (t *tally) fresh() int { return t.Good - t.Cached }

// quantile returns a latency in milliseconds, to two digits, or NaN where there
// is none. None is beyond the deadline, whatever the histogram rounds it to.
func quantile(h *hdrhistogram.Histogram, q float64) float64 {
	if h == nil || h.TotalCount() == 0 {
		return math.NaN()
	}
	return float64(min(h.ValueAtQuantile(q), deadline.Microseconds())) / 1000
}

// A recorder counts one side's outcomes by the time that each request was due.
// It is a sink.
type recorder struct {
	width time.Duration // of a bin
	spans []span        // of the acts

	mu   sync.Mutex
	bins []tally
	acts []tally
	why  map[string]int // the errors, by their text
}

// maxTexts bounds the errors that are told apart: some texts hold a port.
const maxTexts = 20

func newRecorder(width time.Duration, spans []span) *recorder {
	end := spans[len(spans)-1].to
	return &recorder{
		width: width, spans: spans, why: map[string]int{},
		bins: make([]tally, (end+width-1)/width),
		acts: make([]tally, len(spans)),
	}
}

func (r *recorder) place(a arrival) (bin, act int) {
	act = max(0, slices.IndexFunc(r.spans, func(s span) bool { return a.due < s.to }))
	return min(int(a.due/r.width), len(r.bins)-1), act
}

func (r *recorder) offered(a arrival, lag time.Duration) {
	bin, act := r.place(a)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bins[bin].offer(a, lag)
	r.acts[act].offer(a, lag)
}

func (r *recorder) answered(a arrival, o outcome) {
	bin, act := r.place(a)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bins[bin].answer(a, o)
	r.acts[act].answer(a, o)
	if o.result == failed {
		if _, known := r.why[o.why]; !known && len(r.why) >= maxTexts {
			o.why = "other"
		}
		r.why[o.why]++
	}
}

// between sums the bins of the requests that were due from one time to another.
func (r *recorder) between(from, to time.Duration) (sum tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := max(0, int(from/r.width)); i < min(len(r.bins), int(to/r.width)); i++ {
		sum.add(&r.bins[i])
	}
	return sum
}

// act returns what has been counted in an act so far.
func (r *recorder) act(i int) (sum tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum.add(&r.acts[i])
	return sum
}
