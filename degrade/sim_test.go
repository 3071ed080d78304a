package degrade

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"sort"
)

// The simulation: a backend of K first-come-first-served workers behind the
// core of a Shedder, in virtual time. Arrivals are an open-loop Poisson stream,
// one in five is Critical; a client gives up after a second and tells nobody how long it would
// have waited. An oblivious backend works on for clients that have left.

type regime struct {
	name    string
	workers int
	service float64 // mean, ns
	sigma   float64 // of the log-normal; 0 exponential; negative constant
}

func (r regime) capacity() float64 { return float64(r.workers) / r.service * 1e9 }

func (r regime) draw(rng *rand.Rand) float64 {
	switch {
	case r.sigma == 0:
		return rng.ExpFloat64() * r.service
	case r.sigma < 0:
		return r.service
	}
	return r.service * math.Exp(r.sigma*rng.NormFloat64()-r.sigma*r.sigma/2)
}

type phase struct {
	seconds float64
	load    float64 // times capacity
	slow    float64 // service times multiplied by; 0 is 1
	batch   int     // so many arrive at once; 0 is 1
}

type simRequest struct {
	arrived int64
	prio    Priority
	measure int // phase
	w       *waiter
	n       int
	start   int64
	gaveUp  bool
	settled bool
	work    float64
	state   uint8 // 1 in backend queue, 2 in service, 3 done
}

type tally struct {
	offered, good, refused, late int
	critOffered, critGood        int
	latencies                    []float64
	limits                       []float64
	goodAt                       map[int]int // per 100 ms since the phase began
}

func (t *tally) quantile(q float64) float64 {
	if len(t.latencies) == 0 {
		return 0
	}
	sort.Float64s(t.latencies)
	return t.latencies[min(int(q*float64(len(t.latencies))), len(t.latencies)-1)]
}

type event struct {
	at   int64
	kind uint8 // 0 arrival, 1 finish, 2 client gives up, 3 waiter expires, 4 phase, 5 tick
	req  *simRequest
}
type events []event

func (h events) Len() int           { return len(h) }
func (h events) Less(i, j int) bool { return h[i].at < h[j].at }
func (h events) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *events) Push(x any)        { *h = append(*h, x.(event)) }
func (h *events) Pop() any {
	o := *h
	e := o[len(o)-1]
	*h = o[:len(o)-1]
	return e
}

type sim struct {
	core     *core
	r        regime
	aware    bool
	patience int64
	rng      *rand.Rand
	h        events
	busy     int
	backlog  []*simRequest
	phases   []phase
	tallies  []*tally
	begin    []int64
	cur      int
	now      int64
	factor   func() float64  // of service times; nil 1
	tick     func(now int64) // four times a second; may be nil
}

func (s *sim) run() {
	at := int64(0)
	for i, p := range s.phases {
		s.begin = append(s.begin, at)
		s.tallies = append(s.tallies, &tally{goodAt: map[int]int{}})
		heap.Push(&s.h, event{at: at, kind: 4, req: &simRequest{measure: i}})
		at += int64(p.seconds * 1e9)
	}
	end := at
	heap.Push(&s.h, event{at: 0, kind: 0})
	if s.tick != nil {
		heap.Push(&s.h, event{at: 0, kind: 5})
	}
	for len(s.h) > 0 {
		e := heap.Pop(&s.h).(event)
		s.now = e.at
		switch e.kind {
		case 5:
			s.tick(s.now)
			if s.now < end {
				heap.Push(&s.h, event{at: s.now + int64(every), kind: 5})
			}
		case 4:
			s.cur = e.req.measure
		case 0:
			if e.at > end {
				continue
			}
			batch := max(s.phases[s.cur].batch, 1)
			for range batch {
				s.arrive()
			}
			rate := s.r.capacity() * s.phases[s.cur].load / float64(batch)
			heap.Push(&s.h, event{at: s.now + int64(min(s.rng.ExpFloat64()/rate*1e9, 1e15))})
		case 1:
			s.finish(e.req)
		case 2:
			s.giveUp(e.req)
		case 3:
			if e.req.w.queued {
				s.core.cancel(s.now, e.req.w, expired)
				s.refuse(e.req)
			}
		}
	}
}

func (s *sim) arrive() {
	q := &simRequest{arrived: s.now, measure: s.cur}
	t := s.tallies[s.cur]
	t.offered++
	if s.rng.Float64() < 0.2 {
		q.prio = Critical
		t.critOffered++
	}
	if s.rng.IntN(50) == 0 {
		t.limits = append(t.limits, float64(s.core.limit.Load()))
	}
	q.work = s.r.draw(s.rng)
	heap.Push(&s.h, event{at: s.now + s.patience, kind: 2, req: q})
	if q.n = s.core.take(); q.n > 0 {
		s.begun(q)
		return
	}
	ask := waiter{prio: q.prio}
	ask.signal = func() {
		if q.w.verdict == granted {
			q.n = int(s.core.word.Load() & takenMask)
			s.begun(q)
		} else if !q.settled {
			s.refuse(q)
		}
	}
	v, w, _, _ := s.core.wait(s.now, &ask)
	q.w = w
	switch v {
	case granted:
		q.n = int(s.core.word.Load() & takenMask)
		s.begun(q)
	case pending:
		heap.Push(&s.h, event{at: q.w.expires + 1, kind: 3, req: q})
	default:
		s.refuse(q)
	}
}

func (s *sim) refuse(q *simRequest) {
	if q.settled {
		return
	}
	q.settled = true
	s.tallies[q.measure].refused++
}

func (s *sim) begun(q *simRequest) {
	q.start = s.now
	if s.busy < s.r.workers {
		s.serve(q)
		return
	}
	q.state = 1
	s.backlog = append(s.backlog, q)
}

func (s *sim) serve(q *simRequest) {
	s.busy++
	q.state = 2
	slow := s.phases[s.cur].slow
	if slow == 0 {
		slow = 1
	}
	if s.factor != nil {
		slow *= s.factor()
	}
	heap.Push(&s.h, event{at: s.now + int64(q.work*slow), kind: 1, req: q})
}

func (s *sim) leave(q *simRequest) {
	q.state = 3
	if q.gaveUp {
		s.core.hungUp(s.now, s.now-q.arrived, s.now-q.start)
		s.core.leave(s.now, -1, q.n)
		return
	}
	s.core.leave(s.now, s.now-q.start, q.n)
}

func (s *sim) finish(q *simRequest) {
	s.busy--
	for len(s.backlog) > 0 {
		next := s.backlog[0]
		s.backlog = s.backlog[1:]
		if next.state == 1 {
			s.serve(next)
			break
		}
	}
	if !q.settled {
		q.settled = true
		t := s.tallies[q.measure]
		t.good++
		if q.prio == Critical {
			t.critGood++
		}
		t.latencies = append(t.latencies, float64(s.now-q.arrived)/1e6)
		t.goodAt[int((s.now-s.begin[q.measure])/100e6)]++
	}
	s.leave(q)
}

func (s *sim) giveUp(q *simRequest) {
	if q.settled {
		return
	}
	q.settled, q.gaveUp = true, true
	s.tallies[q.measure].late++
	if q.w != nil && q.w.queued {
		s.core.cancel(s.now, q.w, abandoned)
		return
	}
	if s.aware && q.state == 1 {
		s.leave(q)
	}
}

func newCore(fixed int) *core {
	c := new(core)
	c.init(Config{Limit: fixed})
	return c
}

func simulate(r regime, fixed int, aware bool, seed uint64, phases ...phase) []*tally {
	s := &sim{core: newCore(fixed), r: r, aware: aware, patience: 1e9, rng: rand.New(rand.NewPCG(seed, 1)), phases: phases}
	s.run()
	return s.tallies
}
