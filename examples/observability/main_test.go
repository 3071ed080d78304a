package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

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

// A pipe is what a process has written so far.
type pipe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *pipe) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.String()
}

func TestWhatHappensIsToldInEachWay(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	var stdout, stderr pipe
	cmd := exec.Command(os.Args[0], "-listen", addr, "-every", "200ms")
	cmd.Env = append(os.Environ(), runEnv+"=1")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })

	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	require.Eventually(t, func() bool { s, _ := get("/readyz"); return s == 200 }, 15*time.Second, 10*time.Millisecond)

	statuses := map[int]int{}
	for range 25 {
		s, _ := get("/stock")
		statuses[s]++
	}
	require.Equal(t, map[int]int{500: 20, 503: 5}, statuses)
	for range 60 {
		s, _ := get("/")
		statuses[s]++
	}
	require.Positive(t, statuses[429])

	for _, path := range []string{"/metrics", "/metrics/client"} {
		_, metrics := get(path)
		require.Regexp(t, `(?m)^spillway_breaker_state\{breaker="stock",state="open"\} 1$`, metrics, path)
		require.Regexp(t, `(?m)^spillway_ratelimit_requests_total\{.*outcome="denied".*\} [1-9]`, metrics, path)
	}
	status, page := get("/-/")
	require.Equal(t, 200, status)
	require.Contains(t, page, "<title>Spillway</title>")
	require.Eventually(t, func() bool { return bytes.Contains([]byte(stdout.String()), []byte("spillway.ratelimit.requests")) },
		15*time.Second, 20*time.Millisecond, "OpenTelemetry")
	require.Regexp(t, `"level":"WARN","msg":"breaker","circuit":"stock","from":"closed","to":"open","why":"20 of 20`, stderr.String())
	require.Contains(t, stderr.String(), `"msg":"refused"`)

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), "exit 0")
}
