package health_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

// This file deploys for real: replicas are processes of their own, killed with
// SIGTERM while clients send through a balancer with keep-alive connections.

// replica is the main function of such a process. It listens on a free port,
// says which one, and serves until SIGTERM.
func replica(delay time.Duration) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	h := health.MustNew(health.Config{
		Drain: health.Drain{Delay: delay, Grace: -1},
		OnChange: func(c health.Change) {
			if c.Subject == "phase" {
				fmt.Println(c.To)
			}
		},
	})
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		<-time.After(time.Duration(1+rand.IntN(10)) * time.Millisecond) // work
		if r.Context().Err() != nil {
			w.WriteHeader(http.StatusInternalServerError) // as a handler does whose query was cancelled
			return
		}
		w.Write(body)
	})
	mux.HandleFunc("/hang", func(http.ResponseWriter, *http.Request) {
		fmt.Println("hanging")
		select {}
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	fmt.Println(ln.Addr())
	err = h.Serve(ctx, &http.Server{Handler: h.Handler(mux)}, ln)
	switch {
	case errors.Is(err, health.ErrForced):
		os.Exit(4)
	case err != nil:
		fmt.Println(err)
		os.Exit(5)
	}
	os.Exit(0)
}

const replicaEnv = "SPILLWAY_HEALTH_TEST_REPLICA"

func TestMain(m *testing.M) {
	if delay := os.Getenv(replicaEnv); delay != "" {
		d, err := time.ParseDuration(delay)
		if err != nil {
			panic(err)
		}
		replica(d)
	}
	// The goroutine that os/signal starts once must not belong to a bubble.
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	os.Exit(m.Run())
}

// A process is a replica that runs.
type process struct {
	*exec.Cmd
	url string
	out *bufio.Reader
}

func start(t *testing.T, delay time.Duration) *process {
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(os.Environ(), replicaEnv+"="+delay.String())
	out, err := p.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.Start())
	t.Cleanup(func() { _ = p.Process.Kill() })
	p.out = bufio.NewReader(out)
	p.url = "http://" + p.line(t)
	return p
}

// line reads the next line that the process says.
func (p *process) line(t *testing.T) string {
	line, err := p.out.ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line)
}

// A lb is a balancer as they are: it probes /readyz, takes a backend out some
// time after it has noticed, and does not retry.
type lb struct {
	proxy *httputil.ReverseProxy
	lag   time.Duration

	mu    sync.Mutex
	in    []string
	turns int
}

func newLB(lag time.Duration) *lb {
	b := &lb{lag: lag}
	b.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			b.mu.Lock()
			defer b.mu.Unlock()
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host = "none.invalid"
			if len(b.in) > 0 {
				r.Out.URL.Host = strings.TrimPrefix(b.in[b.turns%len(b.in)], "http://")
				b.turns++
			}
		},
		Transport:    &http.Transport{MaxIdleConnsPerHost: 64},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	return b
}

// serve takes a request in whole before it passes it on. Without that,
// httputil.ReverseProxy loses about one POST in 20,000 by itself: when the
// backend's answer begins before the transport has seen the end of the body,
// net/http closes that body under it, and the transport the connection.
func (b *lb) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	b.proxy.ServeHTTP(w, r)
}

// add puts a backend in, and probes it until it is not ready.
func (b *lb) add(url string) {
	b.mu.Lock()
	b.in = append(b.in, url)
	b.mu.Unlock()
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		for range time.Tick(20 * time.Millisecond) {
			resp, err := client.Get(url + "/readyz")
			if err == nil {
				resp.Body.Close()
			}
			if err != nil || resp.StatusCode != 200 {
				break
			}
		}
		<-time.After(b.lag)
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, u := range b.in {
			if u == url {
				b.in = append(b.in[:i:i], b.in[i+1:]...)
				return
			}
		}
	}()
}

// deploy replaces two replicas, twice, under the load of 16 clients, half of
// whose requests are POSTs. It returns how many requests there were and how
// many of them failed.
func deploy(t *testing.T, delay time.Duration) (requests, posts, failed int64) {
	balancer := newLB(100 * time.Millisecond)
	old := []*process{start(t, delay), start(t, delay)}
	for _, p := range old {
		balancer.add(p.url)
	}
	front := &http.Server{Handler: http.HandlerFunc(balancer.serve)}
	ln := listen(t)
	go front.Serve(ln)
	defer front.Close()

	var all, post, bad atomic.Int64
	over := make(chan struct{})
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				method, body := "GET", ""
				if i%2 == 0 {
					method, body = "POST", strings.Repeat("x", 10_000)
					post.Add(1)
				}
				all.Add(1)
				r, _ := http.NewRequest(method, "http://"+ln.Addr().String(), strings.NewReader(body))
				resp, err := client.Do(r)
				if err != nil {
					bad.Add(1)
					continue
				}
				echo, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || string(echo) != body {
					bad.Add(1)
				}
			}
		})
	}
	until := func(n int64) {
		for range time.Tick(time.Millisecond) {
			if all.Load() >= n {
				return
			}
		}
	}
	for round := range int64(4) {
		until(1000 * (round + 1))
		next := start(t, delay)
		balancer.add(next.url)
		require.NoError(t, old[0].Process.Signal(syscall.SIGTERM))
		require.NoError(t, old[0].Wait(), "a clean drain ends with status 0")
		old = append(old[1:], next)
	}
	until(4500)
	close(over)
	clients.Wait()
	return all.Load(), post.Load(), bad.Load()
}

func TestADeployUnderLoadLosesNoRequest(t *testing.T) {
	if testing.Short() {
		t.Skip("deploys for some seconds")
	}
	requests, posts, failed := deploy(t, time.Second)
	t.Logf("%d requests, %d of them POSTs, %d failed", requests, posts, failed)
	require.GreaterOrEqual(t, requests, int64(4000))
	require.GreaterOrEqual(t, posts, int64(2000))
	require.Zero(t, failed)
}

// The same without the delay: if this one loses nothing, the other one proves
// nothing.
func TestWithoutTheDelayADeployLosesRequests(t *testing.T) {
	if testing.Short() {
		t.Skip("deploys for some seconds")
	}
	requests, _, failed := deploy(t, -1)
	t.Logf("%d requests, %d failed", requests, failed)
	require.Positive(t, failed)
}

func TestASecondSignalIsHard(t *testing.T) {
	p := start(t, time.Hour)
	go func() {
		if resp, err := http.Get(p.url + "/hang"); err == nil {
			resp.Body.Close()
		}
	}()
	require.Equal(t, "hanging", p.line(t))
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	require.Equal(t, "draining", p.line(t))
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	var exit *exec.ExitError
	require.ErrorAs(t, p.Wait(), &exit)
	require.Equal(t, 4, exit.ExitCode(), "Serve has returned ErrForced")
}
