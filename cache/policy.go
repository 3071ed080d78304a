package cache

import (
	"math/bits"
	"sync"
)

// The policy decides what stays when memory is short. It is W-TinyLFU (Einziger,
// Friedman, Manes 2017): new entries pass a small window and then compete with
// the ones that have been there, by how often each was asked for lately. Here
// they compete by requests per byte, because a byte given to small entries
// saves more calls of the origin; with equal sizes that is plain W-TinyLFU.
//
// A hit does not take the policy's lock, and touches no memory but that of its
// entry: it leaves a mark there. Who makes room counts the marks of the
// entries that would be next to go, and moves those that have any out of the
// way first. So the queues are in order where it matters, at their ends.
type policy struct {
	max int64

	// mu protects what follows, and the links, seg and cost of every entry.
	// It is never held together with a shard's.
	mu      sync.Mutex
	window  queue
	classes [classCount]class
	freq    sketch
	count   int
	total   int64
}

// A class holds the entries of about the same cost that have left the window:
// those asked for once on probation, those asked for again protected.
type class struct{ probation, protected queue }

const classCount = 48

func (p *policy) class(e *entry) *class {
	return &p.classes[min(bits.Len64(uint64(e.cost)), classCount-1)]
}

// A segment says which queue an entry is in.
type segment uint8

const (
	segNone segment = iota // not yet in the policy
	segWindow
	segProbation
	segProtected
	segDead // was in it, never comes back
)

const (
	windowPercent    = 1
	protectedPercent = 80

	// victimSample is how many of the entries that are next to go are
	// compared in each class; the one with the fewest requests per byte goes.
	victimSample = 4

	// maxHeat is how many hits an entry remembers until they are counted,
	// maxSettle how many entries may move out of the way at a time.
	maxHeat, maxSettle = 255, 64
)

func newPolicy(max int64) *policy {
	p := &policy{max: max}
	p.freq.resize(1 << 10)
	return p
}

// touch notes a hit on e.
func (p *policy) touch(e *entry) {
	if e.heat.Load() < maxHeat {
		e.heat.Add(1)
	}
}

// settleLocked counts the hits that e has had since it was last looked at, and
// gives it the place that they are worth. It reports whether there were any.
func (p *policy) settleLocked(e *entry) bool {
	n := e.heat.Swap(0)
	if n == 0 {
		return false
	}
	for range n {
		p.freq.add(e.hash)
	}
	switch e.seg {
	case segWindow:
		p.window.toFront(e)
	case segProtected:
		p.class(e).protected.toFront(e)
	case segProbation:
		c := p.class(e)
		c.probation.remove(e)
		e.seg = segProtected
		c.protected.pushFront(e)
		for n := 0; c.protected.bytes > (c.protected.bytes+c.probation.bytes)/100*protectedPercent; n++ {
			old := c.protected.tail
			if n < maxSettle && p.settleLocked(old) {
				continue
			}
			c.protected.remove(old)
			old.seg = segProbation
			c.probation.pushFront(old)
		}
	}
	return true
}

// add makes room for e and returns what had to go, which may be e itself.
func (p *policy) add(e *entry) (victims []*entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.seg != segNone {
		return nil // removed before it was in
	}
	p.count++
	if p.count > p.freq.capacity() {
		p.freq.resize(2 * p.freq.capacity())
	}
	p.freq.add(e.hash)
	e.seg = segWindow
	p.window.pushFront(e)
	p.total += e.cost
	for n := 0; p.window.bytes > p.max/100*windowPercent && p.total <= p.max; n++ {
		if n < maxSettle && p.settleLocked(p.window.tail) {
			continue
		}
		p.admitLocked(p.window.tail)
	}
	for p.total > p.max {
		v := p.evictLocked()
		p.dropLocked(v)
		victims = append(victims, v)
	}
	return victims
}

// evictLocked chooses what goes next. An entry that leaves the window goes
// itself unless it is worth more per byte than the one it would replace.
func (p *policy) evictLocked() *entry {
	victim := p.victimLocked()
	if victim == nil {
		return p.window.tail
	}
	if p.window.bytes <= p.max/100*windowPercent {
		return victim
	}
	for n := 0; n < maxSettle && p.settleLocked(p.window.tail); n++ {
	}
	candidate := p.window.tail
	if p.worth(candidate) <= p.worth(victim) {
		return candidate
	}
	p.admitLocked(candidate)
	return victim
}

func (p *policy) admitLocked(e *entry) {
	p.window.remove(e)
	e.seg = segProbation
	p.class(e).probation.pushFront(e)
}

// victimLocked returns the entry outside the window that is worth least, as
// far as the ends of the queues show it.
func (p *policy) victimLocked() (victim *entry) {
	least := 0.0
	for i := range p.classes {
		e := p.classes[i].probation.tail
		if e == nil {
			e = p.classes[i].protected.tail
		}
		for n, looked := 0, 0; e != nil && n < victimSample; looked++ {
			before := e.prev
			if looked >= maxSettle || !p.settleLocked(e) {
				n++
				if w := p.worth(e); victim == nil || w < least {
					victim, least = e, w
				}
			}
			e = before
		}
	}
	return victim
}

// worth is how many requests a byte of e has saved lately.
func (p *policy) worth(e *entry) float64 {
	return (float64(p.freq.count(e.hash)) + float64(e.heat.Load())) / float64(e.cost)
}

// remove forgets e, for good.
func (p *policy) remove(e *entry) {
	p.mu.Lock()
	p.dropLocked(e)
	p.mu.Unlock()
}

func (p *policy) dropLocked(e *entry) {
	switch e.seg {
	case segNone, segDead:
		e.seg = segDead
		return
	case segWindow:
		p.window.remove(e)
	case segProbation:
		p.class(e).probation.remove(e)
	case segProtected:
		p.class(e).protected.remove(e)
	}
	e.seg = segDead
	p.total -= e.cost
	p.count--
}

func (p *policy) size() (count int, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count, p.total
}

// A queue is a list of entries through their own links, most recent first.
type queue struct {
	head, tail *entry
	bytes      int64
}

func (q *queue) pushFront(e *entry) {
	e.prev, e.next = nil, q.head
	if q.head != nil {
		q.head.prev = e
	} else {
		q.tail = e
	}
	q.head = e
	q.bytes += e.cost
}

func (q *queue) remove(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		q.head = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		q.tail = e.prev
	}
	e.prev, e.next = nil, nil
	q.bytes -= e.cost
}

func (q *queue) toFront(e *entry) {
	if q.head != e {
		q.remove(e)
		q.pushFront(e)
	}
}
