package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

var parts = []string{"health", "ratelimit", "cache", "degrade", "breaker", "balancer"}

// options are the flags: one for each part's main setting, and -off.
type options struct {
	listen   string
	backends []string
	off      []string

	rate     int            // ratelimit: requests a second for each client
	trust    []netip.Prefix // ratelimit: proxies whose X-Forwarded-For is believed
	cacheMB  int            // cache: MiB
	limit    int            // degrade: requests at once; 0 adapts
	failures float64        // breaker: share of failed calls that opens it
	policy   string         // balancer
	probe    string         // balancer: path that backends are probed at
	drain    time.Duration  // health: not ready, still serving
}

func (o options) on(part string) bool { return !slices.Contains(o.off, part) }

// parse returns the options that args give, or an error that names each flag
// that is wrong and what it takes.
func parse(args []string, output io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("gateway", flag.ContinueOnError)
	fs.SetOutput(output)
	list := func(name, usage string, add func(string)) {
		fs.Func(name, usage, func(s string) error { add(s); return nil })
	}
	var trust []string
	fs.StringVar(&o.listen, "listen", "127.0.0.1:8080", "`address` to serve on")
	list("backend", "`URL` of a backend; repeatable. None: three demo backends are started on loopback", func(s string) { o.backends = append(o.backends, s) })
	list("off", "`part` to leave out, repeatable or with commas: "+strings.Join(parts, ", "), func(s string) { o.off = append(o.off, strings.Split(s, ",")...) })
	fs.IntVar(&o.rate, "rate", 100, "ratelimit: `requests` a second that each client may send")
	list("trust", "ratelimit: `prefix` of proxies whose X-Forwarded-For is believed, such as 10.0.0.0/8; repeatable", func(s string) { trust = append(trust, s) })
	fs.IntVar(&o.cacheMB, "cache", 64, "cache: `MiB` of responses to keep")
	fs.IntVar(&o.limit, "limit", 0, "degrade: `requests` in flight at once; 0 finds the limit by itself")
	fs.Float64Var(&o.failures, "failures", 0.5, "breaker: `share` of failed calls, above 0 to 1, that opens it")
	fs.StringVar(&o.policy, "policy", "latency", "balancer: `policy`, one of "+strings.Join(policyNames(), ", "))
	fs.StringVar(&o.probe, "probe", "", "balancer: `path` that tells whether a backend is well, such as /readyz; empty: only real requests tell")
	fs.DurationVar(&o.drain, "drain", 2*time.Second, "health: how `long` to serve as not ready on SIGTERM, before closing")
	if err := fs.Parse(args); err != nil {
		return o, err
	}

	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("gateway: "+format, a...)) }
	if fs.NArg() > 0 {
		bad("%q is not a flag; backends are given as -backend URL", fs.Arg(0))
	}
	for _, b := range o.backends {
		if u, err := url.Parse(b); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			bad("-backend is %q, must be a URL such as http://127.0.0.1:9000", b)
		}
	}
	for _, p := range o.off {
		if !slices.Contains(parts, p) {
			bad("-off is %q, must be one of %s", p, strings.Join(parts, ", "))
		}
	}
	for _, t := range trust {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			bad("-trust is %q, must be a prefix such as 10.0.0.0/8", t)
		}
		o.trust = append(o.trust, p)
	}
	if o.rate <= 0 {
		bad("-rate is %d, must be positive; -off ratelimit turns it off", o.rate)
	}
	if o.cacheMB <= 0 {
		bad("-cache is %d, must be positive; -off cache turns it off", o.cacheMB)
	}
	if o.limit < 0 {
		bad("-limit is %d, must be positive, or 0 to adapt; -off degrade turns it off", o.limit)
	}
	if !(o.failures > 0 && o.failures <= 1) {
		bad("-failures is %v, must be above 0 and at most 1; -off breaker turns it off", o.failures)
	}
	if !slices.Contains(policyNames(), o.policy) {
		bad("-policy is %q, must be one of %s", o.policy, strings.Join(policyNames(), ", "))
	}
	if o.drain < 0 {
		bad("-drain is %v, must not be negative", o.drain)
	}
	return o, errors.Join(errs...)
}
