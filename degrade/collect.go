package degrade

import (
	"math"
	"strconv"
	"time"
)

// Collect emits the metrics of s, in a stable order.
func (s *Shedder) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	const total = "spillway_degrade_requests_total"
	for b := range bands {
		for _, o := range [...]struct {
			name string
			i    int
		}{{"admitted", outAdmitted}, {"shed", outRefused}, {"abandoned", outAbandoned}} {
			emit(total, "Requests by priority and what became of them.", "counter",
				float64(s.counts.of(b, o.i)), "shedder", s.name, "priority", bandNames[b], "outcome", o.name)
		}
	}
	for b := range bands {
		emit("spillway_degrade_queued_total", "Requests that had to wait.", "counter",
			float64(s.counts.of(b, outQueued)), "shedder", s.name, "priority", bandNames[b])
	}
	const wait = "spillway_degrade_queue_wait_seconds"
	n := uint64(0)
	for i := range s.waits.n {
		n += s.waits.n[i].Load()
		le := "+Inf"
		if i < len(waitBounds) {
			le = strconv.FormatFloat(waitBounds[i], 'g', -1, 64)
		}
		emit(wait+"_bucket", "How long those waited who had to.", "histogram", float64(n), "shedder", s.name, "le", le)
	}
	emit(wait+"_sum", "How long those waited who had to.", "histogram", time.Duration(s.waits.sum.Load()).Seconds(), "shedder", s.name)
	emit(wait+"_count", "How long those waited who had to.", "histogram", float64(n), "shedder", s.name)
	st := s.Stats()
	emit("spillway_degrade_throttled_total", "Outgoing requests held back because their server refuses.",
		"counter", float64(st.Throttled), "shedder", s.name)
	emit("spillway_degrade_hook_panics_total", "Panics in hooks of the configuration.",
		"counter", float64(st.HookPanics), "shedder", s.name)
	emit("spillway_degrade_hook_missed_total", "Changes that OnChange was never told, because it did not return.",
		"counter", float64(st.HookMissed), "shedder", s.name)
	gauge := func(name, help string, v float64) { emit(name, help, "gauge", v, "shedder", s.name) }
	gauge("spillway_degrade_inflight", "Requests running.", float64(st.InFlight))
	gauge("spillway_degrade_queued", "Requests waiting.", float64(st.Waiting))
	gauge("spillway_degrade_limit", "Requests that may run at once.", float64(st.Limit))
	gauge("spillway_degrade_streams", "Long-lived requests open.", float64(st.Streams))
	gauge("spillway_degrade_demand",
		"Slots that all who came lately would have kept busy: running, waiting, and refused per second times seconds each.", st.Demand)
	gauge("spillway_degrade_saturation_ratio", "Running and waiting over the limit.",
		float64(st.InFlight+st.Waiting)/float64(st.Limit))
	gauge("spillway_degrade_pressure", "Demand over the limit; above 1 requests are refused.", st.Pressure)
	gauge("spillway_degrade_latency_seconds", "What running takes, lately.", st.Latency.Seconds())
}

// Collect emits the metrics of s, in a stable order.
func (s *Switch) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	s.mu.Lock()
	sn, names, changes, pressure := s.now.Load(), make([]string, len(s.features)), s.changes, s.auto.pressure
	for i, f := range s.features {
		names[i] = f.name
	}
	s.mu.Unlock()
	emit("spillway_degrade_level", "0 is everything, each higher level leaves out more.", "gauge", float64(sn.level), "switch", s.name)
	if !math.IsNaN(pressure) {
		emit("spillway_degrade_switch_pressure", "Highest signal: 1 is at the limit.", "gauge", pressure, "switch", s.name)
	}
	emit("spillway_degrade_degraded_total", "Answers from which something was left out.", "counter", float64(s.degraded.Load()), "switch", s.name)
	emit("spillway_degrade_changes_total", "Changes of level, features and overrides.", "counter", float64(changes), "switch", s.name)
	emit("spillway_degrade_switch_hook_panics_total", "Panics in OnChange.", "counter", float64(s.hook.panics.Load()), "switch", s.name)
	emit("spillway_degrade_switch_hook_missed_total", "Changes that OnChange was never told, because it did not return.", "counter", float64(s.hook.missed.Load()), "switch", s.name)
	for i, n := range names {
		share := sn.on[i].share
		if sn.on[i].on {
			share = 1
		}
		emit("spillway_degrade_feature_share", "Share of users who have the feature.", "gauge", share, "switch", s.name, "feature", n)
	}
}
