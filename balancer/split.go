package balancer

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Share is a pool and how much of the requests it gets, relative to the
// other shares.
type Share struct {
	Pool   *Balancer
	Weight float64
}

// A Rule sends the requests that match to one pool, whatever the shares.
type Rule struct {
	When func(*http.Request) bool
	To   *Balancer
}

// SplitConfig configures a [Splitter]. Shares is required.
type SplitConfig struct {
	// Name labels the metrics; default "default".
	Name string

	// Shares are the pools and how much each gets.
	Shares []Share

	// Key, if set, makes the split sticky: requests with the same key go to the
	// same pool, in every process with the same shares. When a share grows at
	// the cost of its neighbour in the list, keys only move into it. A request
	// with an empty key is split at random. See [ByCookie] and [ByHeader].
	Key func(*http.Request) string

	// Rules are asked in order, before the shares: the first that matches
	// decides.
	Rules []Rule
}

// A Splitter divides requests among pools: a canary by share or by rule, or
// blue and green. It is safe for concurrent use.
type Splitter struct {
	name string
	key  func(*http.Request) string
	plan atomic.Pointer[plan]

	mu  sync.Mutex // serializes changes of the plan; protects log
	log changeLog
}

// A plan is the shares and rules: immutable, replaced as a whole.
type plan struct {
	shares []Share
	upTo   []float64 // ascending to 1
	rules  []Rule
	counts map[string]*splitCount // by the name of a pool, each once
	names  []string               // its keys, in order of the shares and then the rules
}

// A splitCount is how many requests went to a pool. It outlives the plan for as
// long as the pool is in the next.
type splitCount struct{ byShare, byRule atomic.Uint64 }

// NewSplit returns a Splitter, or an error that names every field of cfg that
// is not valid.
func NewSplit(cfg SplitConfig) (*Splitter, error) {
	s := &Splitter{name: firstOf(cfg.Name, "default"), key: cfg.Key}
	p, err := newPlan("balancer: SplitConfig.", cfg.Shares, cfg.Rules, nil)
	if err != nil {
		return nil, err
	}
	s.plan.Store(p)
	return s, nil
}

// MustNewSplit is like [NewSplit] but panics if cfg is not valid. It is for
// configuration that is written in the source.
func MustNewSplit(cfg SplitConfig) *Splitter {
	s, err := NewSplit(cfg)
	if err != nil {
		panic(err)
	}
	return s
}

// Split is MustNewSplit with these shares alone: no key, no rules.
func Split(shares ...Share) *Splitter { return MustNewSplit(SplitConfig{Shares: shares}) }

// newPlan returns a plan that goes on with the counts of the one before.
func newPlan(prefix string, shares []Share, rules []Rule, before *plan) (*plan, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(prefix+format, args...)) }
	p := &plan{shares: slices.Clone(shares), rules: slices.Clone(rules)}
	sum := 0.0
	for i, x := range shares {
		if x.Pool == nil {
			bad("Shares[%d].Pool is nil, must be a Balancer", i)
		}
		if !(x.Weight >= 0 && x.Weight <= maxWeight) {
			bad("Shares[%d].Weight is %v, must be from 0 to %g", i, x.Weight, float64(maxWeight))
			continue
		}
		sum += x.Weight
	}
	if sum == 0 && errs == nil {
		bad("Shares is without weight, must have a positive one")
	}
	for i, r := range rules {
		if r.When == nil {
			bad("Rules[%d].When is nil, must be a condition", i)
		}
		if r.To == nil {
			bad("Rules[%d].To is nil, must be a Balancer", i)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	at := 0.0
	for _, x := range shares {
		at += x.Weight / sum
		p.upTo = append(p.upTo, at)
	}
	p.counts = map[string]*splitCount{}
	count := func(b *Balancer) {
		name := b.cfg.Name
		if p.counts[name] != nil {
			return
		}
		p.names = append(p.names, name)
		if before != nil && before.counts[name] != nil {
			p.counts[name] = before.counts[name]
		} else {
			p.counts[name] = new(splitCount)
		}
	}
	for _, x := range shares {
		count(x.Pool)
	}
	for _, r := range rules {
		count(r.To)
	}
	return p, nil
}

// share returns how much of the requests the pools of a name get, from 0 to 1.
func (p *plan) share(name string) (sum float64) {
	from := 0.0
	for i, upTo := range p.upTo {
		if p.shares[i].Pool.cfg.Name == name {
			sum += upTo - from
		}
		from = upTo
	}
	return sum
}

// SetShares replaces the shares in one step, and returns those before: setting
// them again is the rollback. Requests in flight end where they are. The rules
// stay. If the shares are not valid, nothing changes.
func (s *Splitter) SetShares(shares ...Share) (before []Share, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.plan.Load()
	next, err := newPlan("balancer: SetShares: ", shares, old.rules, old)
	if err == nil {
		s.plan.Store(next)
		s.note(next)
	}
	return slices.Clone(old.shares), err
}

// SetRules replaces the rules in one step. The shares stay.
func (s *Splitter) SetRules(rules ...Rule) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.plan.Load()
	next, err := newPlan("balancer: SetRules: ", old.shares, rules, old)
	if err == nil {
		s.plan.Store(next)
	}
	return err
}

// note is called with s.mu held.
func (s *Splitter) note(p *plan) {
	var text strings.Builder
	for i, name := range p.names {
		if i > 0 {
			text.WriteString(", ")
		}
		fmt.Fprintf(&text, "%s %.3g %%", name, 100*p.share(name))
	}
	s.log.add(time.Now(), s.name+": shares are now "+text.String())
}

// Pick returns the pool that r goes to, and counts it. [Splitter.Transport] and
// [Splitter.Proxy] do this themselves.
func (s *Splitter) Pick(r *http.Request) *Balancer {
	p := s.plan.Load()
	b, byRule := p.pick(r, s.key)
	if c := p.counts[b.cfg.Name]; byRule {
		c.byRule.Add(1)
	} else {
		c.byShare.Add(1)
	}
	return b
}

func (p *plan) pick(r *http.Request, keyOf func(*http.Request) string) (b *Balancer, byRule bool) {
	for i := range p.rules {
		if p.rules[i].When(r) {
			return p.rules[i].To, true
		}
	}
	x := rand.Float64()
	if keyOf != nil {
		if key := keyOf(r); key != "" {
			// Not the bits that HashBy uses, or a pool would see only a part of them.
			x = float64(mix(hashString(key)^math.MaxUint32)>>11) / (1 << 53)
		}
	}
	for i, upTo := range p.upTo {
		if x < upTo {
			return p.shares[i].Pool, false
		}
	}
	// Rounding: the last one that has a share.
	for i := len(p.shares) - 1; ; i-- {
		if p.shares[i].Weight > 0 {
			return p.shares[i].Pool, false
		}
	}
}

// SplitStats is a pool of a [Splitter] and what it got.
type SplitStats struct {
	Pool            string  // its Name
	Share           float64 // of the requests that no rule matches, from 0 to 1
	ByShare, ByRule uint64  // requests
}

// Stats returns the shares and the counts so far, of the pools that have a share
// or a rule now. Pools of the same Name are counted as one.
func (s *Splitter) Stats() []SplitStats {
	p := s.plan.Load()
	list := make([]SplitStats, len(p.names))
	for i, name := range p.names {
		c := p.counts[name]
		list[i] = SplitStats{name, p.share(name), c.byShare.Load(), c.byRule.Load()}
	}
	return list
}

// Changes yields the last changes of the shares, at most 64, oldest first.
func (s *Splitter) Changes() iter.Seq2[time.Time, string] { return changesOf(&s.mu, &s.log) }
