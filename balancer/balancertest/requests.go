package balancertest

import (
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/go-spillway/spillway/balancer"
)

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

// arrival begins a request at a random client, and sets up the next arrival.
func (s *Simulation) arrival() {
	wait := s.arrive.ExpFloat64() / s.rate * float64(time.Second)
	s.after(time.Duration(min(wait, math.MaxInt64/2)), func() {
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
	s.r.Retries += max(0, q.tries-1)
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
