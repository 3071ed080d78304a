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

func TestEachCustomerGetsWhatTheirPlanSays(t *testing.T) {
	url := start(t)
	status := func(key string) int {
		resp, _ := do(t, "GET", url+"/search", "", "X-API-Key", key)
		return resp.StatusCode
	}
	for range 12 { // of 5 each: 60
		require.Equal(t, 200, status("free-1"))
	}
	require.Equal(t, 429, status("free-1"))
	require.Equal(t, 200, status("free-2"), "a bucket of their own")
	require.Equal(t, 200, status("gold-1"))

	require.Equal(t, 401, status("made-up-1"))
	require.Equal(t, 401, status("made-up-2"))
	require.Equal(t, 429, status("made-up-3"), "made-up keys are charged to the address: 10 a minute")

	resp, _ := do(t, "PUT", url+"/-/plan?name=free&perminute=60000", "")
	require.Equal(t, 204, resp.StatusCode)
	require.Eventually(t, func() bool { return status("free-1") == 200 }, 5*time.Second, 10*time.Millisecond, "the debt is paid off faster")
	resp, _ = do(t, "PUT", url+"/-/plan?name=free&perminute=-1", "")
	require.Equal(t, 400, resp.StatusCode)
}
