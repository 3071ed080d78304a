package balancer

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// A Backend is one server that requests can be sent to.
type Backend struct {
	// URL is the scheme, host and, if there is one, the base path that the
	// request's path is appended to. The schemes are http, https and h2c
	// (HTTP/2 without TLS, with prior knowledge). Required.
	URL string

	// Weight is the backend's share of the requests relative to the others.
	// Default 1. It must not be negative.
	Weight float64

	// ID is what the backend is known by in metrics, in hashing, and when
	// [Balancer.SetBackends] compares the old set with the new: a backend
	// whose ID stays keeps its state. Empty means URL. IDs must be unique.
	ID string

	// Tier is the backend's priority. Tier 0 takes the requests for as long as
	// it is healthy; what it cannot carry goes to tier 1, and so on.
	Tier int

	// Zone is where the backend is. See Config.Zone.
	Zone string

	// Host replaces the Host header of the requests. Empty keeps the request's.
	Host string

	// ServerName is the name that TLS asks for and checks the certificate
	// against. Empty means the host of URL. Set it where URL is an address.
	ServerName string

	// Drain leaves the backend out of new requests; those in flight end.
	Drain bool
}

// URLs returns one [Backend] of weight 1 for each URL.
func URLs(urls ...string) []Backend {
	list := make([]Backend, len(urls))
	for i, u := range urls {
		list[i].URL = u
	}
	return list
}

// normalize checks d and fills in its defaults.
func (d *Backend) normalize() error {
	u, err := url.Parse(d.URL)
	if err == nil && u.Scheme == "h2c" { // what it is called as, whose host is looked at more strictly
		_, err = url.Parse("http" + d.URL[len("h2c"):])
	}
	switch {
	case err != nil:
		return invalid("URL is %q, must be a URL", d.URL)
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c":
		return invalid("URL is %q, must start with http, https or h2c", d.URL)
	case u.Host == "" || u.Hostname() == "":
		return invalid("URL is %q, must have a host", d.URL)
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return invalid("URL is %q, must be scheme, host and path alone", d.URL)
	case d.Weight < 0 || math.IsNaN(d.Weight) || math.IsInf(d.Weight, 0):
		return invalid("Weight is %v, must be zero or positive", d.Weight)
	case d.Weight > maxWeight || d.Weight != 0 && d.Weight < 1/maxWeight:
		return invalid("Weight is %v, must be between %g and %g", d.Weight, 1/maxWeight, float64(maxWeight))
	case d.Tier < 0:
		return invalid("Tier is %d, must not be negative", d.Tier)
	}
	if d.Weight == 0 {
		d.Weight = 1
	}
	if d.ID == "" {
		d.ID = d.URL
	}
	return nil
}

// invalid is an error that begins with the name of a field.
func invalid(format string, args ...any) error { return fmt.Errorf(format, args...) }

const maxWeight = 1e6

// An Endpoint is a [Backend] in use, with what is known of it. Policies read
// it; it is safe for concurrent use.
type Endpoint struct {
	url   *url.URL // scheme is what the transport is to speak: http or https
	h2c   bool
	id    string
	hash  uint64 // of the ID
	token string // the value of its sticky cookie
	pool  *pool  // what it is compared with

	backend atomic.Pointer[Backend]
	perLoad atomic.Uint64 // mean weight / weight, as float64 bits

	// load is the number of requests that wait for an answer, times 2^32,
	// plus the number in flight, which ends with the last byte of the body.
	load     atomic.Int64
	progress atomic.Int64  // when it last answered, or began to be waited for
	latency  atomic.Uint64 // moving average in nanoseconds, as float64 bits; 0 is unknown
	sampled  atomic.Int64  // when latency was last updated
	rest     atomic.Int64  // it asked not to be sent retries before this (Retry-After)
	warm     atomic.Int64  // when slow start began; 0 is not warming
	trial    atomic.Bool   // its one request of the probation is under way
	failures atomic.Uint32 // in a row
	gateway  atomic.Uint32 // gateway errors and transport errors in a row
	broken   atomic.Uint32 // bodies in a row that broke off; their header was a success
	recent   window
	done     [verdicts]atomic.Uint64
	gone     atomic.Bool // left the pool
	warmed   atomic.Bool // its first connections were opened

	leafMu sync.Mutex // serializes additions to leaves
	leaves atomic.Pointer[[]*leaf]

	health // protected by Balancer.mu
}

// Backend returns the backend as it was configured, with its defaults.
func (e *Endpoint) Backend() Backend { return *e.backend.Load() }

// InFlight returns how many requests have begun and not ended. A request ends
// with the last byte of its response.
func (e *Endpoint) InFlight() int { return int(int32(e.load.Load())) }

// Waiting returns how many requests have not been answered yet.
func (e *Endpoint) Waiting() int { return int(e.load.Load() >> 32) }

// Latency returns the moving average of the time to the response's header,
// over about the last two seconds, in which failures and refusals count as long
// ones. Zero means that none is known.
func (e *Endpoint) Latency() time.Duration {
	return time.Duration(math.Float64frombits(e.latency.Load()))
}

const oneWaiting = 1<<32 + 1

// weight is the configured one.
func (e *Endpoint) weight() float64 { return e.backend.Load().Weight }

// busy is the number of requests in flight relative to the capacity.
func (e *Endpoint) busy() float64 {
	return float64(int32(e.load.Load())) * math.Float64frombits(e.perLoad.Load())
}

func (e *Endpoint) begin(now time.Duration) {
	if e.load.Add(oneWaiting)>>32 == 1 {
		e.progress.Store(int64(now))
	}
}

// answered ends the wait that begin started. An attempt that was given up is
// no sign of life.
func (e *Endpoint) answered(now time.Duration, v Verdict) {
	e.load.Add(-1 << 32)
	if v != Ignored {
		e.progress.Store(int64(now))
	}
}

// end ends what begin started. It reports whether nothing is in flight now.
func (e *Endpoint) end() bool { return int32(e.load.Add(-1)) == 0 }

// A Verdict is what a backend's answer says of the backend. What is none of
// the constants counts as Ignored.
type Verdict uint8

// The verdicts.
const (
	Success Verdict = iota
	Failure         // it could not answer, or answered that it is broken
	Refused         // it works, but takes no more: 429, or 503 with Retry-After
	Ignored         // says nothing: the caller went away
	verdicts
)

// String returns "success", "failure", "refused" or "ignored".
func (v Verdict) String() string {
	switch v {
	case Success:
		return "success"
	case Failure:
		return "failure"
	case Refused:
		return "refused"
	}
	return "ignored"
}

// judge is the default of Config.Verdict.
func judge(resp *http.Response, err error) Verdict {
	if err != nil {
		return Failure
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		return Refused
	case http.StatusServiceUnavailable:
		if resp.Header.Get("Retry-After") != "" {
			return Refused
		}
		return Failure
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return Failure
	}
	return Success
}
