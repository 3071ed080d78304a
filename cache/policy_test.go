package cache

import (
	"container/list"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// scale is by how much the simulations are smaller than those whose figures
// are published; SPILLWAY_SIMULATE=1 plays them whole.
func scale() int {
	if os.Getenv("SPILLWAY_SIMULATE") != "" {
		return 1
	}
	return 20
}

// A simulation plays requests for keys against a policy.
type simulation struct {
	p       *policy
	live    map[uint64]*entry
	size    func(key uint64) int64
	hits, n int
}

func newSimulation(max int64, size func(uint64) int64) *simulation {
	return &simulation{p: newPolicy(max), live: map[uint64]*entry{}, size: size}
}

func (s *simulation) request(key uint64, counted bool) {
	e := s.live[key]
	if counted {
		s.n++
		if e != nil {
			s.hits++
		}
	}
	if e != nil {
		s.p.touch(e)
		return
	}
	e = &entry{hash: (key + 1) * 0x9e3779b97f4a7c15, cost: s.size(key)}
	e.received = 0
	e.total = int64(key)
	s.live[key] = e
	for _, v := range s.p.add(e) {
		delete(s.live, uint64(v.total))
	}
}

func (s *simulation) ratio() float64 { return 100 * float64(s.hits) / float64(s.n) }

// lru is the same for least recently used.
type lru struct {
	max, used int64
	order     list.List
	live      map[uint64]*list.Element
	size      func(uint64) int64
	hits, n   int
}

func (l *lru) request(key uint64, counted bool) {
	el := l.live[key]
	if counted {
		l.n++
		if el != nil {
			l.hits++
		}
	}
	if el != nil {
		l.order.MoveToFront(el)
		return
	}
	l.live[key] = l.order.PushFront(key)
	l.used += l.size(key)
	for l.used > l.max {
		old := l.order.Remove(l.order.Back()).(uint64)
		delete(l.live, old)
		l.used -= l.size(old)
	}
}

func (l *lru) ratio() float64 { return 100 * float64(l.hits) / float64(l.n) }

func same(uint64) int64 { return 1000 }

// zipf returns keys below n, the first ones most often: P(k) ~ 1/(k+1)^s.
func zipf(n int, s float64, seed uint64) func() uint64 {
	sum := make([]float64, n)
	total := 0.0
	for i := range sum {
		total += 1 / math.Pow(float64(i+1), s)
		sum[i] = total
	}
	r := rand.New(rand.NewPCG(seed, 1))
	return func() uint64 {
		x := r.Float64() * total
		lo, hi := 0, n-1
		for lo < hi {
			if m := (lo + hi) / 2; sum[m] < x {
				lo = m + 1
			} else {
				hi = m
			}
		}
		return uint64(lo)
	}
}

func TestThePolicyBeatsTheLibrariesOnZipf(t *testing.T) {
	keys, requests := 1_000_000/scale(), 4_190_000/scale()
	next := zipf(keys, 1.01, 7)
	s := newSimulation(int64(keys/10*1000), same)
	l := &lru{max: int64(keys / 10 * 1000), live: map[uint64]*list.Element{}, size: same}
	for range requests {
		k := next()
		s.request(k, true)
		l.request(k, true)
	}
	t.Logf("zipf: %.2f %%, LRU %.2f %%", s.ratio(), l.ratio())
	require.Greater(t, s.ratio(), l.ratio()+2.5)
	if scale() == 1 {
		require.InDelta(t, 81.4, s.ratio(), 0.05)
	}
}

func TestAScanDoesNotFlushThePolicy(t *testing.T) {
	keys, requests := 1_000_000/scale(), 4_190_000/scale()
	next := zipf(keys, 1.01, 7)
	s := newSimulation(int64(keys/10*1000), same)
	l := &lru{max: int64(keys / 10 * 1000), live: map[uint64]*list.Element{}, size: same}
	scan := uint64(keys)
	for i := range requests {
		k := next()
		s.request(k, true)
		l.request(k, true)
		if i%(keys/10) == keys/10-1 {
			for range keys / 20 {
				s.request(scan, false)
				l.request(scan, false)
				scan++
			}
		}
	}
	t.Logf("zipf with scans: %.2f %%, LRU %.2f %%", s.ratio(), l.ratio())
	require.Greater(t, s.ratio(), l.ratio()+7)
	if scale() == 1 {
		require.Greater(t, s.ratio(), 80.4)
	}
}

func TestThePolicyPrefersSmallResponses(t *testing.T) {
	keys, requests := 300_000/scale(), 1_500_000/scale()
	r := rand.New(rand.NewPCG(3, 3))
	sizes := make([]int64, keys)
	total := int64(0)
	for i := range sizes {
		sizes[i] = int64(8192*math.Exp(1.7*r.NormFloat64())) + 64
		total += sizes[i]
	}
	size := func(k uint64) int64 { return sizes[k%uint64(keys)] }
	for _, oneHit := range []bool{false, true} {
		next := zipf(keys, 1.0, 7)
		s := newSimulation(total/20, size)
		l := &lru{max: total / 20, live: map[uint64]*list.Element{}, size: size}
		once := uint64(keys)
		for i := range requests {
			k := next()
			if oneHit && i%3 == 0 {
				k = once
				once++
			}
			s.request(k, true)
			l.request(k, true)
		}
		t.Logf("log-normal sizes, one-hit-wonders %v: %.2f %%, LRU %.2f %%", oneHit, s.ratio(), l.ratio())
		require.Greater(t, s.ratio(), l.ratio()+8)
		if scale() == 1 && !oneHit {
			require.Greater(t, s.ratio(), l.ratio()+12)
		}
	}
}

func TestTheSketchRemembersWhenItGrows(t *testing.T) {
	var s sketch
	s.resize(64)
	want := map[uint64]uint64{}
	for i := range uint64(40) {
		h := (i + 1) * 0x9e3779b97f4a7c15
		for range i%9 + 1 {
			s.add(h)
		}
		want[h] = s.count(h)
		require.GreaterOrEqual(t, want[h], i%9+1, "it never counts too few")
	}
	for h := range want {
		want[h] = s.count(h)
	}
	for _, n := range []int{128, 512} {
		s.resize(n)
		for h, count := range want {
			require.Equal(t, count, s.count(h))
		}
	}
}
