package balancer

import (
	"context"
	"errors"
	"time"
)

// errLost is why the slower of two attempts is cancelled.
var errLost = errors.New("balancer: another backend has answered first")

// race makes an attempt, and a second one on another backend if the first
// takes long and the budgets allow. It returns the better of the two.
func (x *exchange) race(l Lease) attempt {
	// A copy, so that the exchange of a request without hedging stays on the stack.
	y := &exchange{t: x.t, req: x.req, body: x.body, safe: x.safe}
	b, req := x.t.b, x.req
	results := make(chan attempt, 2)
	start := func(l Lease) context.CancelCauseFunc {
		ctx, cancel := context.WithCancelCause(req.Context())
		go func() {
			a := attempt{lease: l, err: errors.New("balancer: the RoundTripper ended its goroutine"), sent: true}
			defer func() {
				if p := recover(); p != nil {
					a = attempt{lease: l, err: panicked{p}, sent: true}
				}
				results <- a
			}()
			a = y.timed(ctx, cancel, l)
		}()
		return cancel
	}
	cancels := []context.CancelCauseFunc{start(l)}
	leases := []Lease{l}
	timer := time.NewTimer(b.hedgeDelay(l.began))
	defer timer.Stop()
	var first *attempt
	waiting, settled := 1, false
	defer func() {
		if settled {
			return
		}
		// A Picker or Retry.When has panicked: nobody will take the answers.
		for _, cancel := range cancels {
			cancel(errLost)
		}
		if first != nil {
			discard(first.resp)
		}
		go func() {
			for range waiting {
				if a := <-results; a.resp != nil {
					_ = a.resp.Body.Close()
				}
			}
		}()
	}()
	for {
		select {
		case <-timer.C:
			if !b.another(&l.tried) || !b.mayHedge() {
				continue
			}
			second, err := b.acquire(req, l.tried, true)
			if err != nil {
				continue
			}
			leases = append(leases, second)
			cancels = append(cancels, start(second))
			waiting++
		case a := <-results:
			waiting--
			if p, ok := a.err.(panicked); ok {
				lose(results, cancels, leases, &a, first)
				settled = true
				panic(p.value)
			}
			if first == nil && len(cancels) == 2 && !a.ignore && x.when(&a) {
				first = &a // the other one may do better
				continue
			}
			if first != nil && a.resp == nil && first.resp != nil {
				a, first = *first, &a
			}
			lose(results, cancels, leases, &a, first)
			settled = true
			if len(leases) == 2 {
				a.lease.tried = leases[1].tried // both count as tried
			}
			return a
		}
	}
}

// panicked carries a panic to the goroutine of the request.
type panicked struct{ value any }

func (panicked) Error() string { return "balancer: the RoundTripper panicked" }

// lose cancels what did not win, and closes its body.
func lose(results <-chan attempt, cancels []context.CancelCauseFunc, leases []Lease, winner, other *attempt) {
	if other != nil {
		go discard(other.resp) // the winner need not wait for it
		return
	}
	for i, cancel := range cancels {
		if leases[i].e == winner.lease.e {
			continue
		}
		cancel(errLost)
		go func() {
			if a := <-results; a.resp != nil {
				a.resp.Body.Close()
			}
		}()
	}
}
