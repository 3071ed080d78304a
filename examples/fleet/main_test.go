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

func TestThreeProcessesActAsOneAndSurviveRedis(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed: this test needs a real one")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), runEnv+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "50 answered, 250 refused, 0 failed")
	require.Contains(t, string(out), "loaded from the source 10 times")
	require.Contains(t, string(out), "without Redis, 25 requests by another client: 25 answered, 0 refused, 0 failed")
}
