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
// The [Policy] draws three backends at random and sends the request to the one
// that is expected to answer first, by its latency of late and by what it has
// in hand ([Latency]). A backend that fails five times in a row, or half of the
// time, is ejected for five seconds, and longer each time ([Eject]); but never
// more than half of them, and not if the others fail as much. Backends can also
// be probed ([Probe]), judged by a func (Config.Healthy), and say themselves
// that they are leaving, with the response field Spillway-Draining: 1. If fewer
// than half are left, all are used: most of those that look dead then are not.
//
// A request that fails is sent to another backend, twice at most, if it is safe
// to send twice and the budget allows ([Retry]). New and returning backends get
// their share little by little, over ten seconds (Config.SlowStart).
//
// A [Splitter] divides requests among such pools: a canary, or blue and green.
//
// # Defaults, and why
//
//   - Latency(3), because one slow backend among ten is p99, and least requests
//     and round robin do not see it: package balancertest has the figures.
//   - Ejection by answers is on, since it needs nothing from the backends and
//     acts within a few requests. Probes are off: a health page answers for less
//     than a request does, and which path is one's own knowledge.
//   - Retries may add a fifth to the requests, and ten a second so that a quiet
//     service has them too. What is above is what turns a failure into a storm.
//   - 500 is not retried: it may be what the request deserves. See Retry.When
//     and the example of a bad deploy.
//   - Hedging is off, since it sends work twice, also to backends that have more
//     than they can do.
//
// # What it costs
//
// A pick takes some tens of nanoseconds whatever the number of backends, and
// allocates nothing; [Balancer.Transport] adds two allocations to a request
// without a body (go test -bench . ./balancer). Each backend has a transport of
// its own, with enough idle connections: that matters more for throughput than
// any policy. Per backend it takes about a kilobyte, without the connections.
//
// # How it fails
//
// With nobody left to ask, a request gets a [NoBackendError]: from Proxy 503
// with Retry-After, or Config.Fallback. A backend that does not answer is 502,
// and 504 if time ran out; a backend's own answer is passed on as it is, after
// the retries. When Discover fails, the last good set stays, and Conditions says
// so. A panic in a hook is counted, one in a RoundTripper goes on up with the
// request given back.
//
// # What it does not do
//
// It limits neither the number of requests nor the size of bodies, keeps no
// queue, and does not know what other balancers do. It has no goroutine outside
// of Run, but for attempts that are hedged, which end with their request, and to
// close a request's body that is being read when there is no more use for it.
package balancer

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

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
	hookMissed  atomic.Uint64
	probes      [2]atomic.Uint64 // failed, passed
	probeTime   histogram

	mu          sync.Mutex // protects what follows, and health in endpoints
	members     []*Endpoint
	leaving     []*Endpoint
	past        [verdicts]uint64 // of those that left
	log         changeLog
	discoverErr string

	tellMu  sync.Mutex // protects what follows; taken after mu
	untold  []Change   // at most maxUntold
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

// vary returns d, give or take up to a share of it, at random: what began
// together does not stay together.
func (b *Balancer) vary(d time.Duration, share float64) time.Duration {
	x := float64(b.rand()>>11) / (1 << 53)
	return time.Duration(min(float64(d)*(1-share+2*share*x), float64(forever/2)))
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
