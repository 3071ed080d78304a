package balancer_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-spillway/spillway/balancer"
)

var policies = []struct {
	name string
	make func() balancer.Policy
}{
	{"TwoChoices", balancer.TwoChoices},
	{"Latency", func() balancer.Policy { return balancer.Latency(3) }},
	{"Latency2", func() balancer.Policy { return balancer.Latency(2) }},
	{"RoundRobin", balancer.RoundRobin},
	{"Random", balancer.Random},
	{"LeastRequests", balancer.LeastRequests},
	{"HashBy", func() balancer.Policy { return balancer.HashBy(balancer.ByHeader("K")) }},
}

// many returns n backends.
func many(n int) []balancer.Backend {
	list := make([]balancer.Backend, n)
	for i := range list {
		list[i].URL = fmt.Sprintf("http://10.0.%d.%d:8080", i/250, i%250)
	}
	return list
}

// spy hands out the Picker that a policy makes.
type spy struct {
	balancer.Policy
	pick *balancer.Picker
}

func (s spy) Picker(ready []*balancer.Endpoint) balancer.Picker {
	*s.pick = s.Policy.Picker(ready)
	return *s.pick
}

// BenchmarkPick is the choice alone, as the policies differ in it: among backends
// whose latency is known. The clock is not in it: see BenchmarkAcquire.
func BenchmarkPick(b *testing.B) {
	for _, p := range policies {
		for _, n := range []int{3, 10, 100, 1000} {
			var pick balancer.Picker
			pool := balancer.MustNew(balancer.Config{Backends: many(n), Policy: spy{p.make(), &pick}})
			begin := time.Now()
			for range 20 * n {
				l, _ := pool.Acquire(nil)
				l.Done(balancer.Success)
			}
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("K", "some-key-of-usual-length")
			now := time.Since(begin) // or the estimates would be stale by the end
			call := func() balancer.Call {
				return balancer.Call{Request: r, Now: now, Rand: rand.Uint64()}
			}
			b.Run(fmt.Sprintf("%s/%d/serial", p.name, n), func(b *testing.B) {
				b.ReportAllocs()
				c := call()
				for b.Loop() {
					c.Rand += 0x9e3779b97f4a7c15
					sink = pick(c)
				}
			})
			b.Run(fmt.Sprintf("%s/%d/parallel", p.name, n), func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					c := call()
					for pb.Next() {
						c.Rand += 0x9e3779b97f4a7c15
						if pick(c) == nil {
							b.Fail()
						}
					}
				})
			})
		}
	}
}

var sink *balancer.Endpoint

// BenchmarkAcquire is a whole request without HTTP: the choice, the counting,
// and what is learnt from the answer. It reads the clock twice.
func BenchmarkAcquire(b *testing.B) {
	for _, p := range policies[:4] {
		for _, n := range []int{3, 1000} {
			pool := balancer.MustNew(balancer.Config{Backends: many(n), Policy: p.make()})
			one := func() {
				l, _ := pool.Acquire(nil)
				l.Done(balancer.Success)
			}
			b.Run(fmt.Sprintf("%s/%d/serial", p.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					one()
				}
			})
			b.Run(fmt.Sprintf("%s/%d/parallel", p.name, n), func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						one()
					}
				})
			})
		}
	}
}

// BenchmarkTransport is what the balancer adds to a RoundTripper.
func BenchmarkTransport(b *testing.B) {
	resp := &http.Response{StatusCode: 200, Header: http.Header{}}
	next := roundTripper(func(*http.Request) (*http.Response, error) {
		r := *resp
		r.Body = http.NoBody
		return &r, nil
	})
	t := balancer.MustNew(balancer.Config{Backends: many(10)}).Transport(next)
	for _, c := range []struct {
		name string
		rt   http.RoundTripper
	}{{"bare", next}, {"balanced", t}} {
		b.Run(c.name, func(b *testing.B) {
			req := httptest.NewRequest("GET", "http://users/42", nil)
			b.ReportAllocs()
			for b.Loop() {
				r, err := c.rt.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				_ = r.Body.Close()
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// BenchmarkSetBackends is a change of one backend among n, with the tables that
// a policy builds for it.
func BenchmarkSetBackends(b *testing.B) {
	for _, p := range policies {
		for _, n := range []int{10, 1000} {
			b.Run(fmt.Sprintf("%s/%d", p.name, n), func(b *testing.B) {
				pool := balancer.MustNew(balancer.Config{Backends: many(n), Policy: p.make()})
				sets := [2][]balancer.Backend{many(n), many(n)[1:]}
				i := 0
				for b.Loop() {
					i++
					if err := pool.SetBackends(sets[i%2]...); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
