package redislimit_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
	"github.com/go-spillway/spillway/ratelimit/redislimit"
)

var ctx = context.Background()

// A server is a redis-server of the test's own, on a free port, which keeps
// nothing on disk.
type server struct {
	t    testing.TB
	addr string
	cmd  *exec.Cmd
}

func startServer(t testing.TB) *server {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed: this test needs a real one")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &server{t: t, addr: l.Addr().String()}
	l.Close()
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	_, port, _ := net.SplitHostPort(s.addr)
	s.cmd = exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.t.TempDir())
	require.NoError(s.t, s.cmd.Start())
	rdb := s.client()
	require.Eventually(s.t, func() bool { return rdb.Ping(ctx).Err() == nil }, 10*time.Second, 10*time.Millisecond)
}

func (s *server) kill() {
	if s.cmd != nil {
		s.cmd.Process.Signal(syscall.SIGCONT)
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *server) client() *redis.Client {
	rdb := redis.NewClient(&redis.Options{Addr: s.addr, PoolSize: 64})
	s.t.Cleanup(func() { rdb.Close() })
	return rdb
}

// patient is for tests that are not about lateness: the machine may be busy.
const patient = 5 * time.Second

func TestTwoLimitersShareOneLimit(t *testing.T) {
	s := startServer(t)
	newLimiter := func() *ratelimit.Limiter {
		return ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.PerHour(10), Also: []ratelimit.Rate{ratelimit.PerDay(15)},
			Store: redislimit.New("t:", s.client()), StoreTimeout: patient,
		})
	}
	a, b := newLimiter(), newLimiter()
	for i := range 10 {
		l := a
		if i%2 == 1 {
			l = b
		}
		d, err := l.Allow(ctx, "k", 1)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		require.False(t, d.Degraded)
		require.Equal(t, 9-i, d.Remaining, "of 10, whoever asks")
	}
	for _, l := range []*ratelimit.Limiter{a, b} {
		d, _ := l.Allow(ctx, "k", 1)
		require.False(t, d.Allowed)
		require.InDelta(t, 6*time.Minute, d.RetryAfter, float64(10*time.Second))
	}
	a.Charge(ctx, "k", -4)
	require.Equal(t, 4, b.Peek(ctx, "k").Remaining, "given back for all")
	b.Charge(ctx, "k", 100)
	require.Equal(t, 0, a.Peek(ctx, "k").Remaining)
	require.Greater(t, a.Peek(ctx, "k").RetryAfter, 24*time.Hour, "overdrawn")
	a.Forget(ctx, "k")
	require.Equal(t, 10, b.Peek(ctx, "k").Remaining)

	d, _ := a.Allow(ctx, "big", 11)
	require.False(t, d.Allowed)
	require.Equal(t, ratelimit.Never, d.RetryAfter)
	require.Equal(t, 10, b.Peek(ctx, "big").Remaining)
	for _, key := range []string{"", " x{y}z\x00\xff", strings.Repeat("long", 1<<18)} {
		d, _ := a.Allow(ctx, key, 10)
		require.True(t, d.Allowed)
		d, _ = b.Allow(ctx, key, 1)
		require.False(t, d.Allowed)
		require.False(t, d.Degraded)
	}
}

func TestARefusalByOneRateSpendsNothingOfTheOther(t *testing.T) {
	s := startServer(t)
	l := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerHour(3), Also: []ratelimit.Rate{ratelimit.PerDay(5)},
		Store: redislimit.New("t:", s.client()), StoreTimeout: patient,
	})
	for range 20 {
		l.Allow(ctx, "k", 1)
	}
	day := ratelimit.MustNew(ratelimit.Config{ // the same bucket, by its name
		Name: "default-day", Rate: ratelimit.PerDay(5), Store: redislimit.New("t:", s.client()), StoreTimeout: patient,
	})
	require.Equal(t, 2, day.Peek(ctx, "k").Remaining, "17 refusals spent nothing of the day")
}

// Two processes, each with many goroutines, get together what one limit
// allows: not one more, not one less.
func TestTwoProcessesShareOneLimitExactly(t *testing.T) {
	for _, c := range []struct {
		rate ratelimit.Rate
		goes time.Duration // on, after the first refusal
	}{
		{ratelimit.Rate{Requests: 1, Per: time.Hour, Burst: 3000}, 0},
		{ratelimit.Rate{Requests: 500, Per: time.Second, Burst: 1000}, time.Second},
	} {
		t.Run(c.rate.String(), func(t *testing.T) {
			if addr := os.Getenv("REDISLIMIT_TEST_ADDR"); addr != "" {
				hammer(t, addr, c.rate, c.goes)
				return
			}
			addr := startServer(t).addr
			self, err := os.Executable()
			require.NoError(t, err)
			var got [2]hammered
			var wg sync.WaitGroup
			for i := range got {
				wg.Go(func() {
					cmd := exec.Command(self, "-test.run", "^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
					cmd.Env = append(os.Environ(), "REDISLIMIT_TEST_ADDR="+addr)
					out, err := cmd.Output()
					_, line, _ := strings.Cut(string(out), "\nhammered ")
					if scanErr := json.NewDecoder(strings.NewReader(line)).Decode(&got[i]); err != nil || scanErr != nil {
						t.Errorf("%v, %v: %s", err, scanErr, out)
					}
				})
			}
			wg.Wait()
			a, b := got[0], got[1]
			require.Zero(t, a.Degraded+b.Degraded)
			require.NotZero(t, a.Admitted)
			require.NotZero(t, b.Admitted)
			within := func(from, to int64) float64 { // what comes in
				return float64(c.rate.Requests) * float64(to-from) / float64(c.rate.Per)
			}
			// Who is refused has left no whole token: so all of the burst was
			// taken before the first refusal, and all that came in since then,
			// which is too little to fill the bucket, before the last. The
			// server's clock counts microseconds.
			total, burst := float64(a.Admitted+b.Admitted), float64(c.rate.Burst)
			least := math.Floor(burst + within(min(a.Refused, b.Refused), max(a.LastAsked, b.LastAsked)) - within(0, 2000))
			most := burst + within(min(a.Began, b.Began), max(a.Ended, b.Ended))
			require.GreaterOrEqual(t, total, least)
			require.LessOrEqual(t, total, most)
			t.Logf("%d and %d, of at least %.0f and at most %.1f", a.Admitted, b.Admitted, least, most)
		})
	}
}

// hammered is what one process has got. Times are of the clock that all
// processes share, in nanoseconds.
type hammered struct {
	Admitted, Degraded int64
	Began, Ended       int64
	Refused            int64 // when the first refusal had come
	LastAsked          int64 // when the last that was refused had asked
}

// hammer asks for one key, together with another process, until each of its
// goroutines is refused, and then goes on for a while. Only the real clock is
// the same in two processes.
func hammer(t *testing.T, addr string, rate ratelimit.Rate, goes time.Duration) {
	rdb := redis.NewClient(&redis.Options{Addr: addr, PoolSize: 16})
	defer rdb.Close()
	l := ratelimit.MustNew(ratelimit.Config{Rate: rate, Store: redislimit.New("two:", rdb), StoreTimeout: patient})
	rdb.Incr(ctx, "ready")
	require.Eventually(t, func() bool { n, _ := rdb.Get(ctx, "ready").Int(); return n == 2 }, 20*time.Second, time.Millisecond)
	h := hammered{Began: time.Now().UnixNano(), Refused: math.MaxInt64}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			admitted, first, last := int64(0), int64(math.MaxInt64), int64(0)
			for refused := 0; refused < 10 || last-first < int64(goes); {
				asked := time.Now().UnixNano()
				if d, _ := l.Allow(ctx, "shared", 1); d.Allowed {
					admitted++
					continue
				}
				refused++
				first, last = min(first, time.Now().UnixNano()), asked
			}
			mu.Lock()
			defer mu.Unlock()
			h.Admitted += admitted
			h.Refused, h.LastAsked = min(h.Refused, first), max(h.LastAsked, last)
		})
	}
	wg.Wait()
	h.Ended, h.Degraded = time.Now().UnixNano(), int64(l.Stats().Degraded)
	line, err := json.Marshal(h)
	require.NoError(t, err)
	fmt.Printf("\nhammered %s\n", line)
}

func TestAKilledServerDegradesAndComesBack(t *testing.T) {
	s := startServer(t)
	l := ratelimit.MustNew(ratelimit.Config{
		Name: "api", Rate: ratelimit.PerHour(10), LocalShare: 0.5,
		Store: redislimit.New("t:", s.client()), StoreTimeout: time.Second,
	})
	for range 10 {
		d, _ := l.Allow(ctx, "spent", 1)
		require.True(t, d.Allowed)
		require.False(t, d.Degraded)
	}
	s.kill()
	d, err := l.Allow(ctx, "spent", 1)
	require.NoError(t, err)
	require.True(t, d.Degraded)
	require.False(t, d.Allowed, "who has spent his tokens gets no fresh ones from an outage")
	admitted := 0
	for range 20 {
		if d, _ := l.Allow(ctx, "new", 1); d.Allowed {
			admitted++
		}
	}
	require.Equal(t, 5, admitted, "half of the limit")
	var wrong []string
	for what, why := range l.Conditions() {
		wrong = append(wrong, what+": "+why)
	}
	require.Len(t, wrong, 1)
	require.Contains(t, wrong[0], "api: deciding locally since ")

	s.start()
	require.Eventually(t, func() bool {
		d, _ := l.Allow(ctx, "probe", 1)
		return !d.Degraded
	}, 10*time.Second, 20*time.Millisecond, "noticed by later decisions")
	var changes []string
	for _, what := range l.Changes() {
		changes = append(changes, what)
	}
	require.Len(t, changes, 2)
	require.Contains(t, changes[0], "api: the store does not answer: ")
	require.Contains(t, changes[1], "api: the store answers again, after ")
	for range l.Conditions() {
		require.Fail(t, "all is well again")
	}
}

func TestAFlushedServerGoesOnCounting(t *testing.T) {
	s := startServer(t)
	rdb := s.client()
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(3), Store: redislimit.New("t:", rdb), StoreTimeout: patient})
	admitted := 0
	for i := range 20 {
		if i == 10 {
			require.NoError(t, rdb.FlushAll(ctx).Err())
			require.NoError(t, rdb.ScriptFlush(ctx).Err())
		}
		d, _ := l.Allow(ctx, "k", 1)
		require.False(t, d.Degraded)
		if d.Allowed {
			admitted++
		}
	}
	require.Equal(t, 6, admitted, "the server has forgotten, the limit holds again")
}

func TestAHungServerCostsNoDecisionMoreThanItsDeadline(t *testing.T) {
	for outage, allowed := range map[ratelimit.Outage]bool{ratelimit.DecideLocally: true, ratelimit.LetPass: true, ratelimit.RefuseAll: false} {
		t.Run(strconv.Itoa(int(outage)), func(t *testing.T) {
			s := startServer(t)
			l := ratelimit.MustNew(ratelimit.Config{
				Rate: ratelimit.PerSecond(1_000_000), Store: redislimit.New("t:", s.client()),
				StoreTimeout: 100 * time.Millisecond, Outage: outage,
			})
			d, _ := l.Allow(ctx, "k", 1)
			require.True(t, d.Allowed)
			require.NoError(t, s.cmd.Process.Signal(syscall.SIGSTOP))
			took := make([]time.Duration, 0, 2000)
			for i := range 2000 {
				start := time.Now()
				d, err := l.Allow(ctx, "k"+strconv.Itoa(i%10), 1)
				took = append(took, time.Since(start))
				require.NoError(t, err)
				require.Equal(t, allowed, d.Allowed)
				require.True(t, d.Degraded)
			}
			slices.Sort(took)
			t.Logf("p50 %v, p99 %v, longest %v", took[1000], took[1980], took[1999])
			require.Less(t, took[1980], 100*time.Millisecond, "only the first one waited")

			w := httptest.NewRecorder()
			l.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			if allowed {
				require.Equal(t, 200, w.Code)
			} else {
				require.Equal(t, 503, w.Code)
				require.Equal(t, "1", w.Header().Get("Retry-After"))
			}
			require.NoError(t, s.cmd.Process.Signal(syscall.SIGCONT))
			require.Eventually(t, func() bool { d, _ := l.Allow(ctx, "k", 1); return !d.Degraded }, 10*time.Second, 20*time.Millisecond)
		})
	}
}

func TestLeasesSaveRoundTripsAndOvershootByNoMoreThanTheyHold(t *testing.T) {
	s := startServer(t)
	const processes, lease, limit = 3, 20, 500
	var trips atomic.Int64
	rdb := s.client()
	eval := redislimit.Eval(rdb)
	counted := func(ctx context.Context, script string, keys []string, args ...any) (any, error) {
		trips.Add(1)
		return eval(ctx, script, keys, args...)
	}
	admitted := 0
	var ls []*ratelimit.Limiter
	for range processes {
		ls = append(ls, ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.PerHour(limit), Store: ratelimit.NewRedisStore("l:", counted), StoreTimeout: patient, Lease: lease,
		}))
	}
	start := time.Now()
	for i := range 3 * limit {
		d, err := ls[i%processes].Allow(ctx, "k", 1)
		require.NoError(t, err)
		require.False(t, d.Degraded)
		if d.Allowed {
			admitted++
		}
	}
	bound := limit + limit*time.Since(start).Hours() + processes*lease
	require.LessOrEqual(t, float64(admitted), bound)
	require.GreaterOrEqual(t, admitted, limit-processes*lease, "what is leased and not used is lost for so long")
	require.Less(t, trips.Load(), int64(limit/5), "%d decisions", 3*limit)
	t.Logf("%d decisions, %d admitted of %d, %d round trips", 3*limit, admitted, limit, trips.Load())
}

// The reply of a server that is not what it should be is an outage, not a pass.
func TestNonsenseFromTheServerIsAnOutage(t *testing.T) {
	for _, reply := range []any{nil, "OK", int64(1), []any{}, []any{int64(1)}, []any{"1", "2"}, []any{int64(99), int64(1)}} {
		l := ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.PerHour(2), LocalShare: 1, StoreTimeout: patient,
			Store: ratelimit.NewRedisStore("", func(context.Context, string, []string, ...any) (any, error) { return reply, nil }),
		})
		for i := range 5 {
			d, err := l.Allow(ctx, "k", 1)
			require.NoError(t, err)
			require.True(t, d.Degraded, "%v", reply)
			require.Equal(t, i < 2, d.Allowed, "%v", reply)
		}
	}
}

func BenchmarkRedis(b *testing.B) {
	s := startServer(b)
	rdb := s.client()
	bare := redis.NewScript("return {1, 2}")
	require.NoError(b, bare.Load(ctx, rdb).Err())
	b.Run("bare EVALSHA", func(b *testing.B) {
		for b.Loop() {
			bare.EvalSha(ctx, rdb, []string{"k"}, 1, 2, 3).Result()
		}
	})
	run := func(name string, lease int) {
		l := ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.PerSecond(1_000_000), Store: redislimit.New(name, rdb), StoreTimeout: patient, Lease: lease,
		})
		b.Run(name+"/serial", func(b *testing.B) {
			for b.Loop() {
				l.Allow(ctx, "k", 1)
			}
		})
		b.Run(name+"/32 goroutines, 10k keys", func(b *testing.B) {
			keys := make([]string, 10_000)
			for i := range keys {
				keys[i] = strconv.Itoa(i)
			}
			var next atomic.Int64
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for i := next.Add(997); pb.Next(); i++ {
					l.Allow(ctx, keys[i%10_000], 1)
				}
			})
			require.Zero(b, l.Stats().Degraded)
		})
	}
	run("decision", 0)
	run("lease of 32", 32)
}
