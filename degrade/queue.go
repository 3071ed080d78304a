package degrade

// A waiter is one request that waits for a slot. All fields are guarded by
// core.mu, except verdict, which is written before its goroutine is woken and
// read after.
type waiter struct {
	prio     Priority
	flow     uint8 // the tenant's number, see acquireSlow
	since    int64 // when it came
	until    int64 // when it was given a slot
	expires  int64 // when waiting on makes no sense
	due      int64 // the same, in an overload
	deadline int64 // when its caller gives up; 0 when unknown
	queued   bool
	verdict  verdict
	signal   func()        // called once, under core.mu, when the verdict is in; must not block
	ready    chan struct{} // what signal does by default: it gets one value

	prev, next *waiter // its flow's list, oldest first
}

type verdict uint8

const (
	pending   verdict = iota
	granted           // holds a slot
	refused           // see reason
	evicted           // had to make room for a more important one, or for a tenant with less
	expired           // waited as long as makes sense
	abandoned         // its caller hung up
	tooLate           // could not have been finished before its deadline
)

// flows is how many tenants of one priority are told apart; more share. A fixed
// number keeps memory bounded whatever tenants are sent.
const flows = 64

// A flow holds the waiting requests of one tenant (or of those that share its
// number) within one priority.
type flow struct {
	head, tail *waiter
	n          int
	next, prev *flow // ring of the flows that have waiters
}

// A class is one priority.
type class struct {
	prio   Priority
	flows  [flows]*flow
	turn   *flow // whose turn it is; nil when nobody waits
	n      int
	active int     // flows that have waiters
	share  float64 // moving share of the slots given out that went to this class
	in     rate    // given a slot after waiting
	out    rate    // refused
}

// queue holds the waiters by priority. It is guarded by core.mu.
type queue struct {
	classes []*class // those that were ever used, most important first; at most 201
	n       int
}

// class returns the class of p, made on first use.
func (q *queue) class(p Priority) *class {
	i := 0
	for ; i < len(q.classes); i++ {
		if q.classes[i].prio == p {
			return q.classes[i]
		}
		if q.classes[i].prio < p {
			break
		}
	}
	c := &class{prio: p}
	q.classes = append(q.classes, nil)
	copy(q.classes[i+1:], q.classes[i:])
	q.classes[i] = c
	return c
}

func (q *queue) push(w *waiter) {
	c := q.class(w.prio)
	f := c.flows[w.flow]
	if f == nil {
		f = new(flow)
		c.flows[w.flow] = f
	}
	if f.n == 0 { // joins the ring at its end
		c.active++
		if c.turn == nil {
			f.next, f.prev, c.turn = f, f, f
		} else {
			last := c.turn.prev
			last.next, f.prev, f.next, c.turn.prev = f, last, c.turn, f
		}
	}
	w.prev, w.next = f.tail, nil
	if f.tail != nil {
		f.tail.next = w
	} else {
		f.head = w
	}
	f.tail = w
	f.n++
	c.n++
	q.n++
	w.queued = true
}

func (q *queue) remove(w *waiter) {
	c := q.class(w.prio)
	f := c.flows[w.flow]
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		f.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		f.tail = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	f.n--
	c.n--
	q.n--
	if f.n == 0 {
		c.active--
		if f.next == f {
			c.turn = nil
		} else {
			f.prev.next, f.next.prev = f.next, f.prev
			if c.turn == f {
				c.turn = f.next
			}
		}
		f.next, f.prev = nil, nil
	}
}

// pop takes the next to be served: of the highest priority, of the tenant whose
// turn it is, the oldest, or the newest when the class is in overload.
func (q *queue) pop(newest func(*class) bool) (*class, *waiter) {
	for _, c := range q.classes {
		if c.n == 0 {
			continue
		}
		f := c.turn
		c.turn = f.next
		w := f.head
		if newest(c) {
			w = f.tail
		}
		q.remove(w)
		return c, w
	}
	return nil, nil
}

// ahead counts the waiters that are at least as important as p.
func (q *queue) ahead(p Priority) int {
	n := 0
	for _, c := range q.classes {
		if c.prio < p {
			break
		}
		n += c.n
	}
	return n
}

// least returns the waiter to sacrifice for one of priority p: the oldest of the
// lowest priority below p, or nil.
func (q *queue) least(p Priority) *waiter {
	for i := len(q.classes) - 1; i >= 0; i-- {
		c := q.classes[i]
		if c.prio >= p {
			return nil
		}
		if c.n > 0 {
			return c.longest().head
		}
	}
	return nil
}

// longest returns the flow with most waiters of a class that has some.
func (c *class) longest() *flow {
	most := c.turn
	for f := c.turn.next; f != c.turn; f = f.next {
		if f.n > most.n {
			most = f
		}
	}
	return most
}
