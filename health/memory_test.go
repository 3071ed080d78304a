package health

import (
	"runtime/debug"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// This test is inside the package because it brings a cgroup of its own.
func TestMemoryReadsTheCgroupAndThenTheRuntime(t *testing.T) {
	cgroup := func(limit, current, stat string) fstest.MapFS {
		return fstest.MapFS{
			"memory.max": {Data: []byte(limit)}, "memory.current": {Data: []byte(current)}, "memory.stat": {Data: []byte(stat)},
		}
	}
	require.NoError(t, memory(cgroup("1000\n", "890\n", ""), 0.9)(t.Context()))
	require.EqualError(t, memory(cgroup("1000\n", "950\n", "anon 5\n"), 0.9)(t.Context()),
		"95 % of the memory is used, at most 90 % is expected")
	require.NoError(t, memory(cgroup("1000\n", "950\n", "anon 5\ninactive_file 100\n"), 0.9)(t.Context()), "the kernel can take those back")
	require.NoError(t, memory(cgroup("max\n", "950\n", ""), 0.9)(t.Context()), "there is no limit")
	require.NoError(t, memory(fstest.MapFS{}, 0.9)(t.Context()))
	require.NoError(t, Memory(1)(t.Context()))

	t.Setenv("GOMEMLIMIT", "") // says that this test is not parallel: the limit is the process's
	used, _ := goMemory()
	require.Zero(t, used, "without a limit it is not asked")
	old := setMemoryLimit(t, 1<<20)
	require.ErrorContains(t, memory(fstest.MapFS{}, 0.9)(t.Context()), "of the memory is used")
	setMemoryLimit(t, old)
}

func setMemoryLimit(t *testing.T, limit int64) (old int64) {
	old = debug.SetMemoryLimit(limit)
	t.Cleanup(func() { debug.SetMemoryLimit(old) })
	return old
}
