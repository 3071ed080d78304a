// Package balancertest tries out balancing policies in virtual time: a minute
// of a cluster's bad day takes about a second, and is the same every time.
//
//	r := balancertest.Run(balancertest.Scenario{
//		Servers: balancertest.Mixed(20), // two slow, one failing fast, one that hangs
//		Clients: 50,
//		Load:    0.85,
//		Policy:  func() balancer.Policy { return balancer.Latency(3) },
//	})
//	fmt.Println(r.P99, r.Errors, r.Share[19])
//
// With these servers and retries, p99 in milliseconds by policy, for 70, 85 and
// 95 % load (go test -v -run BadDay ./balancer/balancertest, with
// SPILLWAY_SIMULATION=full):
//
//	                  one client          fifty clients
//	Latency(3)        65   67   75        77   88  110
//	TwoChoices        90  100  122       502  494  502
//	LeastRequests     79   80   88       482  492  480
//	RoundRobin        84  105  327       503  483  428
//	Random            85  147  999       503  497  490
//
// (About 500 is where Retry.PerTry ends an attempt.) At most 0.06 % of the
// attempts go to the backend that fails fast, as many to the one that hangs,
// and no client sees an error from the default.
//
// The balancers are real: the simulation gives them a clock and random bits,
// and drives them through [balancer.Balancer.Acquire]. Servers, network and
// clients are simulated: a server has some workers and a queue without bound,
// service times are log-normal, arrivals are Poisson, and the network takes a
// quarter of a millisecond each way. Work whose client has left is dropped while
// it is queued, and done to its end once it is served. Connections are not
// simulated, nor is slowness that several servers share. So compare policies by
// it, and do not expect its milliseconds elsewhere.
package balancertest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/go-spillway/spillway/balancer"
)

// A Server is how one backend behaves.
type Server struct {
	Workers int           // requests served at a time; zero means 4
	Mean    time.Duration // of the service time; zero means 10 ms
	Sigma   float64       // of the service time's logarithm; zero means 1, negative means constant
	Errors  float64       // share of the requests that are answered with an error, after half a millisecond
	Hangs   bool          // answers nothing
}

// Mixed returns n servers on a bad day: the last hangs, the one before fails
// fast, the two before that are five times slower than the others.
func Mixed(n int) []Server {
	list := make([]Server, n)
	list[n-1].Hangs = true
	list[n-2].Errors = 1
	list[n-3].Mean = 50 * time.Millisecond
	list[n-4].Mean = 50 * time.Millisecond
	return list
}

// An Event changes something at a time.
type Event struct {
	At time.Duration
	Do func(*Simulation)
}

// A Scenario is what [Run] runs. Servers and Load are required.
type Scenario struct {
	Servers []Server
	Members []int // the servers that are backends to begin with; nil means all

	// Clients is how many independent balancers there are. Zero means 1.
	Clients int

	// Load is the rate of arrivals as a share of what the first members can
	// serve that neither hang nor fail.
	Load float64

	// Config is what each client's balancer is made of; its Backends, Now and
	// Rand are set by the simulation. Policy, if set, makes the policy of each
	// client, for policies that keep state.
	Config balancer.Config
	Policy func() balancer.Policy

	// Retry makes clients retry failed requests, as Config.Retry says: the
	// number, the budget, PerTry and Backoff. Unlimited makes them do it
	// without asking for the budget, at once, and anywhere.
	Retry     bool
	Unlimited int

	Timeout  time.Duration // of a request with its retries; zero means 1 s
	Duration time.Duration // zero means 30 s
	Warmup   time.Duration // not counted; zero means 5 s
	Events   []Event
	Seed     uint64
}

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

// A Simulation is a run under way, as events see it.
type Simulation struct {
	cfg     Scenario
	now     time.Duration
	events  queue
	seq     uint64
	arrive  *rand.Rand
	serve   *rand.Rand
	servers []*server
	clients []*balancer.Balancer
	index   map[*balancer.Endpoint]int
	rate    float64 // per second
	latency []time.Duration
	r       Result
}

const oneWay = 250 * time.Microsecond

// Epoch is when every simulation begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

type server struct {
	Server
	busy  int
	queue []*try
	head  int
	mu    float64
}

// A request is one of a client's; a try is one attempt at it.
type request struct {
	client int
	began  time.Duration
	done   bool
	now    *try
	tries  int
	lease  balancer.Lease
}

type try struct {
	q      *request
	server *server
	over   bool // answered or given up
}

// An event is a step of the simulation.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

func (e event) before(o event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// queue is a heap of events, by time.
type queue []event

func (q *queue) push(e event) {
	h := append(*q, e)
	i := len(h) - 1
	for i > 0 && e.before(h[(i-1)/2]) {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = e
	*q = h
}

func (q *queue) pop() event {
	h := *q
	top, last := h[0], h[len(h)-1]
	h[len(h)-1] = event{}
	h = h[:len(h)-1]
	*q = h
	for i := 0; len(h) > 0; {
		k := 2*i + 1
		if k+1 < len(h) && h[k+1].before(h[k]) {
			k++
		}
		if k >= len(h) || last.before(h[k]) {
			h[i] = last
			break
		}
		h[i] = h[k]
		i = k
	}
	return top
}

// Run runs a scenario. It panics if the scenario or its Config is not valid.
func Run(cfg Scenario) Result {
	if len(cfg.Servers) == 0 || !(cfg.Load > 0) {
		panic("balancertest: Scenario must have Servers and a positive Load")
	}
	def := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	def(&cfg.Timeout, time.Second)
	def(&cfg.Duration, 30*time.Second)
	def(&cfg.Warmup, 5*time.Second)
	cfg.Clients = max(1, cfg.Clients)
	if cfg.Members == nil {
		for i := range cfg.Servers {
			cfg.Members = append(cfg.Members, i)
		}
	}
	s := &Simulation{
		cfg:    cfg,
		arrive: rand.New(rand.NewPCG(cfg.Seed, 1)),
		serve:  rand.New(rand.NewPCG(cfg.Seed, 2)),
		index:  map[*balancer.Endpoint]int{},
	}
	s.r.Share = make([]float64, len(cfg.Servers))
	s.r.LongestQueue = make([]int, len(cfg.Servers))
	for i := range cfg.Servers {
		s.servers = append(s.servers, &server{})
		s.Change(i, cfg.Servers[i])
	}
	s.SetLoad(cfg.Load)
	for i := range cfg.Clients {
		c := cfg.Config
		c.Backends = backends(cfg.Members)
		c.Now = func() time.Time { return epoch.Add(s.now) }
		c.Rand = rand.NewPCG(cfg.Seed+uint64(i), 3).Uint64
		if cfg.Policy != nil {
			c.Policy = cfg.Policy()
		}
		s.clients = append(s.clients, balancer.MustNew(c))
	}
	for _, e := range cfg.Events {
		s.at(e.At, func() { e.Do(s) })
	}
	s.arrival()
	for len(s.events) > 0 {
		e := s.events.pop()
		if e.at > cfg.Duration+cfg.Warmup {
			break
		}
		s.now = e.at
		e.do()
	}
	return s.result()
}

// Change makes a server behave differently from now on.
func (s *Simulation) Change(i int, to Server) {
	x := s.servers[i]
	if to.Workers == 0 {
		to.Workers = 4
	}
	if to.Mean == 0 {
		to.Mean = 10 * time.Millisecond
	}
	if to.Sigma == 0 {
		to.Sigma = 1
	}
	x.Server = to
	x.Sigma = max(x.Sigma, 0)
	x.mu = math.Log(float64(to.Mean)) - x.Sigma*x.Sigma/2
	s.work(x)
}

// SetMembers makes these servers the backends of every client.
func (s *Simulation) SetMembers(servers ...int) {
	for _, c := range s.clients {
		if err := c.SetBackends(backends(servers)...); err != nil {
			panic(err)
		}
	}
}

// SetLoad changes the rate of arrivals; see Scenario.Load.
func (s *Simulation) SetLoad(load float64) {
	capacity := 0.0
	for _, i := range s.cfg.Members {
		if x := s.cfg.Servers[i]; !x.Hangs && x.Errors < 1 {
			mean, workers := x.Mean, x.Workers
			if mean == 0 {
				mean = 10 * time.Millisecond
			}
			if workers == 0 {
				workers = 4
			}
			capacity += float64(workers) / mean.Seconds()
		}
	}
	s.rate = load * capacity
}

// Clients returns the balancers.
func (s *Simulation) Clients() []*balancer.Balancer { return s.clients }

func backends(servers []int) []balancer.Backend {
	list := make([]balancer.Backend, len(servers))
	for k, i := range servers {
		list[k] = balancer.Backend{ID: strconv.Itoa(i), URL: "http://server-" + strconv.Itoa(i)}
	}
	return list
}

func (s *Simulation) at(t time.Duration, do func()) {
	s.seq++
	s.events.push(event{t, s.seq, do})
}

func (s *Simulation) after(d time.Duration, do func()) { s.at(s.now+d, do) }

// arrival begins a request at a random client, and sets up the next arrival.
func (s *Simulation) arrival() {
	wait := time.Duration(s.arrive.ExpFloat64() / s.rate * float64(time.Second))
	s.after(wait, func() {
		q := &request{client: s.arrive.IntN(len(s.clients)), began: s.now}
		s.after(s.cfg.Timeout, func() { s.expire(q) })
		lease, err := s.clients[q.client].Acquire(nil)
		if err != nil {
			s.finish(q, false)
		} else {
			s.send(q, lease)
		}
		s.arrival()
	})
}

func (s *Simulation) serverOf(e *balancer.Endpoint) int {
	i, ok := s.index[e]
	if !ok {
		i, _ = strconv.Atoi(e.Backend().ID)
		s.index[e] = i
	}
	return i
}

// send makes an attempt.
func (s *Simulation) send(q *request, lease balancer.Lease) {
	i := s.serverOf(lease.Endpoint())
	x := s.servers[i]
	t := &try{q: q, server: x}
	q.now, q.lease = t, lease
	q.tries++
	sec := s.second()
	sec.Attempts[i]++
	if s.counting() {
		s.r.Attempts++
		s.r.Share[i]++
	}
	s.r.Hash = (s.r.Hash ^ uint64(i) ^ uint64(s.now)) * 1099511628211
	s.after(oneWay, func() {
		switch {
		case x.Hangs:
		case x.Errors > 0 && s.serve.Float64() < x.Errors:
			s.after(500*time.Microsecond+oneWay, func() { s.answer(t, balancer.Failure) })
		default:
			x.queue = append(x.queue, t)
			s.work(x)
			if s.counting() {
				s.r.LongestQueue[i] = max(s.r.LongestQueue[i], len(x.queue)-x.head)
			}
		}
	})
	if perTry := s.cfg.Config.Retry.PerTry; s.cfg.Retry && perTry > 0 {
		s.after(perTry, func() { s.answer(t, balancer.Failure) })
	}
}

// work gives what waits to workers that are free.
func (s *Simulation) work(x *server) {
	for x.busy < x.Workers && x.head < len(x.queue) {
		t := x.queue[x.head]
		x.queue[x.head] = nil
		if x.head++; x.head > 1024 && x.head*2 > len(x.queue) {
			x.queue = slices.Delete(x.queue, 0, x.head)
			x.head = 0
		}
		if t.over {
			continue // its client left while it was queued
		}
		x.busy++
		took := time.Duration(math.Exp(x.mu + x.Sigma*s.serve.NormFloat64()))
		s.after(took, func() {
			x.busy--
			s.work(x)
			s.after(oneWay, func() { s.answer(t, balancer.Success) })
		})
	}
}

// answer ends an attempt.
func (s *Simulation) answer(t *try, v balancer.Verdict) {
	if t.over {
		return
	}
	t.over = true
	q := t.q
	q.lease.Done(v)
	if v == balancer.Success {
		s.finish(q, true)
		return
	}
	b := s.clients[q.client]
	switch {
	case s.cfg.Unlimited >= q.tries:
		if next, err := b.Acquire(nil); err == nil {
			s.send(q, next)
			return
		}
	case s.cfg.Retry:
		if next, ok := q.lease.Retry(nil); ok {
			s.send(q, next)
			return
		}
	}
	s.finish(q, false)
}

// expire ends a request whose time is up.
func (s *Simulation) expire(q *request) {
	if q.done {
		return
	}
	if s.cfg.Unlimited >= q.tries {
		// A client that retries timeouts gives each attempt the whole time.
		s.after(s.cfg.Timeout, func() { s.expire(q) })
		s.answer(q.now, balancer.Failure)
		return
	}
	q.now.over = true
	q.lease.Done(balancer.Failure)
	s.finish(q, false)
}

func (s *Simulation) finish(q *request, ok bool) {
	q.done = true
	sec := s.second()
	sec.Requests++
	if ok {
		sec.OK++
	}
	if q.began < s.cfg.Warmup {
		return
	}
	s.r.Requests++
	s.r.Retries += q.tries - 1
	if ok {
		s.latency = append(s.latency, s.now-q.began)
	} else {
		s.r.Errors++
	}
}

func (s *Simulation) counting() bool { return s.now >= s.cfg.Warmup }

func (s *Simulation) second() *Second {
	i := int(s.now / time.Second)
	for len(s.r.Seconds) <= i {
		s.r.Seconds = append(s.r.Seconds, Second{Attempts: make([]int, len(s.servers))})
	}
	return &s.r.Seconds[i]
}

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
