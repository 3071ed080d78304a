package breaker

// Ready reports whether a call would be let through now, be it as a probe. It
// takes no slot, counts nothing and moves no state, so it is for whoever
// decides whether to try at all: a feature that needs the dependency, or a
// balancer that leaves out a backend whose circuit is open.
//
//	reviews := sw.Feature("reviews", degrade.Optional).Needs(b.Ready)
//	healthy := func(to balancer.Backend) bool { return b.For(to.URL).Ready() } // balancer.Config.Healthy
//
// It is true while the circuit is closed or recovering, and again once an open
// circuit's time is over and there is room for a probe. That is the difference
// to State, which stays Open until a call comes: whoever waited for State would
// send no call, and wait for ever. A circuit that is forced open is not ready;
// in a dry run, which refuses nothing, every circuit is.
//
// The answer holds at the moment it is given: another call may take the room
// for a probe first. While a circuit recovers it is true although a share of
// the calls is refused.
//
// On the Breaker that New returned it is about that one's own circuit, which
// [Do], [Breaker.Allow] and a [Breaker.Handler] without Config.Key go through.
// Of a [Breaker.Transport] ask for the host: b.For("https://api.example.com").
func (b *Breaker) Ready() bool {
	f := b.fam
	if f.dryRun.Load() {
		return true
	}
	now := f.now()
	if f.forced.Load() != 0 {
		if fo := b.forcedNow(now); fo != nil {
			return fo.state != Open
		}
	}
	// A gate whose time is over is one that the next call would ask, and find
	// room for a probe: also when a lease is over. That a probe is written off
	// may open the circuit again, but only a call finds that out.
	return b.cur.Load().gate.Load() <= now
}
