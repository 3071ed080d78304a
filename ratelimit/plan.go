package ratelimit

import (
	"errors"
	"fmt"
	"net/http"
)

// A plan is the limits that hold for a key, ready for deciding and for header
// fields.
type plan struct {
	limits   []*limit
	first    *limit // limits[0]
	policies string // the RateLimit-Policy field
}

// newPlan makes a plan of a key's rates; what starts the names of the fields
// in errors.
func (l *Limiter) newPlan(what string, rate Rate, also []Rate) (*plan, error) {
	var errs []error
	p := &plan{}
	for i, r := range append([]Rate{rate}, also...) {
		name, field := l.cfg.Name, what+"Rate"
		if i > 0 {
			name, field = alsoName(l.cfg.Name, i, also), fmt.Sprintf("%sAlso[%d]", what, i-1)
		}
		lim, err := newPolicy(field, name, r, l.cfg.LocalShare)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.limits = append(p.limits, lim)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p.first = p.limits[0]
	p.policies = policies(p.limits, l.groups)
	return p, nil
}

// tier returns the plan for the rate that RateOf gives r.
func (l *Limiter) tier(r *http.Request, otherwise *plan) *plan {
	rate := l.cfg.RateOf(r)
	if rate == (Rate{}) {
		return otherwise
	}
	if tiers := l.tiers.Load(); tiers != nil {
		if p, ok := (*tiers)[rate]; ok {
			return p
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var also []Rate
	for _, lim := range l.plan.Load().limits[1:] {
		also = append(also, lim.rate)
	}
	p, err := l.newPlan("RateOf: ", rate, also)
	if err != nil {
		l.counts.errors.Add(1)
		return otherwise
	}
	tiers := make(map[Rate]*plan)
	if old := l.tiers.Load(); old != nil && len(*old) < 1024 { // else start over
		for k, v := range *old {
			tiers[k] = v
		}
	}
	tiers[rate] = p
	l.tiers.Store(&tiers)
	return p
}
