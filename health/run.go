package health

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Run runs the checks until ctx ends and then returns nil. It returns an
// error at once if the checks are already running: Serve and ListenAndServe
// run them too. What ignores the end of its context, a Probe or OnChange, is
// waited for for two seconds at most; a Probe is not called again by a later
// Run until it has returned.
func (h *Checker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h.mu.Lock()
	if h.running {
		h.mu.Unlock()
		return errors.New("health: Run: the checks are already running")
	}
	loops := new(sync.WaitGroup)
	h.running, h.runCtx, h.loops = true, ctx, loops
	for _, c := range h.checks {
		h.startLocked(c)
	}
	h.mu.Unlock()
	defer func() {
		cancel()
		h.mu.Lock()
		h.runCtx = nil // no loop begins from now on
		h.mu.Unlock()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			loops.Wait()
		}()
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
		}
		h.mu.Lock()
		h.running = false
		h.mu.Unlock()
	}()

	// The tick notices what time alone changes (stale, escalated) when nobody
	// probes, and feeds the plots of the dashboard.
	loops.Go(func() { h.tick(ctx) })
	<-ctx.Done()
	return nil
}

func (h *Checker) tick(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			h.load()
			h.deliver()
			h.mu.Lock()
			samplers := h.samplers
			h.mu.Unlock()
			for _, sample := range samplers {
				sample(now)
			}
		}
	}
}

// addSampler makes Run call sample about once a second.
func (h *Checker) addSampler(sample func(time.Time)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.samplers = append(h.samplers[:len(h.samplers):len(h.samplers)], sample)
}
