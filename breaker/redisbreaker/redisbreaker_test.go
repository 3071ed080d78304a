package redisbreaker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/breaker/redisbreaker"
)

// server starts a Redis of the test's own. It returns a client, and what kills
// the server and starts it again.
func server(t *testing.T) (rdb *redis.Client, kill, start func()) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed: apt-get install redis-server")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())

	var cmd *exec.Cmd
	kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	start = func() {
		cmd = exec.Command(path, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
		require.NoError(t, cmd.Start())
	}
	start()
	t.Cleanup(func() { kill() })
	rdb = redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", port), MaxRetries: -1})
	t.Cleanup(func() { _ = rdb.Close() })
	require.Eventually(t, func() bool { return rdb.Ping(t.Context()).Err() == nil }, 10*time.Second, 10*time.Millisecond)
	return rdb, kill, start
}

func opening(name, key, by string, left time.Duration) breaker.Opening {
	return breaker.Opening{Name: name, Key: key, By: by, Until: time.Now().Add(left).Truncate(time.Millisecond).UTC(), Why: "down"}
}

func TestStoreKeepsOpeningsUntilTheirEnd(t *testing.T) {
	rdb, _, _ := server(t)
	s := redisbreaker.New(rdb, "")
	ctx := t.Context()

	list, err := s.Openings(ctx, "mail")
	require.NoError(t, err)
	require.Empty(t, list)

	long, short := opening("mail", "http://a", "x", time.Hour), opening("mail", "", "y", 300*time.Millisecond)
	require.NoError(t, s.Announce(ctx, long))
	require.NoError(t, s.Announce(ctx, short))
	require.NoError(t, s.Announce(ctx, opening("another", "", "x", time.Hour)))
	list, err = s.Openings(ctx, "mail")
	require.NoError(t, err)
	require.Contains(t, list, long)

	require.Eventually(t, func() bool {
		list, err := s.Openings(ctx, "mail")
		return err == nil && len(list) == 1
	}, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, rdb.ZAdd(ctx, "spillway:breaker:mail", redis.Z{Score: 1e15, Member: "not JSON"}).Err())
	list, err = s.Openings(ctx, "mail")
	require.NoError(t, err)
	require.Equal(t, []breaker.Opening{long}, list)
}

func TestStoreIsBoundedAndExpires(t *testing.T) {
	rdb, _, _ := server(t)
	s := redisbreaker.New(rdb, "test:")
	ctx := t.Context()
	for i := range 1100 {
		require.NoError(t, s.Announce(ctx, opening("mail", fmt.Sprint(i), "x", time.Hour+time.Duration(i)*time.Second)))
	}
	n, err := rdb.ZCard(ctx, "test:mail").Result()
	require.NoError(t, err)
	require.EqualValues(t, 1024, n)
	ttl, err := rdb.PTTL(ctx, "test:mail").Result()
	require.NoError(t, err)
	require.InDelta(t, time.Hour+1099*time.Second, ttl, float64(time.Minute))
}

func TestAFleetLearnsThroughRedisAndLivesWithoutIt(t *testing.T) {
	rdb, kill, start := server(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	var fleet []*breaker.Breaker
	for range 3 {
		b := breaker.MustNew(breaker.Config{
			Name: "mail", ConsecutiveFailures: 1, OpenFor: time.Hour, MaxOpen: time.Hour,
			Store: redisbreaker.New(rdb, ""), SyncEvery: 20 * time.Millisecond,
		})
		wg.Go(func() { _ = b.Run(ctx) })
		fleet = append(fleet, b)
	}
	fail := func(context.Context) (int, error) { return 0, errors.New("down") }
	_, _ = breaker.Do(ctx, fleet[0], fail)
	require.Eventually(t, func() bool {
		return fleet[1].State() == breaker.Open && fleet[2].State() == breaker.Open
	}, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, "a peer opened it: a call failed", fleet[1].Stats().Why)

	kill()
	storeFails := func() bool {
		for _, what := range fleet[1].Conditions() {
			if strings.HasPrefix(what, "the store") {
				return true
			}
		}
		return false
	}
	require.Eventually(t, storeFails, 10*time.Second, 10*time.Millisecond)
	_, err := breaker.Do(ctx, fleet[1].For("local"), fail)
	require.EqualError(t, err, "down")
	_, err = breaker.Do(ctx, fleet[1].For("local"), fail)
	require.ErrorIs(t, err, breaker.ErrOpen)
	require.Equal(t, breaker.Closed, fleet[2].For("local").State())

	start() // and what couldn't be announced is announced
	require.Eventually(t, func() bool { return fleet[2].For("local").State() == breaker.Open }, 30*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { return !storeFails() }, 30*time.Second, 10*time.Millisecond)
}
