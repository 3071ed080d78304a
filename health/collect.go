package health

import (
	"math"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// A Source has numbers to show. Every type of this library that has metrics is
// one, and so is anything of your own with this method.
//
// Collect calls emit once for each sample. name is the full name of the sample;
// kind is "counter" (its name ends in "_total"), "gauge" or "histogram" (names
// end in "_bucket", with a label "le", "_sum" and "_count"); labels alternate
// names and values. All samples of one name follow one another.
//
// It may be called by several at once. A Collect that has not returned after
// three seconds is left out by [Metrics], [Dashboard] and [Vars], and not called
// again by the same of them until it has.
type Source interface {
	Collect(emit func(name, help, kind string, value float64, labels ...string))
}

// buckets are the upper bounds of histograms, in seconds: those that the
// OpenTelemetry conventions advise for http.server.request.duration, and three
// below for fast checks.
var buckets = [...]float64{.0005, .001, .0025, .005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}

// bucketLabels are the values of "le".
var bucketLabels = func() (out [len(buckets) + 1]string) {
	for i, b := range buckets {
		out[i] = strconv.FormatFloat(b, 'g', -1, 64)
	}
	out[len(buckets)] = "+Inf"
	return out
}()

// A histogram counts durations.
type histogram struct {
	counts [len(buckets) + 1]atomic.Uint64
	nanos  atomic.Int64
}

func (h *histogram) observe(d time.Duration) {
	i, s := 0, d.Seconds()
	for i < len(buckets) && s > buckets[i] {
		i++
	}
	h.counts[i].Add(1)
	h.nanos.Add(int64(max(0, d)))
}

// add adds what o has counted.
func (h *histogram) add(o *histogram) {
	for i := range o.counts {
		h.counts[i].Add(o.counts[i].Load())
	}
	h.nanos.Add(o.nanos.Load())
}

func (h *histogram) count() (n uint64) {
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// emitFunc is the argument of Collect.
type emitFunc = func(name, help, kind string, value float64, labels ...string)

func (h *histogram) emit(emit emitFunc, name, help string, labels ...string) {
	labels = labels[:len(labels):len(labels)]
	var n uint64
	for i := range h.counts {
		n += h.counts[i].Load()
		emit(name+"_bucket", help, "histogram", float64(n), append(labels, "le", bucketLabels[i])...)
	}
	emit(name+"_sum", help, "histogram", float64(h.nanos.Load())/1e9, labels...)
	emit(name+"_count", help, "histogram", float64(n), labels...)
}

// The classes of responses that are counted apart.
const (
	class1xx = iota
	class2xx
	class3xx
	class4xx
	class5xx
	classCanceled // the client hung up

	classCount = 6
)

var classNames = [classCount]string{"1xx", "2xx", "3xx", "4xx", "5xx", "canceled"}

// classOf returns the class of a status; a hijacked connection, which has
// none, counts as an upgrade.
func classOf(status int) int {
	return min(max(status/100-1, class1xx), class5xx)
}

// Collect emits the metrics of h. See [Source].
func (h *Checker) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	rep := h.Report()
	me := h.cfg.Name
	h.mu.Lock()
	type counts struct {
		*check
		runs    [outcomeCount]uint64
		changes uint64
	}
	checks := make([]counts, 0, len(h.checks))
	for _, c := range h.checks {
		// One that was registered in between is left for the next time.
		if _, ok := slices.BinarySearchFunc(rep.Checks, c.name, Result.compare); ok {
			checks = append(checks, counts{c, c.runs, c.changes})
		}
	}
	groups := h.groups
	h.mu.Unlock()

	for _, r := range rep.Checks {
		emit("spillway_health_check_up", "Whether the check passes or warns (1), or fails or is unknown (0).",
			"gauge", one(r.Status.ok()), "checker", me, "check", r.Name)
	}
	for _, r := range rep.Checks {
		for _, s := range [...]Status{Pass, Warn, Fail, Unknown} {
			emit("spillway_health_check_status", "1 for the status that the check has, 0 for the others.",
				"gauge", one(r.Status == s), "checker", me, "check", r.Name, "status", s.String())
		}
	}
	for _, c := range checks {
		for o, n := range c.runs {
			emit("spillway_health_check_runs_total", "Runs of the check by their result.",
				"counter", float64(n), "checker", me, "check", c.name, "result", outcomeNames[o])
		}
	}
	for _, c := range checks {
		emit("spillway_health_check_changes_total", "Changes of the status of the check.",
			"counter", float64(c.changes), "checker", me, "check", c.name)
	}
	for _, r := range rep.Checks {
		emit("spillway_health_check_last_run_timestamp_seconds", "When a run of the check last ended in time, 0 if never.",
			"gauge", unix(r.LastRun), "checker", me, "check", r.Name)
	}
	for _, r := range rep.Checks {
		emit("spillway_health_check_last_pass_timestamp_seconds", "When the check last passed or warned, 0 if never.",
			"gauge", unix(r.LastPass), "checker", me, "check", r.Name)
	}
	for _, c := range checks {
		c.took.emit(emit, "spillway_health_check_duration_seconds", "How long runs of the check took.",
			"checker", me, "check", c.name)
	}
	for i, s := range [...]Status{rep.Live, rep.Ready, rep.Startup} {
		emit("spillway_health_group_up", "Whether the endpoint of the group answers 200 (1) or 503 (0).",
			"gauge", one(s.ok()), "checker", me, "group", groupNames[i])
	}
	for i := range groups {
		emit("spillway_health_group_changes_total", "Changes of the status of the group.",
			"counter", float64(groups[i].changes), "checker", me, "group", groupNames[i])
	}
	for i := range h.probes {
		p := &h.probes[i]
		emit("spillway_health_probes_total", "Probes answered.",
			"counter", float64(p.ok.Load()), "checker", me, "group", groupNames[i], "code", "200")
		emit("spillway_health_probes_total", "Probes answered.",
			"counter", float64(p.failed.Load()), "checker", me, "group", groupNames[i], "code", "503")
	}
	for i := range h.probes {
		var at float64
		if last := h.probes[i].last.Load(); last > 0 {
			at = unix(h.epoch.Add(time.Duration(last)))
		}
		emit("spillway_health_probe_last_timestamp_seconds", "When the group was last probed, 0 if never.",
			"gauge", at, "checker", me, "group", groupNames[i])
	}
	emit("spillway_health_draining", "Whether the service drains or has stopped.",
		"gauge", one(rep.Phase != Serving), "checker", me)
	for p := range Phase(phaseCount) {
		emit("spillway_health_drain_phase", "1 for the phase that the service is in, 0 for the others.",
			"gauge", one(rep.Phase == p), "checker", me, "phase", p.String())
	}
	emit("spillway_health_maintenance", "Whether the service was made not ready by hand.",
		"gauge", one(rep.Maintenance), "checker", me)
	emit("spillway_health_inflight_requests", "Requests being served, probes not counted.",
		"gauge", float64(h.served.inflight()), "checker", me)
	emit("spillway_health_drain_aborted_requests_total", "Requests cut off because they did not end in time.",
		"counter", float64(h.aborted.Load()), "checker", me)
	emit("spillway_health_hook_panics_total", "Panics in hooks of the configuration.",
		"counter", float64(h.hookPanics.Load()), "checker", me)
	emit("spillway_health_hook_missed_total", "Changes that OnChange was never told, because it did not return.",
		"counter", float64(h.hookMissed.Load()), "checker", me)
	for i := range classCount {
		h.served.class(i).emit(emit, "spillway_http_request_duration_seconds",
			"How long requests took, by the class of their status; canceled if the client hung up.",
			"checker", me, "code", classNames[i])
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return math.Round(float64(t.UnixNano())/1e6) / 1e3
}

// Stats counts what a [Checker] has seen since it was made.
type Stats struct {
	Live, Ready, Startup Status
	Phase                Phase

	Checks     int    // how many there are
	Passing    int    // of them, with status Pass
	Runs       uint64 // of checks
	Changes    uint64 // of the status of checks
	Probes     uint64 // answered
	Requests   uint64 // other than probes, that have ended
	InFlight   int64  // other than probes
	Aborted    uint64 // requests cut off while draining
	HookPanics uint64
	HookMissed uint64 // changes that OnChange was never told, since it did not return
}

// Stats returns the counts so far. They are not read in one instant.
func (h *Checker) Stats() Stats {
	rep := h.Report()
	s := Stats{
		Live: rep.Live, Ready: rep.Ready, Startup: rep.Startup, Phase: rep.Phase,
		Checks: len(rep.Checks), InFlight: h.served.inflight(), Aborted: h.aborted.Load(), HookPanics: h.hookPanics.Load(), HookMissed: h.hookMissed.Load(),
	}
	for _, r := range rep.Checks {
		if r.Status == Pass {
			s.Passing++
		}
	}
	h.mu.Lock()
	for _, c := range h.checks {
		s.Changes += c.changes
		for _, n := range c.runs {
			s.Runs += n
		}
	}
	h.mu.Unlock()
	for i := range h.probes {
		s.Probes += h.probes[i].ok.Load() + h.probes[i].failed.Load()
	}
	for i := range classCount {
		s.Requests += h.served.class(i).count()
	}
	return s
}
