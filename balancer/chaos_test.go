//go:build unix

package balancer_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// TestMain makes the test binary a backend if it is asked to be one.
func TestMain(m *testing.M) {
	if addr := os.Getenv("SPILLWAY_TEST_BACKEND"); addr != "" {
		backendMain(addr, os.Getenv("SPILLWAY_TEST_LOG"))
		return
	}
	os.Exit(m.Run())
}

// backendMain serves until its standard input ends. It writes every POST's id
// to the log before it answers, and takes its time if it was told to.
func backendMain(addr, log string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	out, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var delay atomic.Int64
	fmt.Println(l.Addr())
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				delay.Store(int64(50 * time.Millisecond))
				return
			}
			id, _ := io.ReadAll(r.Body)
			if r.Method == http.MethodPost {
				_, _ = out.WriteString(string(id) + "\n") // one write: lines do not mix
			}
			if d := delay.Load(); d > 0 {
				<-time.After(time.Duration(d))
			}
			_, _ = io.WriteString(w, "ok")
		}))
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// A child is a backend in a process of its own.
type child struct {
	cmd  *exec.Cmd
	addr string
}

func startChild(t *testing.T, addr, log string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SPILLWAY_TEST_BACKEND="+addr, "SPILLWAY_TEST_LOG="+log)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := &child{cmd: cmd}
	t.Cleanup(func() { _ = stdin.Close(); c.kill() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	c.addr = strings.TrimSpace(line)
	require.NotContains(t, c.addr, "error")
	return c
}

func (c *child) url() string { return "http://" + c.addr }

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

func TestBackendsDieStopRestartSlowDownAndJoinUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	log := t.TempDir() + "/posts"
	var backends []*child
	for range 4 {
		backends = append(backends, startChild(t, "127.0.0.1:0", log))
	}
	urls := func(list ...*child) (u []string) {
		for _, c := range list {
			u = append(u, c.url())
		}
		return u
	}
	goroutines := runtime.NumGoroutine()

	b := balancer.MustNew(balancer.Config{
		Backends:  balancer.URLs(urls(backends...)...),
		Retry:     balancer.Retry{Max: 3, PerTry: 2 * time.Second},
		Eject:     balancer.Eject{Base: 500 * time.Millisecond},
		SlowStart: 500 * time.Millisecond,
	})
	front := httptest.NewServer(b.Proxy())
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

	var gets, posts, postsOK, next atomic.Int64
	var acknowledged sync.Map
	load := func(name string, n int) {
		var wg sync.WaitGroup
		var failed atomic.Int64
		left := atomic.Int64{}
		left.Store(int64(n))
		for range 16 {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if id := next.Add(1); id%8 == 0 {
						posts.Add(1)
						key := fmt.Sprintf("order-%d", id)
						resp, err := client.Post(front.URL, "text/plain", strings.NewReader(key))
						if err == nil {
							_, _ = io.Copy(io.Discard, resp.Body)
							_ = resp.Body.Close()
							if resp.StatusCode == 200 {
								postsOK.Add(1)
								acknowledged.Store(key, true)
							}
						}
						continue
					}
					gets.Add(1)
					resp, err := client.Get(front.URL)
					if err != nil {
						failed.Add(1)
						continue
					}
					body, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err != nil || resp.StatusCode != 200 || string(body) != "ok" {
						failed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		require.Zero(t, failed.Load(), "idempotent requests that failed while: %s", name)
	}
	during := func(name string, n int, do func()) {
		done := make(chan struct{})
		go func() { defer close(done); load(name, n) }()
		do()
		<-done
	}

	load("all is well", 400)
	during("one is killed", 1500, backends[0].kill)
	load("one is dead", 400)
	during("one is stopped", 800, func() { _ = backends[1].cmd.Process.Signal(syscall.SIGSTOP) })
	during("it goes on", 800, func() { _ = backends[1].cmd.Process.Signal(syscall.SIGCONT) })
	during("the dead one is restarted", 800, func() { backends[0] = startChild(t, backends[0].addr, log) })
	during("one is slow", 800, func() {
		resp, err := client.Get(backends[2].url() + "/slow")
		if err == nil {
			_ = resp.Body.Close()
		}
	})
	fifth := startChild(t, "127.0.0.1:0", log)
	during("one joins", 800, func() { _ = b.SetBackends(balancer.URLs(urls(append(backends, fifth)...)...)...) })
	during("three leave", 800, func() { _ = b.SetBackends(balancer.URLs(urls(backends[3], fifth)...)...) })

	// No POST was sent twice, and none that was acknowledged is missing.
	data, err := os.ReadFile(log)
	require.NoError(t, err)
	seen := map[string]int{}
	for _, id := range strings.Fields(string(data)) {
		seen[id]++
		require.Equal(t, 1, seen[id], "%s was sent twice", id)
	}
	acknowledged.Range(func(k, _ any) bool {
		require.Contains(t, seen, k)
		return true
	})
	require.Greater(t, postsOK.Load(), posts.Load()*9/10)

	s := b.Stats()
	t.Logf("%d GETs, none failed; %d of %d POSTs answered, none twice; %d retries, %d ejections", gets.Load(), postsOK.Load(), posts.Load(), s.Retries, s.Ejections)
	require.Positive(t, s.Retries)
	require.LessOrEqual(t, float64(s.Retries), 0.2*float64(gets.Load()+posts.Load())+100+600, "the budget")

	// Everything is given back.
	client.CloseIdleConnections()
	front.Close()
	b.Transport(nil).(interface{ CloseIdleConnections() }).CloseIdleConnections()
	require.Zero(t, b.Stats().InFlight)
	if !eventually(func() bool { return runtime.NumGoroutine() <= goroutines }) {
		stacks := make([]byte, 1<<20)
		require.Fail(t, "goroutines are left", "%d before, %d now:\n%s", goroutines, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
	}
}
