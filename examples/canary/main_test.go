package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// The test runs the program itself: this test binary, with runEnv set.
const runEnv = "SPILLWAY_EXAMPLE_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(runEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func run(t *testing.T, args ...string) string {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), runEnv+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestABadVersionIsRolledBack(t *testing.T) {
	out := run(t)
	require.Contains(t, out, "its share is now 10 %")
	require.Contains(t, out, "rolled back")
	require.NotContains(t, out, "the stable one")
}

func TestAGoodVersionIsRolledOutToAll(t *testing.T) {
	out := run(t, "-bad", "0")
	require.Contains(t, out, "its share is now 100 %")
	require.Contains(t, out, "version 2 is the stable one")
	require.NotContains(t, out, "rolled back")
}
