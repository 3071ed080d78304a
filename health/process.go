package health

import (
	"bytes"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
)

// processSource is the process and its Go runtime, under the names that
// Prometheus users know from its own client.
type processSource struct{}

// built is the version of the library. It is looked up at each scrape and not
// kept: a variable that holds the func would link it into every program.
func built() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	const path = "github.com/go-spillway/spillway"
	if info.Main.Path == path {
		return info.Main.Version
	}
	for _, dep := range info.Deps {
		if dep.Path == path {
			return dep.Version
		}
	}
	return "unknown"
}

// runtimeMetrics are read together, without stopping the world.
var runtimeMetrics = [...]struct{ from, name, help, kind string }{
	{"/sched/goroutines:goroutines", "go_goroutines", "Number of goroutines that currently exist.", "gauge"},
	{"/sched/gomaxprocs:threads", "go_sched_gomaxprocs_threads", "The current runtime.GOMAXPROCS setting.", "gauge"},
	{"/memory/classes/heap/objects:bytes", "go_memstats_heap_alloc_bytes", "Bytes of heap objects that live or are not yet swept.", "gauge"},
	{"/memory/classes/total:bytes", "go_memstats_sys_bytes", "Bytes mapped by the Go runtime.", "gauge"},
	{"/gc/gomemlimit:bytes", "go_gc_gomemlimit_bytes", "Go runtime memory limit.", "gauge"},
	{"/gc/heap/allocs:bytes", "go_memstats_alloc_bytes_total", "Bytes allocated on the heap, freed ones included.", "counter"},
	{"/gc/cycles/total:gc-cycles", "go_gc_cycles_total", "Completed cycles of garbage collection.", "counter"},
	{"/cpu/classes/gc/total:cpu-seconds", "go_gc_cpu_seconds_total", "Estimated CPU time spent collecting garbage.", "counter"},
}

func (processSource) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	emit("spillway_build_info", "The version of the library and of Go.",
		"gauge", 1, "version", built(), "go_version", runtime.Version())
	emit("go_info", "Information about the Go environment.", "gauge", 1, "version", runtime.Version())
	samples := make([]metrics.Sample, len(runtimeMetrics))
	for i := range samples {
		samples[i].Name = runtimeMetrics[i].from
	}
	metrics.Read(samples)
	for i, m := range runtimeMetrics {
		switch v := samples[i].Value; v.Kind() {
		case metrics.KindUint64:
			emit(m.name, m.help, m.kind, float64(v.Uint64()))
		case metrics.KindFloat64:
			emit(m.name, m.help, m.kind, v.Float64())
		}
	}
	p := readProcess()
	for _, m := range [...]struct {
		name, help, kind string
		value            float64
	}{
		{"process_cpu_seconds_total", "User and system CPU time spent.", "counter", p.cpu},
		{"process_open_fds", "Open file descriptors.", "gauge", p.fds},
		{"process_max_fds", "Highest number of open file descriptors allowed.", "gauge", p.maxFDs},
		{"process_resident_memory_bytes", "Resident memory size.", "gauge", p.resident},
		{"process_virtual_memory_bytes", "Virtual memory size.", "gauge", p.virtual},
		{"process_start_time_seconds", "Start time of the process.", "gauge", p.start},
	} {
		if !math.IsNaN(m.value) {
			emit(m.name, m.help, m.kind, m.value)
		}
	}
}

// A process holds what /proc/self says; NaN is what it does not say.
type process struct{ cpu, fds, maxFDs, resident, virtual, start float64 }

func readProcess() process {
	nan := math.NaN()
	p := process{nan, nan, nan, nan, nan, nan}
	if stat, err := os.ReadFile("/proc/self/stat"); err == nil {
		// The command's name, in parentheses, may hold anything.
		if i := bytes.LastIndexByte(stat, ')'); i >= 0 {
			const ticks = 100 // USER_HZ, which is 100 on every Linux that Go runs on
			f := bytes.Fields(stat[i+1:])
			field := func(n int) float64 { // numbered as in proc(5)
				if n-3 >= len(f) {
					return nan
				}
				v, err := strconv.ParseFloat(string(f[n-3]), 64)
				if err != nil {
					return nan
				}
				return v
			}
			p.cpu = (field(14) + field(15)) / ticks
			p.virtual = field(23)
			p.resident = field(24) * float64(os.Getpagesize())
			p.start = bootTime() + field(22)/ticks
		}
	}
	if dir, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.fds = float64(len(dir) - 1) // one is the directory itself
	}
	if limits, err := os.ReadFile("/proc/self/limits"); err == nil {
		if _, rest, ok := bytes.Cut(limits, []byte("Max open files")); ok {
			if f := bytes.Fields(rest); len(f) > 0 {
				if v, err := strconv.ParseFloat(string(f[0]), 64); err == nil {
					p.maxFDs = v
				}
			}
		}
	}
	return p
}

// bootTime is when the machine started, NaN if unknown.
func bootTime() float64 {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return math.NaN()
	}
	_, rest, ok := bytes.Cut(stat, []byte("\nbtime "))
	if !ok {
		return math.NaN()
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	v, err := strconv.ParseFloat(string(line), 64)
	if err != nil {
		return math.NaN()
	}
	return v
}
