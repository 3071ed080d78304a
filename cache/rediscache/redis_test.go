package rediscache_test

import (
	"context"
	"net"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// server is a redis-server of the test's own.
type server struct {
	t    *testing.T
	port string
	cmd  *exec.Cmd
}

// startServer starts redis-server on a free port, or skips the test.
func startServer(t *testing.T) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed; with Debian: apt-get install redis-server")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &server{t: t, port: strconv.Itoa(l.Addr().(*net.TCPAddr).Port)}
	require.NoError(t, l.Close())
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) addr() string { return "127.0.0.1:" + s.port }

func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command("redis-server", "--port", s.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.t.TempDir())
	require.NoError(s.t, s.cmd.Start())
	rdb := s.client()
	defer rdb.Close()
	require.Eventually(s.t, func() bool { return rdb.Ping(context.Background()).Err() == nil }, 30*time.Second, 20*time.Millisecond)
}

func (s *server) kill() {
	_ = s.cmd.Process.Signal(syscall.SIGCONT) // it may have been stopped
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (s *server) hang() { require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGSTOP)) }
func (s *server) wake() { require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGCONT)) }

func (s *server) client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.addr(), ContextTimeoutEnabled: true})
}
