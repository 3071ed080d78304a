package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"net/url"
	"time"
)

// The shortest flood in which every act has time to happen; nothing is done to
// a target, so it may be shorter there.
const (
	shortest       = 20 * time.Second
	shortestTarget = 5 * time.Second
)

type options struct {
	length time.Duration
	seed   uint64
	html   string
	json   string
	svg    string

	target string
	rate   float64
	insist bool
}

// parse returns the options that args give, or an error that names each flag
// that is wrong and what it takes.
func parse(args []string, output io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("flood", flag.ContinueOnError)
	fs.SetOutput(output)
	fs.DurationVar(&o.length, "for", 50*time.Second, "how `long` the script takes, at least 20s (5s with -target); its acts shrink and grow with it")
	fs.Uint64Var(&o.seed, "seed", 1, "which requests are drawn, and how long the database takes for them; any `number`")
	fs.StringVar(&o.html, "html", "flood.html", "`file` for the report; empty writes none")
	fs.StringVar(&o.json, "json", "flood.json", "`file` for what was measured; empty writes none")
	fs.StringVar(&o.svg, "svg", "", "`file` for a picture of the answers a second, as in the README of Spillway; empty writes none")
	fs.StringVar(&o.target, "target", "", "`URL` to flood with GET, in place of the shop; it must be on this machine")
	fs.Float64Var(&o.rate, "rate", 100, "with -target: what it can carry, in `requests` a second; it gets up to ten times that")
	fs.BoolVar(&o.insist, "insist", false, "with -target: flood it wherever it is. Only do that to what is yours")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })

	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("flood: "+format, a...)) }
	if fs.NArg() > 0 {
		bad("%q is not a flag; a service is given as -target URL", fs.Arg(0))
	}
	least := shortest
	if o.target != "" {
		least = shortestTarget
	}
	if o.length < least {
		bad("-for is %v, must be at least %v", o.length, least)
	}
	if o.target != "" {
		switch u, err := url.Parse(o.target); {
		case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
			bad("-target is %q, must be a URL such as http://127.0.0.1:8080/", o.target)
		case !o.insist && !loopback(u.Hostname()):
			bad("-target is %q, which is not on this machine; if it is yours, -insist floods it all the same", o.target)
		}
	} else {
		for _, f := range []string{"rate", "insist"} {
			if given[f] {
				bad("-%s needs -target", f)
			}
		}
	}
	if !(o.rate > 0) || math.IsInf(o.rate, 0) {
		bad("-rate is %v, must be positive", o.rate)
	}
	return o, errors.Join(errs...)
}

// loopback reports whether all addresses of a host are this machine's own. The
// dialer looks again at each address that is connected to.
func loopback(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback()
	}
	ips, err := net.LookupIP(host)
	if err != nil || len(ips) == 0 {
		return false
	}
	for _, ip := range ips {
		if !ip.IsLoopback() {
			return false
		}
	}
	return true
}
