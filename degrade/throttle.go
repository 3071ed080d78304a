package degrade

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// throttle is client-side throttling as in the SRE book ("Handling Overload"):
// when a server refuses, what it is sent is brought down to a multiple of what
// it accepts, and the rest fails here, where it costs the server nothing. Each
// attempt counts, so retries make it close sooner. Hosts are told apart, and
// priorities, because a server that refuses the sheddable may well accept the
// critical.
type throttle struct {
	ratio float64 // requests sent per request accepted

	mu    sync.Mutex // protects what follows
	hosts map[string]*[bands]attempts
}

// attempts are decaying counts.
type attempts struct {
	requests, accepts float64
	at, sent          time.Time
}

const (
	throttleMemory = 10 * time.Second
	throttleHosts  = 1000        // remembered; further ones are not throttled until others are forgotten
	throttleProbe  = time.Second // so often one is sent whatever the odds
)

// allow reports whether a request may be sent, and counts it.
func (t *throttle) allow(host string, b int, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.of(host, b, now)
	if a == nil {
		return true
	}
	a.requests++
	odds := (a.requests - t.ratio*a.accepts - 1) / (a.requests + 1)
	if odds > 0 && rand.Float64() < odds && now.Sub(a.sent) < throttleProbe {
		return false
	}
	a.sent = now
	return true
}

// accepted counts a request that the server did not refuse.
func (t *throttle) accepted(host string, b int, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.of(host, b, now); a != nil {
		a.accepts++
	}
}

// of returns the counts, brought up to now, or nil when too many hosts are known.
func (t *throttle) of(host string, b int, now time.Time) *attempts {
	h := t.hosts[host]
	if h == nil {
		if len(t.hosts) >= throttleHosts {
			for name, h := range t.hosts {
				if now.Sub(h[0].at) > throttleMemory && now.Sub(h[1].at) > throttleMemory && now.Sub(h[2].at) > throttleMemory {
					delete(t.hosts, name)
				}
			}
			if len(t.hosts) >= throttleHosts {
				return nil
			}
		}
		h = new([bands]attempts)
		t.hosts[host] = h
	}
	a := &h[b]
	f := math.Exp(-float64(max(now.Sub(a.at), 0)) / float64(throttleMemory))
	a.requests, a.accepts, a.at = a.requests*f, a.accepts*f, now
	return a
}
