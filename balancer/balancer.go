// Package balancer spreads requests over backends, and keeps doing so on the
// day when some of them are slow, failing, hanging, new or gone.
//
//	pool := balancer.MustNew(balancer.Config{
//		Backends: balancer.URLs("http://10.0.0.1:8080", "http://10.0.0.2:8080"),
//	})
//	http.ListenAndServe(":80", pool.Proxy())              // as a reverse proxy
//	client := &http.Client{Transport: pool.Transport(nil)} // as a client
//	go pool.Run(ctx)                                      // if there are probes or discovery
//	pool.SetBackends(balancer.URLs("http://10.0.0.3:8080")...)
//
// # How it decides
//
// The [Policy] draws a few backends and sends the request to the one that is
// expected to answer first ([Latency]). A backend that fails five times in a
// row, or half of the time, is ejected for a while ([Eject]), but never more
// than half of them, and not if the others fail as much. Backends can also be
// probed ([Probe]), judged by a func (Config.Healthy), and say themselves that
// they are leaving, with the response field Spillway-Draining: 1. If fewer than
// half are left, all are used: most of those that look dead then are not.
//
// A request that fails is sent to another backend if that is safe and the
// budget allows ([Retry]). New and returning backends get their share little by
// little (Config.SlowStart).
//
// # What it costs
//
// A pick takes some tens of nanoseconds whatever the number of backends, and
// allocates nothing; [Balancer.Transport] adds two allocations to a request
// without a body. Each backend has a transport of its own, with enough idle
// connections: that matters more for throughput than any policy.
//
// # What it does not do
//
// It limits neither the number of requests nor the size of bodies, keeps no
// queue, and does not know what other balancers do. It has no goroutine outside
// of Run, but for attempts that are hedged, which end with their request.
package balancer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Config configures a [Balancer]. Backends or Discover is required; every
// other zero field is its default.
type Config struct {
	// Name labels the metrics and the errors. Empty means "default".
	Name string

	// Backends are the backends to begin with.
	Backends []Backend

	// Policy picks the backend for a request. Nil means Latency(3). A Policy
	// belongs to one Balancer.
	Policy Policy

	// Eject says when a backend is left out because of what it answers.
	Eject Eject

	// Probe says how backends are asked for their health while [Balancer.Run]
	// runs. The zero value does not probe.
	Probe Probe

	// Healthy, if set, is asked before a backend is used, and once a second
	// for one that it has said no to. It must not block: give it the last
	// answer of a health check, not a new one.
	Healthy func(Backend) bool

	// PanicShare is the share of backends below which health is no longer
	// believed, and all backends are used. Zero means 0.5; with a negative
	// number only available backends are used, and the rest is refused.
	PanicShare float64

	// SlowStart is how long it takes a new or returning backend to get its
	// full share of the requests. Zero means 10 seconds; a negative number
	// gives it the full share at once.
	SlowStart time.Duration

	// Warm is how many connections are opened to a new backend ahead of its
	// requests while Run runs, by as many HEAD requests at a time for
	// Probe.Path or "/". Zero opens none.
	Warm int

	// Retry says which failed requests are sent to another backend.
	Retry Retry

	// Hedge says when a request is sent to a second backend because the first
	// takes long. The zero value does not hedge.
	Hedge Hedge

	// Sticky keeps a client on one backend with a cookie. The zero value does
	// not.
	Sticky Sticky

	// Zone is the zone of this process. Backends of the same zone are
	// preferred as far as their capacity goes. Empty means no preference.
	Zone string

	// ZoneShare is how much of all requests to these backends starts in Zone,
	// from 0 to 1. Zero means the same for every zone.
	ZoneShare float64

	// Subset bounds how many backends this process uses of a large set. Zero
	// means all. Each process takes those that rank highest for SubsetKey, so
	// few change when the set does.
	Subset int

	// SubsetKey names this process, differently from its siblings: the host
	// name, for example. Required if Subset is set.
	SubsetKey string

	// Discover, if set, returns the current backends. [Balancer.Run] calls it
	// every DiscoverEvery, with some jitter, and sooner when connecting to a
	// backend fails, but at most once a second. If it fails or returns none,
	// the last good set stays, and the next try is after a second, then two,
	// and so on up to DiscoverEvery. See [DNS], [SRV] and [File].
	Discover Discover

	// DiscoverEvery is how often Discover is called. Zero means 10 seconds.
	DiscoverEvery time.Duration

	// Transport is what each backend's own transport is cloned from, for
	// Proxy, for probes, and where [Balancer.Transport] is given nil. Nil
	// means [http.DefaultTransport] with 256 idle connections per backend and
	// no limit on their sum, without a proxy from the environment, and with
	// bodies left compressed as they come.
	Transport *http.Transport

	// Wrap, if set, wraps each backend's own transport: to trace, or to put a
	// circuit breaker around each backend.
	Wrap func(Backend, http.RoundTripper) http.RoundTripper

	// MaxConnAge is how long connections to a backend are used before new ones
	// take their place, so that those behind one address (an L4 balancer, a
	// name with many addresses) get their share of HTTP/2 requests too. Zero
	// means that they are used for as long as they work.
	MaxConnAge time.Duration

	// Verdict judges a backend by its answer. Exactly one of its arguments is
	// nil, and it must leave the response's body alone. Nil means that errors and the statuses 500, 502, 503
	// and 504 are failures, and 429 and 503 with Retry-After are refusals. A
	// client that went away is always Ignored, and not asked about.
	Verdict func(*http.Response, error) Verdict

	// TrustedProxies are where the X-Forwarded fields of a request are
	// believed and added to by Proxy, instead of replaced.
	TrustedProxies []netip.Prefix

	// Fallback answers the requests that Proxy could not get an answer for.
	// The header is already set but for the content. Nil means a short text,
	// or a problem document (RFC 9457) where that is accepted.
	Fallback http.Handler

	// OnChange is called after a backend's state has changed, in order, one
	// call at a time, and without locks held.
	OnChange func(Change)

	// Now and Rand replace the clock and the source of random bits. They are
	// for simulations; see package balancertest. Nil means the real ones.
	Now  func() time.Time
	Rand func() uint64
}

// A Balancer spreads requests over backends. It is safe for concurrent use.
type Balancer struct {
	cfg    Config
	base   time.Time
	budget *Budget
	hedges *Budget // nil if there are none
	recent *latencies
	proxy  struct {
		once sync.Once
		t    *transport
	}
	pool        pool
	view        atomic.Pointer[view]
	waking      atomic.Bool   // one goroutine is doing what is due
	hint        chan struct{} // Discover sooner
	unavailable atomic.Uint64
	retries     atomic.Uint64
	hedged      atomic.Uint64
	overBudget  atomic.Uint64
	hookPanics  atomic.Uint64
	probes      [2]atomic.Uint64 // failed, passed
	probeTime   histogram

	mu          sync.Mutex // protects what follows, and health in endpoints
	members     []*Endpoint
	leaving     []*Endpoint
	past        [verdicts]uint64 // of those that left
	log         changeLog
	discoverErr string

	tellMu  sync.Mutex // protects what follows
	untold  []Change
	telling bool
}

// New returns a Balancer, or an error that names every field of cfg that is
// not valid. It starts nothing: see [Balancer.Run].
func New(cfg Config) (*Balancer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	b := &Balancer{cfg: cfg, base: time.Now(), hint: make(chan struct{}, 1)}
	if cfg.Now != nil {
		b.base = cfg.Now()
	}
	if b.budget = cfg.Retry.Budget; b.budget == nil {
		b.budget = NewBudget(0.2, 10)
	}
	if cfg.Hedge.on() {
		b.hedges = NewBudget(cfg.Hedge.Share, 1)
		b.recent = new(latencies)
	}
	b.mu.Lock()
	b.setMembers(cfg.Backends)
	b.mu.Unlock()
	return b, nil
}

// MustNew is like [New] but panics if cfg is not valid. It is for
// configuration that is written in the source.
func MustNew(cfg Config) *Balancer {
	b, err := New(cfg)
	if err != nil {
		panic(err)
	}
	return b
}

// check reports every field that is not valid, and fills in the defaults.
func (cfg *Config) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("balancer: Config."+format, args...))
	}
	share := func(name string, p *float64, def, most float64) {
		switch {
		case math.IsNaN(*p) || *p > most:
			bad("%s is %v, must be at most %v", name, *p, most)
		case *p == 0:
			*p = def
		}
	}
	period := func(name string, p *time.Duration, def time.Duration) {
		if *p < 0 {
			bad("%s is %v, must not be negative", name, *p)
		} else if *p == 0 {
			*p = def
		}
	}
	if cfg.Name == "" {
		cfg.Name = "default"
	}
	if len(cfg.Backends) == 0 && cfg.Discover == nil {
		bad("Backends is empty, must name a backend unless Discover is set")
	}
	list, err := checkBackends(cfg.Backends, "balancer: Config.Backends")
	if err != nil {
		errs = append(errs, err)
	}
	cfg.Backends = list
	if cfg.Policy == nil {
		cfg.Policy = Latency(0)
	}
	if cfg.Verdict == nil {
		cfg.Verdict = judge
	}
	share("PanicShare", &cfg.PanicShare, 0.5, 1)
	share("ZoneShare", &cfg.ZoneShare, 0, 1)
	if cfg.ZoneShare < 0 {
		bad("ZoneShare is %v, must not be negative", cfg.ZoneShare)
	}
	if cfg.SlowStart == 0 {
		cfg.SlowStart = 10 * time.Second
	}
	if cfg.Subset < 0 {
		bad("Subset is %d, must not be negative", cfg.Subset)
	}
	if cfg.Subset > 0 && cfg.SubsetKey == "" {
		bad("SubsetKey is empty, must name this process because Subset is set")
	}
	if cfg.Warm < 0 || cfg.Warm > 1000 {
		bad("Warm is %d, must be from 0 to 1000", cfg.Warm)
	}
	period("DiscoverEvery", &cfg.DiscoverEvery, 10*time.Second)
	period("MaxConnAge", &cfg.MaxConnAge, 0)

	e := &cfg.Eject
	if e.Consecutive == 0 {
		e.Consecutive = 5
	}
	share("Eject.Ratio", &e.Ratio, 0.5, 1)
	share("Eject.MaxShare", &e.MaxShare, 0.5, 1)
	if e.MaxShare < 0 {
		bad("Eject.MaxShare is %v, must not be negative", e.MaxShare)
	}
	if e.MinRequests < 0 {
		bad("Eject.MinRequests is %d, must not be negative", e.MinRequests)
	} else if e.MinRequests == 0 {
		e.MinRequests = 20
	}
	if math.IsNaN(e.SlowerThan) || math.IsInf(e.SlowerThan, 0) || e.SlowerThan > 0 && e.SlowerThan <= 1 {
		bad("Eject.SlowerThan is %v, must be above 1, or 0 for never", e.SlowerThan)
	}
	period("Eject.Base", &e.Base, 5*time.Second)
	period("Eject.Max", &e.Max, max(time.Minute, e.Base))
	if e.Max < e.Base {
		bad("Eject.Max is %v, must be at least Base, which is %v", e.Max, e.Base)
	}
	cfg.Probe.check(bad, period)
	cfg.Retry.check(bad, period)
	cfg.Hedge.check(bad, period, share)
	cfg.Sticky.check(bad, period)
	for _, p := range cfg.TrustedProxies {
		if !p.IsValid() {
			bad("TrustedProxies has a prefix that is not valid")
			break
		}
	}
	return errors.Join(errs...)
}

// now is the time since the Balancer was made.
func (b *Balancer) now() time.Duration {
	if b.cfg.Now != nil {
		return b.cfg.Now().Sub(b.base)
	}
	return time.Since(b.base)
}

func (b *Balancer) rand() uint64 {
	if b.cfg.Rand != nil {
		return b.cfg.Rand()
	}
	return rand.Uint64()
}

// Run probes the backends and discovers new ones, as Config.Probe and
// Config.Discover say, until ctx ends, and returns its cause. No goroutine
// outlives it. If there is nothing to do in the background, a Balancer works
// without it.
func (b *Balancer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	if b.cfg.Discover != nil {
		wg.Go(func() { b.discover(ctx) })
	}
	if b.cfg.Probe.on() || b.cfg.Warm > 0 {
		wg.Go(func() { b.probeAll(ctx) })
	}
	wg.Go(func() { b.tick(ctx) })
	wg.Wait()
	return context.Cause(ctx)
}

// tick makes what time changes show without requests.
func (b *Balancer) tick(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			b.refresh()
		}
	}
}

// refresh does what time has made due.
func (b *Balancer) refresh() {
	if now := b.now(); now >= b.view.Load().wake {
		b.wakeUp(now)
	}
}
