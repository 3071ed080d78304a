package balancer

import (
	"context"
	"net/http"
	"sync"
)

// warmUp opens Config.Warm connections to e, once, by asking for nothing on
// all of them at the same time.
func (b *Balancer) warmUp(ctx context.Context, e *Endpoint) {
	if b.cfg.Warm == 0 || !e.warmed.CompareAndSwap(false, true) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Probe.Timeout)
	defer cancel()
	var wg sync.WaitGroup
	for range b.cfg.Warm {
		wg.Go(func() { b.warmOne(ctx, e) })
	}
	wg.Wait()
}

// warmOne opens one connection. What goes wrong shows when requests come; a
// panic, of what Config.Wrap put there, is counted.
func (b *Balancer) warmOne(ctx context.Context, e *Endpoint) {
	defer func() {
		if recover() != nil {
			b.hookPanics.Add(1)
		}
	}()
	req, err := b.probeRequest(ctx, e, http.MethodHead)
	if err != nil {
		return
	}
	if resp, err := e.leaf(b.own(), b.now()).rt.RoundTrip(req); err == nil {
		_ = resp.Body.Close()
	}
}
