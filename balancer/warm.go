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
	path := firstOf(b.cfg.Probe.Path, "/")
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Probe.Timeout)
	defer cancel()
	rt := e.leaf(b.own(), b.now()).rt
	var wg sync.WaitGroup
	for range b.cfg.Warm {
		wg.Go(func() {
			u := *e.url
			u.Path = path
			req, err := http.NewRequestWithContext(ctx, http.MethodHead, u.String(), nil)
			if err != nil {
				return
			}
			req.Header.Set("User-Agent", "spillway-probe")
			if resp, err := rt.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
}
