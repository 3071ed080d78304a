package balancer

import (
	"strconv"
	"sync/atomic"
	"time"
)

// Collect emits every metric with its present value. Kind is "counter" or
// "gauge"; labels alternate names and values. The pool label is Config.Name,
// the upstream label is the ID of a backend. All series of a name come one
// after the other, always in the same order.
func (b *Balancer) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	list := b.Backends()
	s := b.Stats()
	pool := b.cfg.Name
	of := func(name, help, kind string, value func(Status) float64) {
		for _, x := range list {
			if !x.Leaving {
				emit("spillway_balancer_"+name, help, kind, value(x), "pool", pool, "upstream", x.Backend.ID)
			}
		}
	}
	one := func(name, help, kind string, value float64, labels ...string) {
		emit("spillway_balancer_"+name, help, kind, value, append([]string{"pool", pool}, labels...)...)
	}
	for _, x := range list {
		if x.Leaving {
			continue
		}
		for v, n := range [verdicts]uint64{x.Success, x.Failure, x.Refused, x.Ignored} {
			emit("spillway_balancer_requests_total", "Requests sent to a backend, by what its answer said of it.",
				"counter", float64(n), "pool", pool, "upstream", x.Backend.ID, "outcome", Verdict(v).String())
		}
	}
	of("upstream_up", "Whether a backend gets its share of the requests.", "gauge", func(x Status) float64 {
		return flag(x.State <= Warming)
	})
	of("upstream_inflight", "Requests that a backend has not finished.", "gauge", func(x Status) float64 {
		return float64(x.InFlight)
	})
	of("upstream_latency_seconds", "Moving average of the time to the response header; failures count as long.", "gauge",
		func(x Status) float64 { return x.Latency.Seconds() })
	of("ejections_total", "How often a backend was left out because of its answers.", "counter", func(x Status) float64 {
		return float64(x.Ejections)
	})
	one("available_ratio", "Share of the backends that get requests.", "gauge",
		float64(s.Available)/float64(max(1, s.Backends)))
	one("failopen", "Whether so few backends are available that all are used.", "gauge", flag(s.Panic))
	one("retries_total", "Attempts after a failure, on another backend.", "counter", float64(s.Retries))
	one("hedges_total", "Attempts because the first one took long.", "counter", float64(s.Hedges))
	one("over_budget_total", "Retries and hedges that the budget did not allow.", "counter", float64(s.OverBudget))
	one("unavailable_total", "Requests that no backend was left for.", "counter", float64(s.Unavailable))
	one("hook_panics_total", "Panics of OnChange, Healthy, Policy, and Wrap while warming, recovered.", "counter", float64(s.HookPanics))
	one("hook_missed_total", "Changes that OnChange was never told, because it did not return.", "counter", float64(s.HookMissed))
	one("probes_total", "Active probes.", "counter", float64(b.probes[1].Load()), "result", "pass")
	one("probes_total", "Active probes.", "counter", float64(b.probes[0].Load()), "result", "fail")
	b.probeTime.collect(func(suffix string, value float64, labels ...string) {
		one("probe_duration_seconds"+suffix, "How long probes took.", "histogram", value, labels...)
	})
}

// Collect emits every metric with its present value, as [Balancer.Collect]
// does. The split label is SplitConfig.Name, the pool label the Config.Name of a
// pool.
func (s *Splitter) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	list := s.Stats()
	for _, x := range list {
		const name, help = "spillway_balancer_split_requests_total", "Requests that a pool got, by what decided."
		emit(name, help, "counter", float64(x.ByShare), "split", s.name, "pool", x.Pool, "by", "share")
		emit(name, help, "counter", float64(x.ByRule), "split", s.name, "pool", x.Pool, "by", "rule")
	}
	for _, x := range list {
		emit("spillway_balancer_split_share_ratio", "Share of a pool in the requests that no rule matches.", "gauge",
			x.Share, "split", s.name, "pool", x.Pool)
	}
}

func flag(x bool) float64 {
	if x {
		return 1
	}
	return 0
}

// histogram counts durations in the usual buckets.
type histogram struct {
	count [len(histogramBounds) + 1]atomic.Uint64
	sum   atomic.Int64
}

var histogramBounds = [...]float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5}

func (h *histogram) add(d time.Duration) {
	i := 0
	for i < len(histogramBounds) && d.Seconds() > histogramBounds[i] {
		i++
	}
	h.count[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) collect(emit func(suffix string, value float64, labels ...string)) {
	var sum uint64
	for i := range h.count {
		sum += h.count[i].Load()
		le := "+Inf"
		if i < len(histogramBounds) {
			le = strconv.FormatFloat(histogramBounds[i], 'g', -1, 64)
		}
		emit("_bucket", float64(sum), "le", le)
	}
	emit("_sum", time.Duration(h.sum.Load()).Seconds())
	emit("_count", float64(sum))
}
