package balancer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Probe says how backends are asked for their health while [Balancer.Run]
// runs. Path or Check turns it on. The first probe of a backend decides; after
// that it takes Rise or Fall in a row to change the verdict. A probe that Run's
// end cuts short says nothing. Until its first probe a backend counts as
// healthy.
type Probe struct {
	// Path is what is asked for with GET, over the same transport and TLS name
	// as requests: for example "/readyz". It is not appended to the base path
	// of the backend's URL.
	Path string

	// Check, if set, is called instead. It must return when ctx ends.
	Check func(ctx context.Context, d Backend) error

	// Every is how often a backend is probed, Failing how often one that the
	// last probe failed on. Both vary by a tenth, at random, so that probes
	// spread out. Default 5 seconds and 1 second.
	Every, Failing time.Duration

	// Timeout ends a probe. Default 1 second.
	Timeout time.Duration

	// Rise is how many probes in a row must pass until a backend counts as
	// healthy, Fall how many must fail until it does not. Default 2 and 3.
	Rise, Fall int

	// Status says which statuses pass. Nil means 200 to 399. Redirects are not
	// followed.
	Status func(int) bool

	// Contains must be found in the first 64 KiB of the body. Empty means that
	// the body is not looked at.
	Contains string

	// Header is sent along; Host sets the Host header.
	Header http.Header

	// Concurrent bounds how many probes run at a time. Default 16.
	Concurrent int
}

func (c *Probe) on() bool { return c.Path != "" || c.Check != nil }

func (c *Probe) check(bad func(string, ...any), period func(string, *time.Duration, time.Duration)) {
	if c.Path != "" {
		if u, err := url.ParseRequestURI(c.Path); err != nil || !strings.HasPrefix(c.Path, "/") || u.Host != "" {
			bad("Probe.Path is %q, must be a path that starts with /", c.Path)
		}
	}
	period("Probe.Every", &c.Every, 5*time.Second)
	period("Probe.Failing", &c.Failing, min(time.Second, c.Every))
	period("Probe.Timeout", &c.Timeout, time.Second)
	count := func(name string, p *int, def int) {
		if *p < 0 {
			bad("Probe.%s is %d, must not be negative", name, *p)
		} else if *p == 0 {
			*p = def
		}
	}
	count("Rise", &c.Rise, 2)
	count("Fall", &c.Fall, 3)
	count("Concurrent", &c.Concurrent, 16)
	if c.Status == nil {
		c.Status = func(code int) bool { return code >= 200 && code < 400 }
	}
}

// probeAll probes the members until ctx ends.
func (b *Balancer) probeAll(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, max(1, b.cfg.Probe.Concurrent))
	ended := make(chan struct{}, 1) // a probe has: its backend's next one may be due soon
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ended:
		case <-timer.C:
		}
		due, next := b.dueProbes()
		for i, e := range due {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				b.notProbed(due[i:])
				return
			}
			wg.Go(func() {
				defer func() {
					<-slots
					select {
					case ended <- struct{}{}:
					default:
					}
				}()
				b.probe(ctx, e)
			})
		}
		timer.Reset(next)
	}
}

// dueProbes returns the members that are to be probed now, and how long until
// it is worth looking again.
func (b *Balancer) dueProbes() (due []*Endpoint, next time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	at := now + time.Second // members may join
	for _, e := range b.members {
		switch {
		case e.probing || e.backend.Load().Drain:
		case e.probeAt <= now:
			e.probing = true
			due = append(due, e)
		default:
			at = min(at, e.probeAt)
		}
	}
	return due, max(at-now, time.Millisecond)
}

// notProbed puts back what dueProbes returned.
func (b *Balancer) notProbed(due []*Endpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range due {
		e.probing = false
	}
}

// probe asks e once.
func (b *Balancer) probe(ctx context.Context, e *Endpoint) {
	b.warmUp(ctx, e)
	cfg := &b.cfg.Probe
	if !cfg.on() {
		b.mu.Lock()
		e.probing, e.probeAt = false, forever
		b.mu.Unlock()
		return
	}
	began := b.now()
	tctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	err := errors.New("the check ended its goroutine")
	defer func() {
		if tctx.Err() != nil && ctx.Err() == nil && err != nil {
			err = fmt.Errorf("no answer within %v", cfg.Timeout)
		}
		b.probed(ctx, e, began, err)
	}()
	err = b.checkOnce(tctx, e)
}

// probed draws the conclusion from a probe that ended with err.
func (b *Balancer) probed(ctx context.Context, e *Endpoint, began time.Duration, err error) {
	cfg := &b.cfg.Probe
	now := b.now()
	if err != nil && ctx.Err() != nil {
		b.mu.Lock()
		e.probing = false
		b.mu.Unlock()
		return // we are shutting down, not the backend
	}
	passed := 0
	if err == nil {
		passed = 1
	}
	b.probes[passed].Add(1)
	b.probeTime.add(now - began)

	b.mu.Lock()
	e.probing = false
	every := cfg.Every
	if err != nil {
		every = cfg.Failing
	}
	e.probeAt = now + b.vary(every, 0.1)
	b.conclude(e, now, err)
	b.rebuild(now, false)
	b.mu.Unlock()
	b.tell()
}

// conclude is called with b.mu held.
func (b *Balancer) conclude(e *Endpoint, now time.Duration, err error) {
	if err != nil {
		e.probeWhy = "probe: " + err.Error()
	}
	down := err != nil
	if !e.probed {
		e.probed, e.probeDown = true, down
		return
	}
	if down == e.probeDown {
		e.probeStreak = 0
	} else {
		e.probeStreak++
		need := b.cfg.Probe.Rise
		if down {
			need = b.cfg.Probe.Fall
		}
		if e.probeStreak >= need {
			e.probeStreak, e.probeDown = 0, down
			if !down {
				e.startWarm(now, b.cfg.SlowStart)
				e.outUntil = min(e.outUntil, now) // it was down, perhaps restarted: its record is another's
			}
		}
	}
	if !down && !e.probeDown {
		// It works again: it need not wait out its time to be tried. The trial
		// is still made by a request, since a health page answers for less.
		if e.out && e.outUntil > now && now-(e.outUntil-e.outFor) > e.outFor/4 {
			e.outUntil = now
		}
		e.drainedUntil = min(e.drainedUntil, now)
	}
}

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}
