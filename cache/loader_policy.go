package cache

import (
	"math"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// loaderPolicy decides what leaves when a shard is full. It is W-TinyLFU
// (Einziger, Friedman and Manes, 2017): a small window takes in whatever comes;
// what falls out of the window gets into the main part only if it was asked for
// more often than the entry that would have to leave, by the counts of a
// sketch. So a scan over a million keys that nobody asks for twice passes
// through the window and pushes nothing out.
//
// One thing differs from the paper: hits don't move entries. They leave a mark
// in the entry (see touch), and the mark is looked at when the entry is the
// oldest of its list: an entry with a mark goes on to the next list, or to the
// front again, and loses the mark. The order is nearly the same, the hit ratio
// too (measured in examples/compare), and a hit needs no lock.
//
// The mutex of the shard protects it.
type loaderPolicy[K comparable, V any] struct {
	epoch  atomic.Uint32 // read by hits without the mutex
	lists  [3]*simplelru.LRU[*loaderEntry[K, V], struct{}]
	costs  [3]int64
	sketch loaderSketch

	max          int64 // cost of all lists together
	maxWindow    int64 // of them, for the window
	maxProtected int64

	sized   int // entries that the sketch is large enough for
	misses  uint64
	counted uint64 // requests up to the start of this epoch
	onEvict func(*loaderEntry[K, V])
}

// loaderPlace is the list that an entry is in.
type loaderPlace uint8

const (
	loaderWindow    loaderPlace = iota // what came last
	loaderProbation                    // admitted, not asked for again since
	loaderProtected                    // asked for again while on probation
)

// The shares of the window and of the protected list, and the requests per
// entry after which counts are halved. The first two are the paper's; the last
// is a little longer memory than its 10, which is worth a tenth of a point of
// hits on Zipf with and without scans.
const (
	loaderWindowShare    = 0.01
	loaderProtectedShare = 0.80
	loaderSampleFactor   = 16
)

// loaderLooks bounds the entries that one eviction looks at.
const loaderLooks = 256

func (p *loaderPolicy[K, V]) init(limit int64, onEvict func(*loaderEntry[K, V])) {
	for i := range p.lists {
		// The bound is kept here, by cost, so a list may hold everything. The
		// only error there is would be of a size that is not positive.
		p.lists[i], _ = simplelru.NewLRU[*loaderEntry[K, V], struct{}](math.MaxInt, nil)
	}
	p.resize(16)
	p.max = limit
	p.maxWindow = max(1, int64(float64(limit)*loaderWindowShare))
	p.maxProtected = int64(float64(limit-p.maxWindow) * loaderProtectedShare)
	p.onEvict = onEvict
}

// miss counts a request for a key that is not in memory. hits are those that
// the shard has answered so far.
func (p *loaderPolicy[K, V]) miss(hash, hits uint64) {
	p.misses++
	if requests := hits + p.misses; requests-p.counted >= uint64(loaderSampleFactor*p.sized) {
		p.counted = requests
		p.epoch.Add(1)
		p.sketch.halve()
	}
	p.sketch.add(hash)
}

// resize makes room in the sketch for as many entries. It forgets what it knew,
// which costs little: it grows only while the lists do, and until they are full
// nobody asks it.
func (p *loaderPolicy[K, V]) resize(entries int) {
	p.sized = entries
	p.sketch = newLoaderSketch(entries)
}

func (p *loaderPolicy[K, V]) entries() int {
	return p.lists[0].Len() + p.lists[1].Len() + p.lists[2].Len()
}

// add takes e in, and evicts what there is no room for then: perhaps e.
func (p *loaderPolicy[K, V]) add(e *loaderEntry[K, V], now int64) {
	if p.tooLarge(e) {
		p.onEvict(e)
		return
	}
	if p.entries() >= p.sized {
		p.resize(2 * p.sized)
	}
	epoch := p.epoch.Load()
	e.heat.Store(epoch<<loaderHeatEpoch | p.sketch.estimate(e.hash))
	p.put(loaderWindow, e)
	p.settle(now)
}

// replace puts e in the place of old, an entry of the same key.
func (p *loaderPolicy[K, V]) replace(old, e *loaderEntry[K, V], now int64) {
	p.take(old)
	if p.tooLarge(e) {
		p.onEvict(e)
		return
	}
	e.heat.Store(old.heat.Load())
	p.put(old.place, e)
	p.settle(now)
}

// tooLarge reports whether e fits nowhere. It must not push others out on its
// way, nor the sum of costs over what an int64 holds.
func (p *loaderPolicy[K, V]) tooLarge(e *loaderEntry[K, V]) bool {
	return e.cost > max(p.maxWindow, p.max-p.maxWindow)
}

// remove forgets e.
func (p *loaderPolicy[K, V]) remove(e *loaderEntry[K, V]) {
	p.take(e)
	p.sketch.raise(e.hash, e.freq(p.epoch.Load()))
}

func (p *loaderPolicy[K, V]) cost() int64 { return p.costs[0] + p.costs[1] + p.costs[2] }

func (p *loaderPolicy[K, V]) put(place loaderPlace, e *loaderEntry[K, V]) {
	e.place = place
	p.lists[place].Add(e, struct{}{})
	p.costs[place] += e.cost
}

func (p *loaderPolicy[K, V]) take(e *loaderEntry[K, V]) {
	p.lists[e.place].Remove(e)
	p.costs[e.place] -= e.cost
}

func (p *loaderPolicy[K, V]) move(e *loaderEntry[K, V], to loaderPlace) {
	p.take(e)
	p.put(to, e)
}

func (p *loaderPolicy[K, V]) evict(e *loaderEntry[K, V]) {
	p.remove(e)
	p.onEvict(e)
}

// settle brings the lists back to their bounds.
func (p *loaderPolicy[K, V]) settle(now int64) {
	for p.costs[loaderWindow] > p.maxWindow {
		e, _, _ := p.lists[loaderWindow].GetOldest()
		e.asked() // the mark has been counted; it says nothing of the time to come
		p.admit(e, now)
	}
	for p.mainCost() > p.max-p.maxWindow {
		p.evict(p.victim())
	}
}

func (p *loaderPolicy[K, V]) mainCost() int64 {
	return p.costs[loaderProbation] + p.costs[loaderProtected]
}

// admit lets e, which falls out of the window, into the main part if it is
// wanted more than what must leave for it.
func (p *loaderPolicy[K, V]) admit(e *loaderEntry[K, V], now int64) {
	room := p.max - p.maxWindow - e.cost
	if room < 0 || e.dies <= now {
		p.evict(e)
		return
	}
	for p.mainCost() > room {
		v := p.victim()
		if v.dies > now && !p.wantedMore(e, v) {
			p.evict(e)
			return
		}
		p.evict(v)
	}
	p.move(e, loaderProbation)
}

// wantedMore compares requests per cost: of ten small entries or one large one
// that are asked for equally often, each, the small ones save more loads.
func (p *loaderPolicy[K, V]) wantedMore(e, than *loaderEntry[K, V]) bool {
	epoch := p.epoch.Load()
	return float64(e.freq(epoch))*float64(than.cost) > float64(than.freq(epoch))*float64(e.cost)
}

// victim returns the entry of the main part, which is not empty, that should
// leave first.
func (p *loaderPolicy[K, V]) victim() *loaderEntry[K, V] {
	for looks := 0; ; looks++ {
		e, _, ok := p.lists[loaderProbation].GetOldest()
		if !ok {
			p.demote()
			continue
		}
		if looks >= loaderLooks || !e.asked() {
			return e
		}
		p.move(e, loaderProtected)
		for p.costs[loaderProtected] > p.maxProtected {
			p.demote()
		}
	}
}

// demote moves the oldest protected entry that was not asked for lately back to
// probation.
func (p *loaderPolicy[K, V]) demote() {
	for looks := 0; ; looks++ {
		e, _, _ := p.lists[loaderProtected].GetOldest()
		if looks >= loaderLooks || !e.asked() {
			p.move(e, loaderProbation)
			return
		}
		p.lists[loaderProtected].Get(e) // to the front
	}
}
