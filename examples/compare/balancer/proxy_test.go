// Package balancer_test compares reverse proxies: a bare httputil.ReverseProxy
// that takes the backends in turn, this library's balancer, and others.
//
//	go test -run '^$' -bench . ./balancer
//	SPILLWAY_ROUNDS=7 go test -v -run Ratios ./balancer
package balancer_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
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

	"github.com/bufbuild/httplb"
	"github.com/bufbuild/httplb/picker"
	"github.com/bufbuild/httplb/resolver"
	"github.com/stretchr/testify/require"
	"github.com/vulcand/oxy/v2/forward"
	"github.com/vulcand/oxy/v2/roundrobin"

	"github.com/go-spillway/spillway/balancer"
)

const workers = 64

// tuned is the standard transport with room for the connections that the load
// needs: what the bare proxy gets, oxy gets, and each backend of the balancer
// has. An idle connection that ends after 90 seconds, as it does by default
// everywhere, costs a timer for each request.
func tuned() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, 256
	t.DisableCompression = true
	return t
}

type buffers struct{ sync.Pool }

func (p *buffers) Get() []byte {
	if b, ok := p.Pool.Get().(*[32 << 10]byte); ok {
		return b[:]
	}
	return make([]byte, 32<<10)
}

func (p *buffers) Put(b []byte) { p.Pool.Put((*[32 << 10]byte)(b)) }

// targets returns the proxies by name, in a fixed order.
func targets(t testing.TB) (names []string, urls map[string]string) {
	body := make([]byte, 1<<10)
	var upstreams []string
	for range 4 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
			_, _ = w.Write(body)
		}))
		t.Cleanup(s.Close)
		upstreams = append(upstreams, s.URL)
	}
	var parsed []*url.URL
	for _, u := range upstreams {
		p, err := url.Parse(u)
		require.NoError(t, err)
		parsed = append(parsed, p)
	}
	urls = map[string]string{}
	add := func(name string, h http.Handler) {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		names = append(names, name)
		urls[name] = s.URL
	}
	bare := func(tr *http.Transport) http.Handler {
		var n atomic.Uint64
		return &httputil.ReverseProxy{
			Transport:  tr,
			BufferPool: new(buffers),
			Rewrite: func(pr *httputil.ProxyRequest) {
				pr.SetURL(parsed[n.Add(1)%uint64(len(parsed))])
				pr.SetXForwarded()
			},
		}
	}
	add("bare", bare(tuned()))
	add("spillway", balancer.MustNew(balancer.Config{Backends: balancer.URLs(upstreams...)}).Proxy())
	add("spillway-p2c", balancer.MustNew(balancer.Config{Backends: balancer.URLs(upstreams...), Policy: balancer.TwoChoices()}).Proxy())

	fwd := forward.New(false)
	fwd.Transport = tuned()
	fwd.BufferPool = new(buffers)
	rr, err := roundrobin.New(fwd)
	require.NoError(t, err)
	for _, u := range parsed {
		require.NoError(t, rr.UpsertServer(u))
	}
	add("oxy", rr)

	lb := httplb.NewClient(
		httplb.WithPicker(picker.NewPowerOfTwo),
		httplb.WithResolver(fixed(parsed)),
	)
	t.Cleanup(func() { _ = lb.Close() })
	add("httplb", &httputil.ReverseProxy{
		Transport:  lb.Transport,
		BufferPool: new(buffers),
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = "http", "service"
			pr.SetXForwarded()
		},
	})
	if path := os.Getenv("SPILLWAY_CADDY"); path != "" { // see the caddy folder
		names = append(names, "caddy")
		urls["caddy"] = caddy(t, path, parsed)
	}
	return names, urls
}

// caddy starts Caddy in a process of its own and returns its URL.
func caddy(t testing.TB, path string, upstreams []*url.URL) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	args := []string{addr}
	for _, u := range upstreams {
		args = append(args, u.Host)
	}
	cmd := exec.Command(path, args...)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	caddyPID = cmd.Process.Pid
	return "http://" + addr
}

var caddyPID int

// fixed is a httplb resolver that knows the addresses.
type fixed []*url.URL

func (f fixed) New(_ context.Context, _, _ string, r resolver.Receiver, _ <-chan struct{}) io.Closer {
	var list []resolver.Address
	for _, u := range f {
		list = append(list, resolver.Address{HostPort: u.Host})
	}
	r.OnResolve(list)
	return io.NopCloser(nil)
}

// client is what the load comes from.
func client() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * workers, DisableCompression: true}}
}

func one(c *http.Client, url string) error {
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if err == nil && (resp.StatusCode != 200 || n != 1<<10) {
		err = fmt.Errorf("status %d, %d bytes", resp.StatusCode, n)
	}
	return err
}

func BenchmarkProxy(b *testing.B) {
	names, urls := targets(b)
	for _, name := range names {
		b.Run(name, func(b *testing.B) {
			c := client()
			b.SetParallelism(workers / 2)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := one(c, urls[name]); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// TestRatios prints the throughput of each proxy relative to the bare one: the
// median over rounds in which all of them take turns, since a busy machine
// makes one moment differ from the next. CPU is that of proxy, client and
// upstreams together, per request.
func TestRatios(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("SPILLWAY_ROUNDS"))
	if rounds == 0 {
		t.Skip("set SPILLWAY_ROUNDS")
	}
	names, urls := targets(t)
	rates, cpus, thru, work := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for round := range rounds + 1 {
		rate, cpu := map[string]float64{}, map[string]float64{}
		for i := range names {
			name := names[(i+round)%len(names)] // nobody is always first
			rate[name], cpu[name] = measure(t, urls[name], time.Second)
		}
		if round == 0 {
			continue // warm-up
		}
		for _, name := range names {
			rates[name] = append(rates[name], rate[name])
			cpus[name] = append(cpus[name], cpu[name])
			thru[name] = append(thru[name], rate[name]/rate["bare"])
			work[name] = append(work[name], cpu[name]/cpu["bare"])
		}
	}
	for _, name := range names {
		t.Logf("%-14s %6.0f req/s, %.2f of bare   %4.0f µs CPU per request, %.2f of bare",
			name, median(rates[name]), median(thru[name]), median(cpus[name]), median(work[name]))
	}
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// measure returns requests per second and microseconds of CPU per request.
func measure(t *testing.T, url string, d time.Duration) (rate, cpu float64) {
	c := client()
	defer c.CloseIdleConnections()
	var n atomic.Int64
	var wg sync.WaitGroup
	begin, used := time.Now(), cpuTime()
	for range workers {
		wg.Go(func() {
			for time.Since(begin) < d {
				if err := one(c, url); err != nil {
					t.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(begin).Seconds(), float64((cpuTime() - used).Microseconds()) / float64(n.Load())
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	d := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	if caddyPID != 0 {
		// Fields 14 and 15, in hundredths of a second; the name has no blanks.
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", caddyPID))
		if f := strings.Fields(string(stat)); len(f) > 15 {
			user, _ := strconv.Atoi(f[13])
			system, _ := strconv.Atoi(f[14])
			d += time.Duration(user+system) * 10 * time.Millisecond
		}
	}
	return d
}
