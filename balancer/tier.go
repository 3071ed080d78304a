package balancer

import (
	"cmp"
	"slices"
)

// A group is the available part of one tier, and if zones matter of one zone.
type group struct {
	below  uint64 // it gets the draws of 32 bits below this, and not below the one before
	ready  []*Endpoint
	pick   Picker
	panics bool
	ramp   bool // most are warm, so newcomers can be given less
}

// overprovision is how much more than its share a tier is trusted to carry: it
// spills over to the next when less than 1/1.4 = 71 % of it is available.
const overprovision = 1.4

// group divides the draws among the tiers, and within each tier by zone.
func (b *Balancer) group(members []*Endpoint) []group {
	sorted := slices.Clone(members)
	slices.SortStableFunc(sorted, func(x, y *Endpoint) int {
		return cmp.Compare(x.backend.Load().Tier, y.backend.Load().Tier)
	})
	var tiers []tier
	var sum float64
	for len(sorted) > 0 {
		n := slices.IndexFunc(sorted, func(e *Endpoint) bool {
			return e.backend.Load().Tier != sorted[0].backend.Load().Tier
		})
		if n < 0 {
			n = len(sorted)
		}
		t := newTier(sorted[:n])
		sum += t.health
		tiers = append(tiers, t)
		sorted = sorted[n:]
	}
	left := 1.0
	for i := range tiers {
		t := &tiers[i]
		t.panics = sum < 1 && t.total > 0 && float64(len(t.ready)) < b.cfg.PanicShare*float64(t.total)
		switch {
		case sum >= 1:
			t.load = min(left, t.health)
		case sum > 0:
			t.load = t.health / sum
		case t.panics && left == 1:
			t.load = 1 // nothing is available anywhere: the first tier gets it all
		}
		left -= t.load
		if t.panics {
			t.ready = t.all
		}
	}
	var groups []group
	var below float64
	if sum == 0 && b.cfg.PanicShare > 0 {
		tiers = lastResort(members, tiers)
	}
	for _, t := range tiers {
		for _, part := range b.zones(t.ready) {
			if len(part.ready) == 0 || t.load*part.share < 1e-9 {
				continue
			}
			below += t.load * part.share
			g := group{below: uint64(below * (1 << 32)), ready: part.ready, panics: t.panics}
			g.pick = b.picker(part.ready)
			warming := 0
			for _, e := range part.ready {
				if e.state == Warming {
					warming++
				}
			}
			g.ramp = warming > 0 && warming*2 <= len(part.ready)
			groups = append(groups, g)
		}
	}
	if len(groups) > 0 {
		groups[len(groups)-1].below = 1 << 32
	}
	return groups
}

// picker asks the Policy. Should it panic, under b.mu, that is counted, and
// backends are drawn at random until it is asked again; but in New it goes up.
func (b *Balancer) picker(ready []*Endpoint) (p Picker) {
	if b.view.Load() != nil {
		defer func() {
			if recover() != nil {
				b.hookPanics.Add(1)
				p = Random().Picker(ready)
			}
		}()
	}
	return b.cfg.Policy.Picker(ready)
}

type tier struct {
	all, ready []*Endpoint // all but those that drain; those that are available
	total      int
	health     float64 // how much of all requests it can carry, up to 1
	load       float64 // how much it gets
	panics     bool
}

func newTier(members []*Endpoint) tier {
	t := tier{}
	for _, e := range members {
		if e.state == Draining {
			continue
		}
		t.all = append(t.all, e)
		if e.state <= Warming {
			t.ready = append(t.ready, e)
		}
	}
	t.total = len(t.all)
	if t.total > 0 {
		t.health = min(1, overprovision*float64(len(t.ready))/float64(t.total))
	}
	return t
}

// lastResort is for when nobody is available and no tier panics, because all
// that are left have said that they are draining: they still serve for a while,
// or others have taken their place. Those configured to drain stay out.
func lastResort(members []*Endpoint, tiers []tier) []tier {
	for _, t := range tiers {
		if len(t.ready) > 0 {
			return tiers
		}
	}
	t := tier{load: 1, panics: true}
	for _, e := range members {
		if !e.backend.Load().Drain {
			t.ready = append(t.ready, e)
		}
	}
	return []tier{t}
}

type part struct {
	ready []*Endpoint
	share float64
}

// zones divides the endpoints of a tier between Config.Zone and the others.
// The clients of every zone do the same, so none may give its own zone more
// than that can carry: the zone's share of the capacity over the zone's share
// of the requests. What it cannot carry goes where there is capacity to spare.
func (b *Balancer) zones(ready []*Endpoint) []part {
	here := b.cfg.Zone
	capacity := map[string]float64{}
	byZone := map[string][]*Endpoint{}
	var names []string
	var sum float64
	for _, e := range ready {
		d := e.backend.Load()
		if _, ok := capacity[d.Zone]; !ok {
			names = append(names, d.Zone)
		}
		capacity[d.Zone] += d.Weight
		byZone[d.Zone] = append(byZone[d.Zone], e)
		sum += d.Weight
	}
	if here == "" || len(names) < 2 || capacity[here] == 0 {
		return []part{{ready, 1}}
	}
	requests := b.cfg.ZoneShare // of all requests, those that start here
	if requests == 0 {
		requests = 1 / float64(len(names))
	}
	local := min(1, capacity[here]/sum/requests)
	if local > 0.999 {
		return []part{{byZone[here], 1}}
	}
	// Elsewhere, what their own clients leave; all of it if nobody has to spare.
	others := (1 - requests) / float64(len(names)-1)
	spare := make([]float64, len(names))
	var spareSum float64
	for i, z := range names {
		if z != here {
			spare[i] = max(0, capacity[z]/sum-others)
			spareSum += spare[i]
		}
	}
	parts := []part{{byZone[here], local}}
	for i, z := range names {
		switch {
		case z == here:
		case spareSum > 0:
			parts = append(parts, part{byZone[z], (1 - local) * spare[i] / spareSum})
		default:
			parts = append(parts, part{byZone[z], (1 - local) * capacity[z] / (sum - capacity[here])})
		}
	}
	return parts
}
