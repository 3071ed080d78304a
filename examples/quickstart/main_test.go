package main

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The test runs the program itself: this test binary, with quickstartEnv set.
const quickstartEnv = "SPILLWAY_QUICKSTART_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(quickstartEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestQuickstartLimitsCachesAnswersProbesAndDrains(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	cmd := exec.Command(os.Args[0], "-listen", addr)
	cmd.Env = append(os.Environ(), quickstartEnv+"=1")
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })

	get := func(path string) *http.Response {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			return &http.Response{Header: http.Header{}}
		}
		resp.Body.Close()
		return resp
	}
	require.Eventually(t, func() bool { return get("/readyz").StatusCode == 200 }, 15*time.Second, 10*time.Millisecond)

	resp := get("/")
	require.Equal(t, 200, resp.StatusCode)
	require.NotEmpty(t, resp.Header.Get("RateLimit"))
	require.Contains(t, get("/").Header.Get("Cache-Status"), "hit")
	for range 30 {
		resp = get("/")
	}
	require.Equal(t, 429, resp.StatusCode, "20 a minute is exceeded")
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
	require.Equal(t, 200, get("/readyz").StatusCode, "probes are never limited")

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool { return get("/readyz").StatusCode == 503 }, 15*time.Second, 10*time.Millisecond)
	require.NoError(t, cmd.Wait(), "exit 0")
}
