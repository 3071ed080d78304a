package chain

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

// A target is what the attacks are made on.
type target struct {
	name string
	few  bool // each part alone is tried less often than the chain

	handler   func(k *books, h http.Handler) http.Handler
	transport func(k *books, rt http.RoundTripper) http.RoundTripper // or this, of the clients
	proxied   bool                                                   // h has a server of its own, behind a balancer
}

var targets = []target{
	{name: "chain", handler: (*books).handler},
	{name: "chain and balancer", handler: (*books).handler, proxied: true},
	{name: "health", few: true, handler: func(k *books, h http.Handler) http.Handler { return k.health.around(k.parts.health.Handler, h) }},
	{name: "ratelimit", few: true, handler: func(k *books, h http.Handler) http.Handler { return k.lim.around(k.parts.lim.Handler, h) }},
	{name: "ratelimit that settles", few: true, handler: func(k *books, h http.Handler) http.Handler {
		k.parts.lim = ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.PerSecond(100_000_000), Key: ratelimit.ClientIP(), MaxWait: time.Second,
			Settle: func(*http.Request, ratelimit.Outcome) int { return 1 },
		})
		return k.lim.around(k.parts.lim.Handler, h)
	}},
	{name: "cache", few: true, handler: func(k *books, h http.Handler) http.Handler { return k.cache.around(k.parts.pages.Handler, h) }},
	{name: "cache that keeps", few: true, handler: func(k *books, h http.Handler) http.Handler {
		var n atomic.Int64
		c := k.cache.around(k.parts.pages.Handler, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			h.ServeHTTP(w, r)
		}))
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.RawQuery = strconv.FormatInt(n.Add(1), 10) // none is kept yet
			c.ServeHTTP(w, r)
		})
	}},
	{name: "degrade", few: true, handler: func(k *books, h http.Handler) http.Handler { return k.shed.around(k.parts.shed.Handler, h) }},
	{name: "switch", few: true, handler: func(k *books, h http.Handler) http.Handler { return k.parts.sw.Handler(h) }},
	{name: "switch that leaves out", few: true, handler: func(k *books, h http.Handler) http.Handler {
		f := k.parts.sw.Feature("extra", degrade.Optional)
		err := k.parts.sw.Set(degrade.Override{Target: "level", Level: degrade.Optional, Author: "a test", Reason: "a test", Expires: time.Now().Add(time.Hour)})
		if err != nil {
			panic(err)
		}
		return k.parts.sw.Handler(f.Handler(http.NotFoundHandler(), h))
	}},
	{name: "breaker", few: true, handler: func(k *books, h http.Handler) http.Handler { return k.b.around(k.parts.b.Handler, h) }},
	{name: "balancer", few: true, proxied: true},
	{name: "health's client", few: true, transport: func(k *books, rt http.RoundTripper) http.RoundTripper {
		check := health.Check{Probe: func(context.Context) error { return nil }}
		k.parts.health = health.MustNew(health.Config{Checks: map[string]health.Check{"it": check}})
		return k.parts.health.Observe("it", rt)
	}},
	{name: "ratelimit's client", few: true, transport: func(k *books, rt http.RoundTripper) http.RoundTripper {
		return k.lim.aroundClient(k.parts.lim.Transport, rt)
	}},
	{name: "cache's client", few: true, transport: func(k *books, rt http.RoundTripper) http.RoundTripper {
		return k.cache.aroundClient(k.parts.pages.Transport, rt)
	}},
	{name: "degrade's client", few: true, transport: func(k *books, rt http.RoundTripper) http.RoundTripper {
		return k.parts.shed.Transport(rt)
	}},
	{name: "breaker's client", few: true, transport: func(k *books, rt http.RoundTripper) http.RoundTripper {
		return k.b.aroundClient(k.parts.b.Transport, rt)
	}},
}

// A round is one target under attack by one protocol.
type round struct {
	target
	*site
	k    *books
	up   *site // behind the balancer, if there is one
	idle func()

	mu   sync.Mutex // protects what follows
	seen []weak.Pointer[http.Request]
}

func begin(t *testing.T, target target, protocol, dir string) *round {
	x := &round{target: target, k: &books{parts: newParts()}, idle: func() {}}
	h := hostile(dir)
	if target.proxied {
		pool, rp, up := proxy(t, h)
		x.k.pool, x.up = pool, up
		x.idle = rp.Transport.(interface{ CloseIdleConnections() }).CloseIdleConnections
		h = x.k.proxied.tap(rp)
	}
	if target.handler != nil {
		h = target.handler(x.k, h)
	}
	x.site = serve(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x.mu.Lock()
		x.seen = append(x.seen, weak.Make(r))
		x.mu.Unlock()
		if r.URL.Path == "/file" {
			w = &fromReader{w, &x.site.readFrom}
		}
		h.ServeHTTP(w, r)
	}))
	x.site.proxied = target.proxied
	if target.transport != nil {
		x.k.clients = true
		x.client.Transport = target.transport(x.k, x.client.Transport)
	}
	return x
}

// A fromReader counts how often it is told to read for itself, which is how
// files get to a connection without being copied.
type fromReader struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w *fromReader) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *fromReader) ReadFrom(r io.Reader) (int64, error) {
	w.n.Add(1)
	return io.Copy(w.ResponseWriter, r)
}

// still waits until nothing is in flight in any part, no metric lies, and no
// connection is open.
func (x *round) still(t *testing.T, after string) {
	p := x.k.parts
	settles(t, after+": in flight returns to zero", func() bool {
		n := p.shed.Stats().InFlight + p.shed.Stats().Streams + p.shed.Stats().Waiting + int(p.health.Stats().InFlight)
		return n == 0 && (x.k.pool == nil || x.k.pool.Stats().InFlight == 0)
	})
	x.k.balance(t)
	settles(t, after+": connections are closed", func() bool {
		x.client.CloseIdleConnections()
		x.idle()
		return x.conns.open.Load() == 0 && (x.up == nil || x.up.conns.open.Load() == 0)
	})
}

// held is how many of the requests that were seen somebody still holds on to.
func (x *round) held() (n int) {
	runtime.GC()
	runtime.GC()
	for _, r := range x.seen {
		if r.Value() != nil {
			n++
		}
	}
	return n
}

// TestHostileBattery does each attack many times in a row, on each part alone
// and on the chain, and then wants a normal answer, nothing in flight, no
// connection left, no metric that lies, the goroutines of before, no request that
// anybody still holds, and nothing answered twice.
func TestHostileBattery(t *testing.T) {
	dir := t.TempDir()
	normal := body("GET", "/ok", "", 200, "ok")
	times := *rounds
	if times == 0 {
		times = 25
		if testing.Short() {
			times = 8
		}
	}
	for _, target := range targets {
		for _, protocol := range protocols {
			t.Run(target.name+"/"+protocol, func(t *testing.T) {
				x := begin(t, target, protocol, dir)
				require.Empty(t, normal(t, x.site))
				for _, a := range attacks {
					if a.only != "" && a.only != protocol || a.notProxied && target.proxied && protocol == "http1" || a.racy && raceEnabled || a.refused && target.few {
						continue
					}
					n := times
					if target.few {
						n = max(n/5, 2)
						if a.heavy {
							n = max(n/5, 1)
						}
					}
					x.still(t, "before "+a.name)
					before := goroutines()
					for i := range n {
						if wrong := a.do(t, x.site); wrong != "" {
							t.Fatalf("%s, round %d: %s", a.name, i, wrong)
						}
					}
					require.Empty(t, normal(t, x.site), "a normal request after %s", a.name)
					x.still(t, a.name)
					settles(t, a.name+": goroutines return", func() bool { return runtime.NumGoroutine() <= before+1 }) // which asks is one
				}
				require.Empty(t, x.misuse.all())
				settles(t, "no request is held", func() bool { return x.held() == 0 })
				runtime.KeepAlive(x.k)
			})
		}
	}
}
