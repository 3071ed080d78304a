package balancer

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// HashBy returns a Policy that keeps requests with the same key on the same
// backend, in every process with the same backends, and moves few keys when
// the backends change. A request with an empty key goes to the less busy of
// two backends. See [ByHeader], [ByCookie] and [ByIP].
//
// It is Maglev hashing (Eisenbud et al., NSDI 2016): one look into a table of
// prime size, shares that are even to a few percent and follow the weights, and
// a table that is built in milliseconds. A ring moves no foreign keys when a
// backend leaves, where Maglev moves about half a percent of them; but its
// shares differ by a third, unless it is made so large that it is slow.
//
// A backend gets at most a quarter more than its share of what is in flight;
// beyond that its keys go to the next backend in their order. See [HashBounded]
// for another bound, or none. HashBy panics if key is nil.
func HashBy(key func(*http.Request) string) Policy { return HashBounded(key, 1.25) }

// HashBounded is [HashBy] with another bound: how much more than its share a
// backend may have in flight before its keys go to the next backend in their
// order (Mirrokni et al., "Consistent Hashing with Bounded Loads", 2018). It
// must be above 1; a negative number means no bound. HashBounded panics if bound
// is neither, or key is nil.
func HashBounded(key func(*http.Request) string, bound float64) Policy {
	if key == nil {
		panic("balancer: HashBy: key is nil, must name the key of a request")
	}
	if math.IsNaN(bound) || bound >= 0 && bound <= 1 {
		panic(fmt.Sprintf("balancer: HashBounded: bound is %v, must be above 1, or negative for none", bound))
	}
	return &hashed{key, bound}
}

// ByHeader returns a key for [HashBy] and [SplitConfig]: the value of a header.
func ByHeader(name string) func(*http.Request) string {
	name = http.CanonicalHeaderKey(name)
	return func(r *http.Request) string {
		if v := r.Header[name]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
}

// ByCookie returns a key for [HashBy] and [SplitConfig]: the value of a cookie.
func ByCookie(name string) func(*http.Request) string {
	return func(r *http.Request) string { return cookieValue(r, name) }
}

// ByIP returns a key for [HashBy] and [SplitConfig]: the address of the TCP
// peer. Behind a proxy that is the proxy's: use a key that reads the client's
// address as that proxy tells it.
func ByIP() func(*http.Request) string {
	return func(r *http.Request) string {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			return r.RemoteAddr
		}
		return host
	}
}

type hashed struct {
	key   func(*http.Request) string
	bound float64
}

func (p *hashed) Picker(ready []*Endpoint) Picker {
	table := maglev(ready)
	two := twoChoices{}.Picker(ready)
	total := new(total)
	size := uint64(len(table))
	mean := 0.0
	for _, e := range ready {
		mean += e.weight() / float64(len(ready))
	}
	return func(c Call) *Endpoint {
		key := ""
		if c.Request != nil {
			key = p.key(c.Request)
		}
		if key == "" {
			return two(c)
		}
		h := hashString(key)
		for range c.Try {
			h = mix(h) // the key's next backend
		}
		e := ready[table[h%size]]
		if p.bound < 0 || len(ready) == 1 {
			return e
		}
		limit := p.bound * (total.of(ready, c.Now) + 1) / float64(len(ready))
		for range 8 {
			if float64(e.InFlight()) < max(1, limit*e.weight()/mean) {
				return e
			}
			h = mix(h)
			e = ready[table[h%size]]
		}
		return two(c)
	}
}

// total is the number of requests in flight, summed at most every millisecond:
// a counter of its own would be fought over by all processors.
type total struct{ at, sum atomic.Int64 }

func (t *total) of(ready []*Endpoint, now time.Duration) float64 {
	at := t.at.Load()
	if at == 0 || int64(now)-at >= int64(time.Millisecond) && t.at.CompareAndSwap(at, max(1, int64(now))) {
		var sum int64
		for _, e := range ready {
			sum += int64(e.InFlight())
		}
		t.sum.Store(sum)
		t.at.Store(max(1, int64(now)))
	}
	return float64(t.sum.Load())
}

// maglev returns the lookup table: each backend in turn, as often as its weight
// says, takes the next free place in its own permutation of the places. The
// order does not depend on the order of ready.
func maglev(ready []*Endpoint) []uint32 {
	size := uint64(65537)
	switch n := len(ready); {
	case n == 1:
		return []uint32{0}
	case n <= 16:
		size = 4099
	case n <= 64:
		size = 16411
	case n > 1000:
		size = 655373
	}
	type walker struct {
		next, step uint64
		i          uint32
		want, have float64 // turns, and turns taken
	}
	order := byHash(ready)
	walkers := make([]walker, len(ready))
	heaviest := 0.0
	for _, e := range ready {
		heaviest = max(heaviest, e.weight())
	}
	for k, i := range order {
		e := ready[i]
		walkers[k] = walker{
			next: mix(e.hash) % size,
			step: mix(e.hash^0x5bd1e995)%(size-1) + 1,
			i:    uint32(i),
			want: e.weight() / heaviest,
		}
	}
	const free = math.MaxUint32
	table := make([]uint32, size)
	for i := range table {
		table[i] = free
	}
	for filled, round := uint64(0), 1.0; ; round++ {
		for k := range walkers {
			w := &walkers[k]
			if w.have >= w.want*round {
				continue
			}
			w.have++
			for table[w.next] != free {
				if w.next += w.step; w.next >= size {
					w.next -= size
				}
			}
			table[w.next] = w.i
			if filled++; filled == size {
				return table
			}
		}
	}
}

// byHash returns the indexes of ready in the order of their hashes.
func byHash(ready []*Endpoint) []int {
	order := make([]int, len(ready))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(x, y int) int {
		return cmp.Or(cmp.Compare(ready[x].hash, ready[y].hash), strings.Compare(ready[x].id, ready[y].id))
	})
	return order
}
