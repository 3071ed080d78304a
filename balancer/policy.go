package balancer

import (
	"cmp"
	"math"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// A Policy decides which backend gets a request.
type Policy interface {
	// Picker returns the func that picks among ready, which is not empty and
	// must not be modified. It is called when the set of available backends
	// changes, one call at a time, and may take its time: build tables here. It
	// must not call the Balancer. If it panics, other than in [New], that is
	// counted, and backends are drawn at random until the set changes again.
	// Numbers that must outlive a change belong to the Policy or are read from
	// the endpoints, which stay the same.
	Picker(ready []*Endpoint) Picker
}

// A Picker picks a backend for a request. It is called concurrently, must not
// block, and should not allocate. What it returns is overruled when that
// backend was tried already, or is new and not to have its full share yet;
// the Picker is then called again, with the next Try.
type Picker func(Call) *Endpoint

// A Call is what a [Picker] may go by.
type Call struct {
	Request *http.Request // nil if there is none; see [Balancer.Acquire]
	Now     time.Duration // since the Balancer was made
	Rand    uint64        // 64 random bits; a Picker that uses no others can be simulated
	Try     int           // how many picks were overruled for this request
}

// TwoChoices returns a Policy that draws two backends by weight, and picks the
// one with fewer requests in flight for its weight.
func TwoChoices() Policy { return twoChoices{} }

type twoChoices struct{}

func (twoChoices) Picker(ready []*Endpoint) Picker {
	s := newSampler(ready)
	return func(c Call) *Endpoint {
		a, b := s.two(c.Rand)
		if a != b && b.busy() < a.busy() {
			return b
		}
		return a
	}
}

// Random returns a Policy that draws one backend by weight.
func Random() Policy { return random{} }

type random struct{}

func (random) Picker(ready []*Endpoint) Picker {
	s := newSampler(ready)
	return func(c Call) *Endpoint { return s.one(c.Rand) }
}

// LeastRequests returns a Policy that looks at all backends and picks the one
// with the fewest requests in flight for its weight. With many clients, each
// sees few requests of its own: [Latency] does better there.
func LeastRequests() Policy { return leastRequests{} }

type leastRequests struct{}

func (leastRequests) Picker(ready []*Endpoint) Picker {
	s := newSampler(ready)
	return func(c Call) *Endpoint {
		best := s.one(c.Rand) // ties go by weight
		least := best.busy()
		if least == 0 {
			return best
		}
		from := scale(uint32(c.Rand), len(ready))
		for i := range ready {
			i += from
			if i >= len(ready) {
				i -= len(ready)
			}
			if b := ready[i].busy(); b < least {
				best, least = ready[i], b
			}
		}
		return best
	}
}

// RoundRobin returns a Policy that takes the backends in turn, smoothly by
// weight: a backend of weight 3 among four of weight 1 gets every third or so
// request, not three in a row. It starts at a random one and goes on where it
// was when the backends change.
func RoundRobin() Policy { return new(roundRobin) }

type roundRobin struct{ next atomic.Uint64 }

func (p *roundRobin) Picker(ready []*Endpoint) Picker {
	turns := schedule(ready)
	n := uint64(len(turns))
	return func(c Call) *Endpoint {
		i := p.next.Add(1)
		if i == 1 {
			i = p.next.Add(c.Rand >> 1)
		}
		return ready[turns[i%n]]
	}
}

// schedule returns the indexes of ready in turn, each as often as its weight
// says, spread evenly: the order of the deadlines (k+phase)/weight. Those of the
// same weight have different phases, or their turns would come all at once.
func schedule(ready []*Endpoint) []uint32 {
	const most = 1 << 16
	least, sum := math.Inf(1), 0.0
	for _, e := range ready {
		least = min(least, e.weight())
		sum += e.weight()
	}
	// Whole numbers of turns: the lightest has enough of them to make the
	// rounding small, unless that would be too long a table.
	per := 1 / least
	for _, e := range ready {
		if w := e.weight() * per; w != math.Round(w) {
			per = max(per, 16/least)
		}
	}
	if sum*per > most {
		per = most / sum
	}
	type turn struct {
		at float64
		i  uint32
	}
	turns, same, nth := make([]int, len(ready)), map[int]int{}, map[int]int{}
	for i, e := range ready {
		turns[i] = max(1, int(math.Round(e.weight()*per)))
		same[turns[i]]++
	}
	var all []turn
	for i, n := range turns {
		phase := (float64(nth[n]) + 0.5) / float64(same[n])
		nth[n]++
		for k := range n {
			all = append(all, turn{(float64(k) + phase) / float64(n), uint32(i)})
		}
	}
	slices.SortStableFunc(all, func(a, b turn) int { return cmp.Compare(a.at, b.at) })
	list := make([]uint32, len(all))
	for k, t := range all {
		list[k] = t.i
	}
	return list
}

// A sampler draws endpoints by weight in constant time (Walker's alias
// method), or uniformly if all weights are equal.
type sampler struct {
	ready []*Endpoint
	alias []alias // nil if the weights are equal
}

type alias struct {
	keep  uint32 // below it the draw stays
	other uint32 // above it this one
}

func newSampler(ready []*Endpoint) *sampler {
	s := &sampler{ready: ready}
	n, sum, equal := float64(len(ready)), 0.0, true
	for _, e := range ready {
		sum += e.weight()
		equal = equal && e.weight() == ready[0].weight()
	}
	if equal {
		return s
	}
	s.alias = make([]alias, len(ready))
	share := make([]float64, len(ready))
	var under, over []int
	for i, e := range ready {
		share[i] = e.weight() / sum * n
		s.alias[i] = alias{keep: math.MaxUint32, other: uint32(i)}
		if share[i] < 1 {
			under = append(under, i)
		} else {
			over = append(over, i)
		}
	}
	for len(under) > 0 && len(over) > 0 {
		u, o := under[len(under)-1], over[len(over)-1]
		under = under[:len(under)-1]
		s.alias[u] = alias{keep: uint32(share[u] * math.MaxUint32), other: uint32(o)}
		if share[o] -= 1 - share[u]; share[o] < 1 {
			over = over[:len(over)-1]
			under = append(under, o)
		}
	}
	return s
}

// scale maps 32 random bits to [0, n).
func scale(r uint32, n int) int { return int(uint64(r) * uint64(n) >> 32) }

// mix is the finalizer of splitmix64: it makes new bits of used ones.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (s *sampler) one(r uint64) *Endpoint {
	i := scale(uint32(r), len(s.ready))
	if s.alias != nil {
		i = s.redirect(i, uint32(r>>32))
	}
	return s.ready[i]
}

func (s *sampler) redirect(i int, r uint32) int {
	if a := s.alias[i]; r > a.keep {
		return int(a.other)
	}
	return i
}

// two draws two endpoints: different ones if the weights are equal. If not, the
// same one may be drawn twice: to insist on another would favour the light ones.
func (s *sampler) two(r uint64) (a, b *Endpoint) {
	n := len(s.ready)
	if s.alias != nil || n == 1 {
		return s.one(r), s.one(mix(r))
	}
	i := scale(uint32(r), n)
	j := scale(uint32(r>>32), n-1)
	if j >= i {
		j++
	}
	return s.ready[i], s.ready[j]
}
