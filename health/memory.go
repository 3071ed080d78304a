package health

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
)

// Memory returns a Probe that fails while the process uses more than the share
// most, from 0 to 1, of the memory that it may use: of the limit of its cgroup
// (version 2, as containers have it), pages that the kernel can take back not
// counted, or else of GOMEMLIMIT. It passes where there is no limit. Memory
// panics if most is not a share.
func Memory(most float64) func(context.Context) error {
	if !(most >= 0 && most <= 1) {
		panic(fmt.Sprintf("health: Memory: most is %v, must be from 0 to 1", most))
	}
	return memory(os.DirFS("/sys/fs/cgroup"), most)
}

func memory(cgroup fs.FS, most float64) func(context.Context) error {
	return func(ctx context.Context) error {
		used, limit, ok := cgroupMemory(cgroup)
		if !ok {
			used, limit = goMemory()
		}
		if math.IsInf(limit, 1) {
			return nil
		}
		share := used / limit
		Measure(ctx, 100*share, "%")
		if !(share <= most) {
			return Public(fmt.Sprintf("%.0f %% of the memory is used, at most %.4g %% is expected", 100*share, 100*most), nil)
		}
		return nil
	}
}

// cgroupMemory is what the kernel counts, and the limit at which it kills.
func cgroupMemory(cgroup fs.FS) (used, limit float64, ok bool) {
	limit, ok1 := readNumber(cgroup, "memory.max")
	used, ok2 := readNumber(cgroup, "memory.current")
	if !ok1 || !ok2 || limit <= 0 {
		return 0, 0, false // also for "max", which is no limit
	}
	stat, _ := fs.ReadFile(cgroup, "memory.stat")
	for line := range strings.Lines(string(stat)) {
		if s, ok := strings.CutPrefix(line, "inactive_file "); ok {
			if v, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil {
				used = max(0, used-v)
			}
		}
	}
	return used, limit, true
}

func readNumber(fsys fs.FS, name string) (float64, bool) {
	b, err := fs.ReadFile(fsys, name)
	if err != nil {
		return 0, false
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return float64(v), err == nil
}

// goMemory is what the Go runtime counts, and its limit.
func goMemory() (used, limit float64) {
	l := debug.SetMemoryLimit(-1)
	if l == math.MaxInt64 {
		return 0, math.Inf(1)
	}
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return float64(s[0].Value.Uint64() - s[1].Value.Uint64()), float64(l)
}
