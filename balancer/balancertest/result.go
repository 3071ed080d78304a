package balancertest

import (
	"fmt"
	"slices"
	"time"
)

// A Result is what [Run] has seen after the warm-up.
type Result struct {
	Requests       int
	Errors         float64       // share of the requests that failed or timed out
	P50, P99, P999 time.Duration // of those that succeeded
	Share          []float64     // of the attempts, by server
	Attempts       float64       // per request
	Retries        int
	LongestQueue   []int
	Seconds        []Second // from the beginning, warm-up included
	Hash           uint64   // of everything that happened: equal for equal runs
}

// A Second is what has ended in one second.
type Second struct {
	Requests, OK int
	Attempts     []int // begun, by server
}

// Success returns the share of requests that succeeded from one time to
// another, by when they ended.
func (r Result) Success(from, to time.Duration) float64 {
	var n, ok int
	for i := int(from / time.Second); i < int(to/time.Second) && i < len(r.Seconds); i++ {
		n += r.Seconds[i].Requests
		ok += r.Seconds[i].OK
	}
	return float64(ok) / float64(max(1, n))
}

// ShareOf returns a server's share of the attempts from one time to another.
func (r Result) ShareOf(server int, from, to time.Duration) float64 {
	var n, of int
	for i := int(from / time.Second); i < int(to/time.Second) && i < len(r.Seconds); i++ {
		for s, x := range r.Seconds[i].Attempts {
			n += x
			if s == server {
				of += x
			}
		}
	}
	return float64(of) / float64(max(1, n))
}

// String returns the result in one line.
func (r Result) String() string {
	return fmt.Sprintf("p50 %5.1f  p99 %6.1f  p99.9 %6.1f ms  errors %.3f %%  attempts %.3f",
		ms(r.P50), ms(r.P99), ms(r.P999), 100*r.Errors, r.Attempts)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (s *Simulation) result() Result {
	r := s.r
	slices.Sort(s.latency)
	at := func(q float64) time.Duration {
		if len(s.latency) == 0 {
			return 0
		}
		return s.latency[min(len(s.latency)-1, int(q*float64(len(s.latency))))]
	}
	r.P50, r.P99, r.P999 = at(0.5), at(0.99), at(0.999)
	for i := range r.Share {
		r.Share[i] /= max(1, r.Attempts)
	}
	r.Attempts /= float64(max(1, r.Requests))
	r.Errors /= float64(max(1, r.Requests))
	return r
}
