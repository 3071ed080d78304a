package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
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

// start runs the program on a free port and stops it, cleanly, with the test.
func start(t *testing.T) (url string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	url = "http://" + ln.Addr().String()
	require.NoError(t, ln.Close())
	cmd := exec.Command(os.Args[0], "-listen", strings.TrimPrefix(url, "http://"))
	cmd.Env = append(os.Environ(), runEnv+"=1")
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("it did not stop cleanly: %v", err)
		}
	})
	require.Eventually(t, func() bool {
		resp, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	}, 15*time.Second, 10*time.Millisecond)
	return url
}

// do sends a request with header fields given as name, value, and returns the
// answer.
func do(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(got)
}

func TestFeaturesGoOffByHandAndComeBack(t *testing.T) {
	url := start(t)
	resp, body := do(t, "GET", url+"/product", "")
	require.Equal(t, 200, resp.StatusCode)
	require.Contains(t, body, "50 reviews")
	require.Contains(t, body, "tea")
	require.Empty(t, resp.Header.Get("Spillway-Degraded"))

	resp, body = do(t, "PUT", url+"/-/switch", `{"target":"level","level":2,"author":"test","reason":"to see it","for":"1m"}`, "Content-Type", "application/json")
	require.Equal(t, 200, resp.StatusCode, body)
	resp, body = do(t, "GET", url+"/product", "")
	require.Equal(t, "a kettle, 42.00\n", body)
	require.NotEmpty(t, resp.Header.Get("Spillway-Degraded"))
	_, body = do(t, "GET", url+"/reviews", "")
	require.Contains(t, body, "paused")

	resp, body = do(t, "DELETE", url+"/-/switch?target=level&author=test", "", "Spillway-Admin", "1")
	require.Equal(t, 200, resp.StatusCode, body)
	_, body = do(t, "GET", url+"/product", "")
	require.Contains(t, body, "50 reviews")
}
