package chain

import (
	"crypto/tls"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
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

var (
	rounds = flag.Int("rounds", 0, "how often the hostile battery does each thing in a row; 0: 25, or 8 with -short")
	scale  = flag.Bool("scale", false, "measure a million of everything, instead of a hundredth of it")
)

// parts are the six of them, set so that nothing is refused unless a test
// makes it so.
type parts struct {
	health *health.Checker
	lim    *ratelimit.Limiter
	pages  *cache.Cache
	shed   *degrade.Shedder
	sw     *degrade.Switch
	b      *breaker.Breaker
}

func newParts() *parts {
	return &parts{
		health: health.MustNew(health.Config{}),
		lim:    ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(100_000_000), Key: ratelimit.ClientIP()}),
		pages:  cache.MustNew(cache.Config{}),
		shed:   degrade.MustNew(degrade.Config{MinLimit: 64}),
		sw:     degrade.MustNewSwitch(degrade.SwitchConfig{}),
		b:      breaker.MustNew(breaker.Config{MinCalls: 1 << 30}),
	}
}

// handler is the chain in its order.
func (p *parts) handler(next http.Handler) http.Handler {
	return p.health.Handler(p.lim.Handler(p.pages.Handler(p.shed.Handler(p.sw.Handler(p.b.Handler(next))))))
}

// proxy puts a balancer in front of next, which gets a server of its own.
func proxy(t testing.TB, next http.Handler) (*balancer.Balancer, *httputil.ReverseProxy, *site) {
	up := serve(t, "http1", next)
	pool := balancer.MustNew(balancer.Config{Backends: balancer.URLs(up.url)})
	rp := pool.Proxy()
	rp.ErrorLog = quiet
	return pool, rp, up
}

var quiet = log.New(io.Discard, "", 0)

// misuse is a server's log, of which it keeps what net/http says of parts that
// answer twice, or what has been hijacked.
type misuse struct {
	mu   sync.Mutex // protects what follows
	said []string
}

func (m *misuse) Write(p []byte) (int, error) {
	if s := string(p); strings.Contains(s, "superfluous") || strings.Contains(s, "hijacked") {
		m.mu.Lock()
		m.said = append(m.said, s)
		m.mu.Unlock()
	}
	return len(p), nil
}

func (m *misuse) all() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.said, "")
}

// A site serves a handler over a real socket by one protocol.
type site struct {
	url    string
	addr   string
	tls    *tls.Config // of its clients
	client *http.Client
	conns  *conns

	proxied  bool
	misuse   misuse
	readFrom atomic.Int64 // how often a response was sent by its ReadFrom
}

// conns counts the connections that a listener has accepted and nobody has
// closed: neither the server nor who has hijacked them.
type conns struct {
	net.Listener
	open atomic.Int64
}

type conn struct {
	*net.TCPConn
	closed func()
}

func (l *conns) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return &conn{c.(*net.TCPConn), sync.OnceFunc(func() { l.open.Add(-1) })}, nil
}

func (c *conn) Close() error {
	c.closed()
	return c.TCPConn.Close()
}

// maxHeader is how much header the servers take: a MiB and what comes with it.
const maxHeader = 1<<20 + 128<<10

var protocols = []string{"http1", "http2", "h2c"}

func serve(t testing.TB, protocol string, h http.Handler) *site {
	srv := httptest.NewUnstartedServer(h)
	s := new(site)
	srv.Config.ErrorLog = log.New(&s.misuse, "", 0)
	srv.Config.MaxHeaderBytes = maxHeader
	srv.Config.DisableGeneralOptionsHandler = true // or OPTIONS * would not come to h
	open := &conns{Listener: srv.Listener}
	srv.Listener = open
	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	switch protocol {
	case "http2":
		srv.EnableHTTP2 = true
		srv.StartTLS()
		tr = srv.Client().Transport.(*http.Transport).Clone()
	case "h2c":
		p := new(http.Protocols)
		p.SetUnencryptedHTTP2(true)
		p.SetHTTP1(true)
		srv.Config.Protocols = p
		only := new(http.Protocols)
		only.SetUnencryptedHTTP2(true)
		tr.Protocols = only
		srv.Start()
	default:
		srv.Start()
	}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		srv.CloseClientConnections()
		srv.Close()
	})
	s.url, s.addr, s.tls, s.conns = srv.URL, srv.Listener.Addr().String(), tr.TLSClientConfig, open
	s.client = &http.Client{
		Transport:     tr,
		Timeout:       20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s
}

func (s *site) dial(t testing.TB) net.Conn {
	conn, err := net.Dial("tcp", s.addr)
	require.NoError(t, err)
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// settles waits until f is true, and fails with what otherwise.
func settles(t testing.TB, what string, f func() bool) {
	t.Helper()
	if f() { // without waiting for the first tick
		return
	}
	require.Eventually(t, f, 20*time.Second, 200*time.Microsecond, what)
}

// goroutines is how many there are once the number has stopped falling.
func goroutines() int {
	n := runtime.NumGoroutine()
	for range 50 {
		runtime.Gosched()
		if m := runtime.NumGoroutine(); m < n {
			n = m
		}
	}
	return n
}

// heap is what lives on the heap.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
