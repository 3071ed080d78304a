package balancer

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// Config configures a [Balancer]. Backends or Discover is required; every
// other zero field is its default.
type Config struct {
	// Name labels the metrics and the errors; default "default".
	Name string

	// Backends are the backends to begin with.
	Backends []Backend

	// Policy picks the backend for a request. Nil means Latency(3). A Policy
	// belongs to one Balancer: in that of RoundRobin, say, is whose turn it is.
	Policy Policy

	// Eject says when a backend is left out because of what it answers.
	Eject Eject

	// Probe says how backends are asked for their health while [Balancer.Run]
	// runs. The zero value does not probe.
	Probe Probe

	// Healthy, if set, is asked before a backend is used, and once a second
	// for one that it has said no to. It must not block: give it the last
	// answer of a health check, not a new one. A panic is counted, and means no.
	Healthy func(Backend) bool

	// PanicShare is the share of backends below which health is no longer
	// believed, and all backends are used. Default 0.5; with a negative
	// number only available backends are used, and the rest is refused.
	PanicShare float64

	// SlowStart is how long it takes a new or returning backend to get its
	// full share of the requests. Default 10 seconds; a negative number
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

	// DiscoverEvery is how often Discover is called. Default 10 seconds.
	DiscoverEvery time.Duration

	// Transport is what each backend's own transport is cloned from, for
	// Proxy, for probes, and where [Balancer.Transport] is given nil. Nil
	// means one like [http.DefaultTransport], but with 5 seconds to connect,
	// 256 idle connections per backend and no limit on their sum, without a
	// proxy from the environment, and with bodies left compressed as they come.
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
	// nil, and it must leave the response's body alone. Nil means that errors
	// and the statuses 500, 502, 503 and 504 are failures, and 429 and 503 with
	// Retry-After are refusals. A client that went away is always Ignored, and
	// not asked about.
	Verdict func(*http.Response, error) Verdict

	// TrustedProxies are where the X-Forwarded fields of a request are
	// believed and added to by Proxy, instead of replaced.
	TrustedProxies []netip.Prefix

	// Fallback answers the requests that Proxy could not get an answer for.
	// The header is already set but for the content. Nil means a short text,
	// or a problem document (RFC 9457) where that is accepted.
	Fallback http.Handler

	// OnChange is called after a backend's state has changed, in order, one
	// call at a time, and without locks held. It runs in the goroutine that
	// found the change out, often a request's, so it should be quick. A panic
	// is counted. Changes wait while it runs; when 4096 do, more are counted
	// and not told.
	OnChange func(Change)

	// Now and Rand replace the clock and the source of random bits. They are
	// for simulations; see package balancertest. Nil means the real ones.
	Now  func() time.Time
	Rand func() uint64
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
	cfg.TrustedProxies = slices.Clone(cfg.TrustedProxies)
	for i, p := range cfg.TrustedProxies {
		if !p.IsValid() {
			bad("TrustedProxies[%d] is %v, must be a valid one", i, p)
		}
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 { // as the addresses are compared
			cfg.TrustedProxies[i] = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
	}
	return errors.Join(errs...)
}
