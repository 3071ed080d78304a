package balancer

import (
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// A leaf is one endpoint's own transport, for one of the RoundTrippers that
// [Balancer.Transport] has returned.
type leaf struct {
	of     *transport
	now    atomic.Pointer[generation]
	before atomic.Pointer[generation] // what now replaced: its last bodies may still come
}

// A generation is the transport of a leaf, for Config.MaxConnAge.
type generation struct {
	rt    http.RoundTripper
	std   *http.Transport // what rt is at the bottom, if it is our own
	exact bool            // rt is std itself: its httptrace hooks can be trusted
	born  time.Duration
}

// leaf returns the generation that requests of t to e go through.
func (e *Endpoint) leaf(t *transport, now time.Duration) *generation {
	for _, l := range *e.leaves.Load() {
		if l.of == t {
			g := l.now.Load()
			if age := t.b.cfg.MaxConnAge; age > 0 && now-g.born > age {
				return l.renew(e, g, now)
			}
			return g
		}
	}
	e.leafMu.Lock()
	defer e.leafMu.Unlock()
	old := *e.leaves.Load()
	for _, l := range old {
		if l.of == t {
			return l.now.Load()
		}
	}
	l := &leaf{of: t}
	l.now.Store(t.grow(e, now))
	list := append(old[:len(old):len(old)], l)
	e.leaves.Store(&list)
	return l.now.Load()
}

// renew replaces a generation that is too old. Its connections end when they
// have nothing to do.
func (l *leaf) renew(e *Endpoint, old *generation, now time.Duration) *generation {
	if next := l.of.grow(e, now); l.now.CompareAndSwap(old, next) {
		closeIdle(l.before.Swap(old))
		closeIdle(old)
	}
	return l.now.Load()
}

// closeIdle closes the connections of e that have nothing to do. Connections
// that are in use close when they are done: the transport is not used again.
func (e *Endpoint) closeIdle() {
	for _, l := range *e.leaves.Load() {
		closeIdle(l.now.Load())
		closeIdle(l.before.Load())
	}
}

func closeIdle(g *generation) {
	if g == nil || g.std == nil {
		return // a RoundTripper that all backends share stays as it is
	}
	g.std.CloseIdleConnections()
	if c, ok := g.rt.(interface{ CloseIdleConnections() }); ok && !g.exact {
		c.CloseIdleConnections()
	}
}

// grow makes e's own transport.
func (t *transport) grow(e *Endpoint, now time.Duration) *generation {
	g := &generation{rt: t.shared, born: now}
	if t.model != nil {
		g.std = t.model.Clone()
		if name := e.Backend().ServerName; name != "" {
			if g.std.TLSClientConfig == nil {
				g.std.TLSClientConfig = new(tls.Config)
			}
			g.std.TLSClientConfig.ServerName = name
		}
		if e.h2c {
			g.std.Protocols = new(http.Protocols)
			g.std.Protocols.SetUnencryptedHTTP2(true)
		}
		g.rt, g.exact = g.std, true
	}
	if wrap := t.b.cfg.Wrap; wrap != nil {
		g.rt, g.exact = wrap(e.Backend(), g.rt), false
	}
	return g
}

// idlePerBackend is how many idle connections a backend's transport keeps. The
// default of net/http is 2: with 64 requests at a time that means a new
// connection for almost every one of them.
const idlePerBackend = 256

// model returns what the transports of the backends are cloned from.
func model(user *http.Transport) *http.Transport {
	if user == nil {
		user = &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			ForceAttemptHTTP2:     true,
			IdleConnTimeout:       90 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ExpectContinueTimeout: time.Second,
			DisableCompression:    true,
		}
	} else {
		// net/http leaves HTTP/2 out once somebody else has set up the TLS of a
		// transport. Here that is us, for the name: it was on, so it stays on.
		plain := user.TLSClientConfig == nil && user.DialContext == nil && user.DialTLSContext == nil && user.TLSNextProto == nil
		user = user.Clone()
		if tls := user.TLSClientConfig; plain || tls != nil && slices.Contains(tls.NextProtos, "h2") {
			user.ForceAttemptHTTP2 = true
		}
	}
	// A transport that is for one backend alone needs all the room there.
	if user.MaxIdleConnsPerHost == 0 {
		user.MaxIdleConnsPerHost = idlePerBackend
	}
	if user.MaxIdleConns != 0 && user.MaxIdleConns < user.MaxIdleConnsPerHost {
		user.MaxIdleConns = user.MaxIdleConnsPerHost
	}
	return user
}
