// The backends are stopped by signals.

//go:build unix

package chain

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

var soak = flag.Duration("soak", 10*time.Second, "how long the soak lasts")

// A ledger knows which orders were carried out, and how often.
type ledger struct {
	mu     sync.Mutex // protects what follows
	orders map[string]int
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	l.mu.Lock()
	l.orders[string(id)]++
	l.mu.Unlock()
}

// A tally counts what clients saw.
type tally struct {
	good, refused, failed, hungUp, greedy429, asked atomic.Int64
	skewed                                          atomic.Int64 // who said that there was no time, and got none
	avoidable                                       atomic.Int64 // of the failed: a GET while two backends were well
	gone                                            atomic.Bool  // all backends, until the balancer has them back

	mu      sync.Mutex // protects what follows
	wrong   []string
	ordered []string // answered with 200
}

func (y *tally) isWrong(format string, args ...any) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if len(y.wrong) < 20 {
		y.wrong = append(y.wrong, fmt.Sprintf(format, args...))
	}
}

// greedy is how many clients come from one address and do not rest.
const greedy = 4

// client is one client of the gateway. It does this and that, and looks hard
// at each answer.
func (y *tally) client(ctx context.Context, s *site, id int, rests bool) {
	rng := rand.New(rand.NewPCG(uint64(id), 1))
	for ctx.Err() == nil {
		method, path, body := "GET", fmt.Sprintf("/page/%d", rng.IntN(200)), ""
		switch rng.IntN(10) {
		case 0, 1:
			path = "/me"
		case 2, 3:
			method, path, body = "POST", "/order", strconv.FormatInt(y.asked.Add(1), 10)
		case 4:
			path = "/events"
		}
		y.one(ctx, s, rng, id, method, path, body)
		time.Sleep(time.Millisecond)
		if rests {
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
	}
}

func (y *tally) one(ctx context.Context, s *site, rng *rand.Rand, id int, method, path, body string) {
	if rng.IntN(50) == 0 { // hangs up
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(10_000))*time.Microsecond)
		defer cancel()
	}
	r, _ := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	r.Header.Set("X-Forwarded-For", fmt.Sprintf("10.0.0.%d", max(id, greedy-1)))
	me := fmt.Sprintf("Bearer user-%d", id)
	if path == "/me" {
		r.Header.Set("Authorization", me)
	}
	if path == "/events" {
		r.Header.Set("Accept", "text/event-stream")
	}
	skewed := rng.IntN(50) == 0 // this caller's clock is wrong, and so is what it says of time
	if skewed {
		claims := []string{"-3600000", "0", "1", "3600000", "999999999999", "soon", "NaN"}
		r.Header.Set(degrade.TimeoutHeader, claims[rng.IntN(len(claims))])
		r.Header.Set("Date", time.Now().Add(time.Duration(rng.IntN(48)-24)*time.Hour).UTC().Format(http.TimeFormat))
	}
	gone := y.gone.Load()
	resp, err := s.client.Do(r)
	var got []byte
	if err == nil {
		got, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	switch {
	case ctx.Err() != nil:
		y.hungUp.Add(1)
		return
	case err != nil: // a backend died in the middle of its answer: the client is told
		y.failed.Add(1)
		return
	}
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests && id < greedy:
		y.greedy429.Add(1)
	case code == http.StatusTooManyRequests:
		y.isWrong("%s %s: a polite client got 429", method, path)
	case code == http.StatusServiceUnavailable:
		y.refused.Add(1)
	case code >= 500 && skewed: // it has no time left, as it says
		y.skewed.Add(1)
	case code >= 500:
		y.failed.Add(1)
		if method == "GET" && !gone && !y.gone.Load() {
			y.avoidable.Add(1)
		}
	case code != http.StatusOK:
		y.isWrong("%s %s: status %d", method, path, code)
	default:
		y.good.Add(1)
		want := me
		switch {
		case strings.HasPrefix(path, "/page/"):
			want = page(strings.TrimPrefix(path, "/page/"))
		case path == "/order":
			want = "ordered " + body
			y.mu.Lock()
			y.ordered = append(y.ordered, body)
			y.mu.Unlock()
		case path == "/events":
			want = "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\ndata: 5\n\ndata: 6\n\ndata: 7\n\ndata: 8\n\ndata: 9\n\n"
		}
		if string(got) != want {
			y.isWrong("%s %s: got %q, want %q", method, path, got, want)
		}
	}
	if c := resp.StatusCode; c == http.StatusTooManyRequests || c == http.StatusServiceUnavailable {
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || seconds < 1 {
			y.isWrong("%s %s: %d with Retry-After %q", method, path, c, resp.Header.Get("Retry-After"))
		}
	}
}

// TestSoak sends mixed traffic through the whole chain to three backends, of
// which now one is killed and started again, now one stopped, now one slow,
// now all of them gone, for as long as -soak says. Nobody may get another's
// answer, or half of one that looks whole; an order that was confirmed was
// carried out, and none twice; and in the end nothing is in flight, the heap is
// as it was, and so are the goroutines.
//
// Callers whose clock is wrong harm nobody else: what a caller says of time is
// how much is left (Spillway-Timeout), and some say nonsense. The clock is the
// real one, and everybody sleeps by it, since the backends are real processes.
func TestSoak(t *testing.T) {
	length := *soak
	if testing.Short() && length == 10*time.Second {
		length = 2 * time.Second
	}
	book := &ledger{orders: map[string]int{}}
	books := httptest.NewServer(book)
	defer books.Close()
	backends := make([]*soakBackend, 3)
	urls := make([]string, 3)
	for i := range backends {
		b := &soakBackend{ledger: books.URL}
		require.NoError(t, b.start())
		defer func() { b.stdin.Close(); b.cmd.Process.Signal(syscall.SIGCONT); b.kill() }()
		backends[i], urls[i] = b, "http://"+b.addr
	}

	p := &parts{
		health: health.MustNew(health.Config{}),
		lim: ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.PerSecond(10_000),
			Key:  ratelimit.ClientIP(netip.MustParsePrefix("127.0.0.0/8")),
			RateOf: func(r *http.Request) ratelimit.Rate { // so that no busy machine makes the greedy look polite, nor the other way round
				if r.Header.Get("X-Forwarded-For") == "10.0.0."+strconv.Itoa(greedy-1) {
					return ratelimit.PerSecond(5)
				}
				return ratelimit.PerSecond(10_000)
			},
		}),
		pages: cache.MustNew(cache.Config{}),
		shed:  degrade.MustNew(degrade.Config{Trust: func(*http.Request) bool { return true }}),
		sw:    degrade.MustNewSwitch(degrade.SwitchConfig{}),
		b:     breaker.MustNew(breaker.Config{OpenFor: 200 * time.Millisecond, MaxOpen: 400 * time.Millisecond}),
	}
	pool := balancer.MustNew(balancer.Config{
		Backends: balancer.URLs(urls...),
		Eject:    balancer.Eject{Base: time.Second, Max: 4 * time.Second}, // else minutes of faults in a row earn minutes out
		Probe:    balancer.Probe{Path: "/readyz", Every: 100 * time.Millisecond, Failing: 100 * time.Millisecond, Timeout: 500 * time.Millisecond},
	})
	rp := pool.Proxy()
	rp.ErrorLog = quiet
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { pool.Run(ctx) })
	running.Go(func() { p.sw.Run(ctx) })
	s := serve(t, "http1", p.handler(rp))

	y := &tally{}
	// traffic runs clients until f returns, and waits until all is still.
	traffic := func(clients int, f func()) {
		going, halt := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for id := range clients {
			wg.Go(func() { y.client(going, s, id, id >= greedy) })
		}
		f()
		halt()
		wg.Wait()
		s.client.CloseIdleConnections()
		settles(t, "nothing is in flight", func() bool {
			sh := p.shed.Stats()
			return sh.InFlight == 0 && sh.Streams == 0 && sh.Waiting == 0 && p.health.Stats().InFlight == 0 && pool.Stats().InFlight == 0
		})
	}
	faults := []func(b *soakBackend){
		func(b *soakBackend) {
			b.kill()
			time.Sleep(200 * time.Millisecond)
			require.NoError(t, b.start())
		},
		func(b *soakBackend) {
			b.cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(300 * time.Millisecond)
			b.cmd.Process.Signal(syscall.SIGCONT)
		},
		func(b *soakBackend) {
			require.NoError(t, b.slow(100))
			time.Sleep(300 * time.Millisecond)
			require.NoError(t, b.slow(0))
		},
	}
	// A round does each fault to some backend, and kills all of them now and then.
	round := 0
	oneRound := func() {
		for i, fault := range faults {
			fault(backends[(round+i)%len(backends)])
			time.Sleep(50 * time.Millisecond)
		}
		if round++; round%4 == 1 {
			y.gone.Store(true)
			for _, b := range backends {
				b.kill()
			}
			time.Sleep(100 * time.Millisecond)
			for _, b := range backends {
				require.NoError(t, b.start())
			}
			settles(t, "the backends are back", func() bool { return pool.Stats().Available == 3 })
			y.gone.Store(false)
		}
	}
	measure := func() (int, float64) {
		settles(t, "goroutines settle", func() bool {
			// Each time anew: what is in use now, by a probe say, is idle a moment later.
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			rp.Transport.(interface{ CloseIdleConnections() }).CloseIdleConnections()
			n := runtime.NumGoroutine()
			time.Sleep(20 * time.Millisecond)
			return runtime.NumGoroutine() == n
		})
		return runtime.NumGoroutine(), heap()
	}

	const clients = 24
	traffic(clients, oneRound) // what is made once is made
	goroutinesBefore, heapBefore := measure()
	end := time.Now().Add(length)
	for time.Now().Before(end) {
		traffic(clients, func() {
			for range 10 {
				if oneRound(); !time.Now().Before(end) {
					return
				}
			}
		})
	}
	goroutinesAfter, heapAfter := measure()

	t.Logf("%d rounds of faults; answered %d, refused %d, failed %d (avoidable %d), hung up %d, out of time %d, greedy refused %d; %d orders", round,
		y.good.Load(), y.refused.Load(), y.failed.Load(), y.avoidable.Load(), y.hungUp.Load(), y.skewed.Load(), y.greedy429.Load(), len(y.ordered))
	t.Logf("heap %.1f to %.1f MB, goroutines %d to %d", heapBefore/1e6, heapAfter/1e6, goroutinesBefore, goroutinesAfter)
	require.Empty(t, y.wrong)
	require.Greater(t, y.good.Load(), 2*(y.failed.Load()+y.refused.Load()), "most are answered, whatever happens")
	require.LessOrEqual(t, y.avoidable.Load(), y.good.Load()/100, "no GET need fail for one backend")
	require.NotZero(t, y.greedy429.Load(), "who asks for too much is refused")
	book.mu.Lock()
	for _, id := range y.ordered {
		require.Equal(t, 1, book.orders[id], "order %s was confirmed", id)
	}
	for id, n := range book.orders {
		require.Equal(t, 1, n, "order %s was carried out more than once", id)
	}
	book.mu.Unlock()
	// What the test itself keeps of each order is the only thing that may grow.
	require.Less(t, heapAfter-heapBefore, 8e6+500*float64(len(book.orders)), "the heap is flat")
	if goroutinesAfter > goroutinesBefore+5 {
		pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	}
	require.LessOrEqual(t, goroutinesAfter, goroutinesBefore+5, "the goroutines are flat")

	settles(t, "all is well again", func() bool {
		return alive(s) && pool.Stats().Available == 3 && p.b.State() == breaker.Closed
	})
}

// alive asks for what no cache answers.
func alive(s *site) bool {
	resp, err := s.client.Get(s.url + "/me")
	if err != nil {
		return false
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
