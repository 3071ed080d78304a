package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
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

// start runs the program on a free port. stop ends it with SIGTERM, and fails
// the test if that is not clean; it may be called twice.
func start(t *testing.T, args ...string) (url string, stop func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	url = "http://" + ln.Addr().String()
	require.NoError(t, ln.Close())
	cmd := exec.Command(os.Args[0], append(args, "-listen", strings.TrimPrefix(url, "http://"))...)
	cmd.Env = append(os.Environ(), runEnv+"=1")
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("it did not stop cleanly: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	require.Eventually(t, func() bool {
		resp, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	}, 15*time.Second, 10*time.Millisecond)
	return url, stop
}

func post(t *testing.T, url, body, key string) (*http.Response, string) {
	req, err := http.NewRequest("POST", url+"/jobs", strings.NewReader(body))
	require.NoError(t, err)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(b)
}

func get[T any](t *testing.T, url string) (v T) {
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&v))
	return v
}

// becomes waits until the job at url is in a state.
func becomes(t *testing.T, url, state string) (j job) {
	require.Eventually(t, func() bool {
		j = get[job](t, url)
		return j.State == state
	}, 30*time.Second, 20*time.Millisecond, "it never was %s", state)
	return j
}

// queues runs test with either queue; args are the flags that choose it, the
// same each time.
func queues(t *testing.T, test func(t *testing.T, args []string)) {
	t.Run("SQLite", func(t *testing.T) {
		test(t, []string{"-db", filepath.Join(t.TempDir(), "async.db")})
	})
	t.Run("JetStream", func(t *testing.T) {
		srv, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
		require.NoError(t, err)
		srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
		require.True(t, srv.ReadyForConnections(15*time.Second))
		test(t, []string{"-nats", srv.ClientURL()})
	})
}

func TestTheSameKeyTwiceIsOneJob(t *testing.T) {
	queues(t, func(t *testing.T, args []string) {
		url, _ := start(t, append(args, "-takes", "50ms")...)
		var wg sync.WaitGroup
		locations := make([]string, 8)
		for i := range locations { // at once
			wg.Go(func() {
				req, _ := http.NewRequest("POST", url+"/jobs", strings.NewReader("hello"))
				req.Header.Set("Idempotency-Key", "k-1")
				if resp, err := http.DefaultClient.Do(req); err == nil {
					resp.Body.Close()
					locations[i] = fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Location"))
				}
			})
		}
		wg.Wait()
		for _, l := range locations {
			require.Equal(t, locations[0], l)
			require.Contains(t, l, "202 /jobs/")
		}
		at := url + strings.TrimPrefix(locations[0], "202 ")
		require.Equal(t, "HELLO", becomes(t, at, done).Result)

		resp, body := post(t, url, "hello", "k-1") // much later
		require.Equal(t, 202, resp.StatusCode)
		require.Equal(t, at, url+resp.Header.Get("Location"))
		require.Contains(t, body, "HELLO")
		require.Equal(t, 1, get[job](t, at).Attempts, "it was done once")

		resp, _ = post(t, url, "something else", "k-1")
		require.Equal(t, 422, resp.StatusCode)
		resp, _ = post(t, url, "hello", "k-2")
		require.NotEqual(t, at, url+resp.Header.Get("Location"))
	})
}

func TestAFullQueueSaysWhenThereWillBeRoom(t *testing.T) {
	queues(t, func(t *testing.T, args []string) {
		url, _ := start(t, append(args, "-takes", "1500ms", "-workers", "1", "-backlog", "3")...)
		for range 3 {
			resp, _ := post(t, url, "x", "")
			require.Equal(t, 202, resp.StatusCode)
			require.NotEmpty(t, resp.Header.Get("Retry-After"), "how often to poll")
		}
		resp, _ := post(t, url, "x", "again")
		require.Equal(t, 503, resp.StatusCode)
		seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		require.NoError(t, err)
		require.Equal(t, 2, seconds, "1.5 s, rounded up")
		require.Eventually(t, func() bool { // refused, the key is not used up
			resp, _ := post(t, url, "x", "again")
			return resp.StatusCode == 202
		}, 20*time.Second, 50*time.Millisecond)
	})
}

func TestAJobThatAlwaysFailsIsOnTheListOfTheDead(t *testing.T) {
	queues(t, func(t *testing.T, args []string) {
		url, _ := start(t, append(args, "-takes", "10ms")...)
		require.Empty(t, get[[]job](t, url+"/dead"))
		resp, _ := post(t, url, "fail this", "")
		j := becomes(t, url+resp.Header.Get("Location"), dead)
		require.Equal(t, maxAttempts, j.Attempts)
		require.Equal(t, "it was asked to fail", j.Error)
		require.Equal(t, []job{j}, get[[]job](t, url+"/dead"))

		resp, _ = post(t, url, "another", "")
		becomes(t, url+resp.Header.Get("Location"), done)
	})
}

func TestSIGTERMFinishesWhatRunsAndARestartGoesOn(t *testing.T) {
	queues(t, func(t *testing.T, args []string) {
		args = append(args, "-takes", "3s", "-workers", "1")
		url, stop := start(t, args...)
		resp, _ := post(t, url, "first", "")
		first := resp.Header.Get("Location")
		becomes(t, url+first, running)
		resp, _ = post(t, url, "second", "")
		second := resp.Header.Get("Location")
		stop()

		url, _ = start(t, args...)
		j := get[job](t, url+first)
		require.Equal(t, done, j.State, "it was finished before the end")
		require.Equal(t, 1, j.Attempts)
		require.Equal(t, 1, becomes(t, url+second, done).Attempts)
	})
}
