package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

var soak = flag.Duration("soak", 5*time.Second, "how long the soak lasts")

// A redisServer can be killed, stopped and started again at its address.
type redisServer struct {
	addr string
	cmd  *exec.Cmd
}

func (s *redisServer) start(t *testing.T) {
	_, port, _ := net.SplitHostPort(s.addr)
	s.cmd = exec.Command("redis-server", "--port", port, "--save", "", "--appendonly", "no")
	require.NoError(t, s.cmd.Start(), "this test needs a real redis-server")
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
}

func (s *redisServer) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// TestSoakWithoutRedis sends traffic to two members of a fleet while their
// Redis is killed and started empty, stopped, paused and flushed, for as long
// as -soak says. No client may notice: each gets its own product, nobody an
// error, the polite are never refused and the greedy one always soon; and in
// the end memory and goroutines are as they were. It sleeps, since redis-server
// is a process of its own, which knows only the real clock.
func TestSoakWithoutRedis(t *testing.T) {
	redis.SetLogger(silent{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &redisServer{addr: ln.Addr().String()}
	ln.Close()
	server.start(t)
	defer func() { server.cmd.Process.Signal(syscall.SIGCONT); server.kill() }()
	admin := redis.NewClient(&redis.Options{Addr: server.addr})
	defer admin.Close()

	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "product %s\n", r.URL.Path[1:])
	}))
	defer source.Close()
	var urls []string
	for range 2 {
		member := httptest.NewServer(newHandler(server.addr, source.URL))
		defer member.Close()
		urls = append(urls, member.URL)
	}

	var good, greedy, greedyRefused, requests atomic.Int64
	var mu sync.Mutex
	var wrong []string
	ask := func(c *http.Client, i int64, who string) int {
		path := fmt.Sprintf("/sku-%d", i%300)
		r, _ := http.NewRequest("GET", urls[i%2]+path, nil)
		r.Header.Set("X-Client", who)
		resp, err := c.Do(r)
		if err == nil {
			var body []byte
			body, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			want := "product " + path[1:] + "\n"
			ok := resp.StatusCode == 200 && string(body) == want || resp.StatusCode == 429 && who == "greedy"
			if err == nil && ok {
				return resp.StatusCode
			}
			err = fmt.Errorf("status %d, %q, want %q: %w", resp.StatusCode, body, want, err)
		}
		mu.Lock()
		wrong = append(wrong, who+" "+path+": "+err.Error())
		mu.Unlock()
		return 0
	}
	// traffic runs clients until f returns.
	traffic := func(f func()) {
		going, halt := context.WithCancel(t.Context())
		c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 20 * time.Second}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for going.Err() == nil {
					i := requests.Add(1)
					if ask(c, i, fmt.Sprintf("polite-%d", i/20)) == 200 {
						good.Add(1)
					}
					time.Sleep(2 * time.Millisecond)
				}
			})
		}
		for range 2 {
			wg.Go(func() { // and does not rest
				for i := int64(0); going.Err() == nil; i++ {
					switch ask(c, i, "greedy") {
					case 200:
						greedy.Add(1)
					case 429:
						greedyRefused.Add(1)
					}
				}
			})
		}
		f()
		halt()
		wg.Wait()
		c.CloseIdleConnections()
	}
	rounds := 0
	round := func() {
		rounds++
		server.kill()
		time.Sleep(200 * time.Millisecond)
		server.start(t)
		time.Sleep(200 * time.Millisecond)
		server.cmd.Process.Signal(syscall.SIGSTOP)
		time.Sleep(200 * time.Millisecond)
		server.cmd.Process.Signal(syscall.SIGCONT)
		admin.Do(t.Context(), "CLIENT", "PAUSE", "200")
		time.Sleep(300 * time.Millisecond)
		admin.FlushAll(t.Context())
		time.Sleep(200 * time.Millisecond)
	}
	measure := func() (int, float64) {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		least, calm := runtime.NumGoroutine(), 0
		require.Eventually(t, func() bool { // until none has ended for a second
			calm++
			if n := runtime.NumGoroutine(); n < least {
				least, calm = n, 0
			}
			return calm == 50
		}, time.Minute, 20*time.Millisecond)
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return least, float64(m.HeapAlloc)
	}

	length := *soak
	if testing.Short() && length == 5*time.Second {
		length = time.Second
	}
	traffic(round) // what is made once is made
	goroutinesBefore, heapBefore := measure()
	for end := time.Now().Add(length); time.Now().Before(end); {
		traffic(round)
	}
	goroutinesAfter, heapAfter := measure()
	t.Logf("%d rounds of faults: %d answered; the greedy client %d, and refused %d; heap %.1f to %.1f MB, goroutines %d to %d", rounds,
		good.Load(), greedy.Load(), greedyRefused.Load(), heapBefore/1e6, heapAfter/1e6, goroutinesBefore, goroutinesAfter)
	require.Empty(t, strings.Join(wrong[:min(10, len(wrong))], "\n"))
	require.Greater(t, good.Load(), int64(100))
	require.NotZero(t, greedyRefused.Load())
	// A Redis that has lost its memory forgives, and each of the two members
	// has a limit of its own while there is none.
	require.LessOrEqual(t, greedy.Load(), int64(rounds*2+1)*3*limit)
	require.LessOrEqual(t, goroutinesAfter, goroutinesBefore+10, "the goroutines are flat")
	require.Less(t, heapAfter-heapBefore, 8e6, "the heap is flat")
}
