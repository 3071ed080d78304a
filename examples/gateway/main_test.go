package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests run the program itself: this test binary, with gatewayEnv set.
const gatewayEnv = "SPILLWAY_GATEWAY_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(gatewayEnv) != "" || os.Getenv(upstreamEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// A gateway is a running one.
type process struct {
	*exec.Cmd
	url    string
	output *lockedBuffer
}

// Not embedded: its ReadFrom, which io.Copy prefers, takes no lock.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), gatewayEnv+"=1")
	return cmd
}

// start runs a gateway on a free port and waits until it is ready.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: command(append([]string{"-listen", "127.0.0.1:0"}, args...)...), output: &lockedBuffer{}}
	stdout, err := p.StdoutPipe()
	require.NoError(t, err)
	p.Stderr = p.output
	require.NoError(t, p.Start())
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
		if t.Failed() {
			t.Logf("gateway said:\n%s", p.output)
		}
	})
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadString('\n')
	require.NoError(t, err, "the gateway did not start: %s", p.output)
	go io.Copy(p.output, lines)
	_, rest, ok := strings.Cut(line, "http://")
	require.True(t, ok, line)
	p.url = "http://" + strings.Fields(rest)[0]
	return p
}

// get returns the answer to one request on a connection of its own.
func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	resp, err := client.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 15*time.Second, 10*time.Millisecond, what)
}

func TestGatewayPutsAllSixPartsInFrontOfItsBackends(t *testing.T) {
	t.Parallel()
	g := start(t, "-rate", "20")
	eventually(t, "ready", func() bool { r, _ := get(t, g.url+"/readyz"); return r.StatusCode == 200 })

	resp, body := get(t, g.url+"/fast")
	require.Equal(t, 200, resp.StatusCode)
	require.Len(t, body, 1024)
	require.NotEmpty(t, resp.Header.Get("X-Upstream"))
	require.NotEmpty(t, resp.Header.Get("RateLimit"))
	resp, _ = get(t, g.url+"/fast")
	require.Contains(t, resp.Header.Get("Cache-Status"), "hit", "the second answer comes from the cache")

	_, body = get(t, g.url+"/echo")
	require.Contains(t, body, "X-Forwarded-For")

	var refused *http.Response
	for range 200 {
		if resp, _ = get(t, g.url+"/echo"); resp.StatusCode == 429 {
			refused = resp
			break
		}
		require.Equal(t, 200, resp.StatusCode)
	}
	require.NotNil(t, refused, "20 a second is exceeded")
	seconds, err := strconv.Atoi(refused.Header.Get("Retry-After"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, seconds, 1)
	resp, _ = get(t, g.url+"/livez")
	require.Equal(t, 200, resp.StatusCode, "probes are never limited")
	<-time.After(time.Duration(seconds) * time.Second)
	resp, _ = get(t, g.url+"/echo")
	require.Equal(t, 200, resp.StatusCode, "Retry-After was true")

	resp, body = get(t, g.url+"/metrics")
	require.Equal(t, 200, resp.StatusCode)
	for _, part := range parts {
		require.Contains(t, body, "\nspillway_"+part+"_", "a metric of %s", part)
	}
	resp, body = get(t, g.url+"/-/")
	require.Equal(t, 200, resp.StatusCode)
	require.NotEmpty(t, body)
}

func TestServerSentEventsArriveOneByOne(t *testing.T) {
	t.Parallel()
	g := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", g.url+"/stream", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, line, fmt.Sprintf("event %d", i))
		_, err = lines.ReadString('\n')
		require.NoError(t, err)
	}
	cancel()
}

func TestKilledBackendFailsNoIdempotentRequest(t *testing.T) {
	t.Parallel()
	ups, err := startUpstreamsAs(t, "one", "two", "three")
	require.NoError(t, err)
	g := start(t, "-rate", "100000", "-backend", ups[0].url, "-backend", ups[1].url, "-backend", ups[2].url)

	const workers, each = 8, 60
	var wg sync.WaitGroup
	failed := make(chan string, workers*each)
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				if w == 0 && i == each/4 {
					proc, err := os.FindProcess(ups[1].pid)
					if err == nil {
						proc.Kill()
					}
				}
				resp, err := http.Get(g.url + "/slow?ms=5")
				if err != nil {
					failed <- err.Error()
					continue
				}
				if resp.StatusCode != 200 {
					failed <- resp.Status
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	close(failed)
	for f := range failed {
		t.Errorf("a request failed: %s", f)
	}
	_, metrics := get(t, g.url+"/metrics")
	require.Regexp(t, `spillway_balancer_upstream_up\{[^}]*\} 0`, metrics, "the dead backend is out")
}

// startUpstreamsAs starts backends as the gateway does, ended with the test.
func startUpstreamsAs(t *testing.T, names ...string) ([]upstream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return startUpstreams(ctx, names...)
}

func TestSIGTERMDrainsAndExitsZero(t *testing.T) {
	t.Parallel()
	g := start(t, "-drain", "1s")
	eventually(t, "ready", func() bool { r, _ := get(t, g.url+"/readyz"); return r.StatusCode == 200 })

	last := make(chan string, 1)
	go func() {
		resp, err := http.Get(g.url + "/slow?ms=2500")
		if err != nil {
			last <- err.Error()
			return
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		last <- resp.Status
	}()
	eventually(t, "the request is in flight", func() bool {
		_, m := get(t, g.url+"/metrics")
		return strings.Contains(m, "spillway_degrade_inflight{shedder=\"gateway\"} 1")
	})
	require.NoError(t, g.Process.Signal(syscall.SIGTERM))
	eventually(t, "not ready", func() bool { r, _ := get(t, g.url+"/readyz"); return r.StatusCode == 503 })
	resp, _ := get(t, g.url+"/fast")
	require.Equal(t, 200, resp.StatusCode, "still serving while not ready")
	require.Equal(t, "1", resp.Header.Get("Spillway-Draining"))
	require.Equal(t, "200 OK", <-last, "the last request completes")
	require.NoError(t, g.Wait(), "exit 0")
}

func TestStreamDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	g := start(t, "-drain", "100ms")
	resp, err := http.Get(g.url + "/stream")
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = bufio.NewReader(resp.Body).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, g.Process.Signal(syscall.SIGTERM))
	require.NoError(t, g.Wait(), "exit 0: nothing had to be cut off after the timeout")
}

func TestEachPartCanBeTurnedOffAlone(t *testing.T) {
	t.Parallel()
	ups, err := startUpstreamsAs(t, "one", "two")
	require.NoError(t, err)
	for _, part := range parts {
		t.Run(part, func(t *testing.T) {
			g := start(t, "-off", part, "-backend", ups[0].url, "-backend", ups[1].url)
			resp, body := get(t, g.url+"/fast")
			require.Equal(t, 200, resp.StatusCode)
			require.Len(t, body, 1024)
			_, metrics := get(t, g.url+"/metrics")
			for _, p := range parts {
				require.Equal(t, p != part, strings.Contains(metrics, "\nspillway_"+p+"_"), "metrics of %s", p)
			}
		})
	}
}

func TestBadInputNamesTheFlagAndTheFix(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"-rate", "-5"}, "-rate is -5, must be positive"},
		{[]string{"-cache", "-1"}, "-cache is -1, must be positive"},
		{[]string{"-limit", "-1"}, "-limit is -1, must be positive"},
		{[]string{"-failures", "1.5"}, "-failures is 1.5, must be above 0 and at most 1"},
		{[]string{"-failures", "NaN"}, "-failures is NaN, must be above 0 and at most 1"},
		{[]string{"-drain", "-1s"}, "-drain is -1s, must not be negative"},
		{[]string{"-backend", ""}, `-backend is "", must be a URL such as`},
		{[]string{"-backend", "10.0.0.1:80"}, `-backend is "10.0.0.1:80", must be a URL such as`},
		{[]string{"-backend", "http://%zz"}, `-backend is "http://%zz", must be a URL such as`},
		{[]string{"-policy", "best"}, `-policy is "best", must be one of`},
		{[]string{"-off", "cash"}, `-off is "cash", must be one of`},
		{[]string{"-trust", "10.0.0.0"}, `-trust is "10.0.0.0", must be a prefix such as`},
		{[]string{"http://10.0.0.1"}, "backends are given as -backend URL"},
		{[]string{"-listen", busy.Addr().String()}, "choose another address with -listen"},
	}
	for _, tt := range tests {
		out, err := command(tt.args...).CombinedOutput()
		require.Error(t, err, "%q", tt.args)
		require.Contains(t, string(out), tt.want, "%q", tt.args)
	}
	out, err := command("-h").CombinedOutput()
	require.NoError(t, err)
	for _, f := range []string{"-listen", "-backend", "-rate", "-cache", "-limit", "-failures", "-policy", "-drain", "-off"} {
		require.Contains(t, string(out), f)
	}
}
