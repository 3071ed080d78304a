package degrade

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"sort"
	"testing"
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
}

type simRequest struct {
	arrived int64
	prio    Priority
	measure int // phase
	w       waiter
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
	critRefused                  int
	latencies                    []float64
	limits                       []float64
	refusedWait                  float64
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
	kind uint8 // 0 arrival, 1 finish, 2 client gives up, 3 waiter expires, 4 phase
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
	known    bool // the deadline is known at the door
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
	trace    bool
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
	for len(s.h) > 0 {
		e := heap.Pop(&s.h).(event)
		s.now = e.at
		switch e.kind {
		case 4:
			s.cur = e.req.measure
		case 0:
			if e.at > end {
				continue
			}
			s.arrive()
			rate := s.r.capacity() * s.phases[s.cur].load
			heap.Push(&s.h, event{at: s.now + int64(s.rng.ExpFloat64()/rate*1e9)})
		case 1:
			s.finish(e.req)
		case 2:
			s.giveUp(e.req)
		case 3:
			if e.req.w.queued {
				s.core.cancel(s.now, &e.req.w, expired)
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
		if s.trace {
			fmt.Printf("%8.3f phase %d limit %d taken %d queued %d base %.1f ms (%.0f) lat %.1f r %.2f n %.0f trial %v\n", float64(s.now)/1e9, s.cur, s.core.limit.Load(), s.core.word.Load()&takenMask, s.core.q.n, s.core.ctl.base/1e6, s.core.ctl.baseN, s.core.latency()/1e6,
				s.core.ctl.limit*s.core.ctl.t/max(s.core.ctl.n, 1)/s.core.ctl.base, s.core.ctl.n, s.core.ctl.trial)
		}
	}
	q.work = s.r.draw(s.rng)
	heap.Push(&s.h, event{at: s.now + s.patience, kind: 2, req: q})
	if q.n = s.core.take(); q.n > 0 {
		s.begun(q)
		return
	}
	q.w = waiter{prio: q.prio}
	if s.known {
		q.w.deadline = s.now + s.patience
	}
	q.w.signal = func() {
		if q.w.verdict == granted {
			q.n = int(s.core.word.Load() & takenMask)
			s.begun(q)
		} else if !q.settled {
			s.refuse(q)
		}
	}
	switch s.core.wait(s.now, &q.w) {
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
	t := s.tallies[q.measure]
	t.refused++
	t.refusedWait += float64(s.now - q.arrived)
	if q.prio == Critical {
		t.critRefused++
	}
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
	heap.Push(&s.h, event{at: s.now + int64(q.work*slow), kind: 1, req: q})
}

func (s *sim) leave(q *simRequest) {
	q.state = 3
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
	q.settled = true
	s.tallies[q.measure].late++
	if q.w.queued {
		s.core.cancel(s.now, &q.w, abandoned)
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
	s.trace = os.Getenv("TRACE") != ""
	s.run()
	return s.tallies
}

var regimes = []regime{
	{"10x10ms exp", 10, 10e6, 0},
	{"10x10ms logn", 10, 10e6, 1},
	{"64x100ms exp", 64, 100e6, 0},
	{"64x100ms logn", 64, 100e6, 1},
	{"4x250ms exp", 4, 250e6, 0},
	{"4x250ms logn", 4, 250e6, 1},
}

func TestTable(t *testing.T) {
	if os.Getenv("TABLE") == "" {
		t.Skip()
	}
	fixed := 0
	fmt.Sscan(os.Getenv("FIXED"), &fixed)
	for _, r := range regimes {
		if f := os.Getenv("REG"); f != "" && f != r.name {
			continue
		}
		// Uncontended.
		u := simulate(regime{r.name, 10000, r.service, r.sigma}, 10000, false, 1, phase{5, 100. / r.capacity(), 0})
		_ = u
		for _, aware := range []bool{false, true} {
			if aware && os.Getenv("AWARE") == "" {
				continue
			}
			fmt.Printf("%-14s aware=%v\n", r.name, aware)
			for _, load := range []float64{0.7, 0.8, 1, 2, 4, 5, 10} {
				if f := os.Getenv("LOAD"); f != "" && f != fmt.Sprint(load) {
					continue
				}
				for seed := uint64(1); seed <= 3; seed++ {
					ts := simulate(r, fixed, aware, seed, phase{20, 0.5, 0}, phase{10, load, 0})
					a := ts[1]
					capa := min(float64(a.offered), r.capacity()*10)
					fmt.Printf("  %4.1fx seed %d good %5.1f%%  crit %5.1f%% (%5.1f%%C)  p50 %5.0f p99 %5.0f  refused %d/%d late %d, warm refused %d late %d; refuse wait %.1f ms, limit %v\n", load, seed,
						100*float64(a.good)/capa, 100*float64(a.critGood)/float64(a.critOffered), 100*float64(a.critGood)/(r.capacity()*10),
						a.quantile(.5), a.quantile(.99), a.refused, a.offered, a.late, ts[0].refused, ts[0].late, a.refusedWait/1e6/float64(max(a.refused, 1)), span(a.limits))
				}
			}
		}
	}
}

func span(v []float64) string {
	if len(v) == 0 {
		return ""
	}
	a, b, sum := v[0], v[0], 0.0
	for _, x := range v {
		a, b, sum = min(a, x), max(b, x), sum+x
	}
	return fmt.Sprintf("%.0f..%.0f mean %.1f", a, b, sum/float64(len(v)))
}
