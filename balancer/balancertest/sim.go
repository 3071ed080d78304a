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
//	Latency(3)        66   68   78        78   89  112
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
// fast, the two before that are five times slower than the others. N must be
// at least 4.
func Mixed(n int) []Server {
	if n < 4 {
		panic("balancertest: Mixed: n is " + strconv.Itoa(n) + ", must be at least 4")
	}
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

// epoch is when every simulation begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Run runs a scenario. It panics if the scenario or its Config is not valid.
func Run(cfg Scenario) Result {
	if len(cfg.Servers) == 0 {
		panic("balancertest: Scenario.Servers is empty, must have a server")
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

// SetMembers makes these servers the backends of every client.
func (s *Simulation) SetMembers(servers ...int) {
	for _, c := range s.clients {
		if err := c.SetBackends(backends(servers)...); err != nil {
			panic(err)
		}
	}
}

// SetLoad changes the rate of arrivals; see Scenario.Load. It panics if that
// makes none, or infinitely many.
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
	if !(s.rate > 0) || math.IsInf(s.rate, 0) {
		panic(fmt.Sprintf("balancertest: Load is %v of %v requests per second, must make a positive number", load, capacity))
	}
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
