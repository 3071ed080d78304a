package balancer_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// odd starts a backend that answers each request with what write writes, and
// then closes the connection, by a reset if write says so. It counts the
// connections that are open.
func odd(t testing.TB, open *atomic.Int64, write func(conn net.Conn, in *bufio.Reader) (reset bool)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			go func() {
				defer open.Add(-1)
				defer conn.Close()
				in := bufio.NewReader(conn)
				for {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					if line == "\r\n" {
						break
					}
				}
				if write(conn, in) {
					_ = conn.(*net.TCPConn).SetLinger(0)
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

func TestOddBackendsLeaveNothingBehind(t *testing.T) {
	var open atomic.Int64
	says := func(text string) func(net.Conn, *bufio.Reader) bool {
		return func(conn net.Conn, _ *bufio.Reader) bool { _, _ = io.WriteString(conn, text); return false }
	}
	stays := func(conn net.Conn, in *bufio.Reader) bool { _, _ = io.Copy(io.Discard, in); return false } // until it is closed
	good := server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	backends := map[string]string{
		"nothing":     odd(t, &open, says("")),
		"silence":     odd(t, &open, stays),
		"garbage":     odd(t, &open, says("SSH-2.0-OpenSSH_9.9\r\n")),
		"half header": odd(t, &open, says("HTTP/1.1 200 OK\r\nContent-Le")),
		"short":       odd(t, &open, says("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")),
		"bad chunk":   odd(t, &open, says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhalf")),
		"two lengths": odd(t, &open, says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")),
		"unasked 101": odd(t, &open, says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")),
		"slow body": odd(t, &open, func(c net.Conn, in *bufio.Reader) bool {
			says("HTTP/1.1 200 OK\r\n\r\nhalf")(c, in)
			return stays(c, in)
		}),
		"early answer": odd(t, &open, func(c net.Conn, in *bufio.Reader) bool {
			says("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")(c, in)
			return stays(c, in)
		}),
		"early 503": odd(t, &open, func(c net.Conn, in *bufio.Reader) bool {
			says("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbu")(c, in)
			return stays(c, in)
		}),
		"reset": odd(t, &open, func(c net.Conn, in *bufio.Reader) bool {
			says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")(c, in)
			return true
		}),
		"endless 1xx": odd(t, &open, func(c net.Conn, _ *bufio.Reader) bool {
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"); err != nil {
					return false
				}
			}
		}),
		"refused": refuses(t),
	}
	goroutines := runtime.NumGoroutine()
	for name, url := range backends {
		t.Run(name, func(t *testing.T) {
			for _, hedge := range []time.Duration{0, time.Millisecond} {
				b := must(t, balancer.Config{
					Backends: balancer.URLs(url, good, url+"/again"), Policy: inOrder{}, Eject: balancer.Eject{Consecutive: -1},
					Retry: balancer.Retry{PerTry: 30 * time.Millisecond, Budget: balancer.NewBudget(9, 99)}, Hedge: balancer.Hedge{After: hedge, Share: 1},
				})
				proxy := b.Proxy()
				proxy.ErrorLog = log.New(io.Discard, "", 0)
				front := httptest.NewServer(proxy)
				client := &http.Client{Transport: new(http.Transport)}
				var wg sync.WaitGroup
				for i := range 4 {
					for _, method := range []string{"GET", "PUT", "POST"} {
						wg.Go(func() {
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(20+40*i)*time.Millisecond)
							defer cancel()
							var body io.Reader
							if method != "GET" {
								body = io.LimitReader(zeros{}, int64(1)<<(6*i)) // of unknown length
							}
							req, _ := http.NewRequestWithContext(ctx, method, front.URL, body)
							if resp, err := client.Do(req); err == nil {
								_, _ = io.Copy(io.Discard, resp.Body)
								_ = resp.Body.Close()
							}
							_ = b.SetBackends(balancer.URLs(url, good, fmt.Sprint(url, "/", i))...)
						})
					}
				}
				wg.Wait()
				require.True(t, eventually(func() bool { return b.Stats().InFlight == 0 }), "%+v", b.Backends())
				client.CloseIdleConnections()
				front.Close()
				b.Transport(nil).(interface{ CloseIdleConnections() }).CloseIdleConnections()
			}
			require.True(t, eventually(func() bool { return open.Load() == 0 }), "%d connections are open", open.Load())
		})
	}
	if !eventually(func() bool { return runtime.NumGoroutine() <= goroutines }) {
		stacks := make([]byte, 1<<20)
		require.Fail(t, "goroutines are left", "%d before, %d now:\n%s", goroutines, runtime.NumGoroutine(), strings.TrimSpace(string(stacks[:runtime.Stack(stacks, true)])))
	}
}

// eventually waits up to ten seconds for a condition, without a goroutine.
func eventually(cond func() bool) bool {
	for range 1000 {
		if cond() {
			return true
		}
		<-time.After(10 * time.Millisecond)
	}
	return false
}
