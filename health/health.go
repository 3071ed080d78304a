// Package health answers whether a service should run and whether it should
// be sent requests, stops it without losing any, and shows what it is doing.
//
//	h := health.MustNew(health.Config{Checks: map[string]health.Check{
//		"db":    {Probe: db.PingContext},
//		"redis": {Probe: pingRedis, Optional: true},
//	}})
//	mux.Handle("/metrics", health.Metrics(h, limiter, cache))
//	mux.Handle("/-/", health.Dashboard(h, limiter, cache))
//
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	defer stop()
//	err := h.ListenAndServe(ctx, &http.Server{Addr: ":8080", Handler: h.Handler(mux)})
//
// [Checker.Handler] answers /livez, /readyz and /startupz, so put it outermost,
// before anything that could limit, shed or cache them.
//
// # How it decides
//
// Checks run in the background, on their own schedule, with at most one call of
// each in flight: a probe reads the last answer and cannot cause a check. What
// cannot be trusted is a failure: a check that hangs, panics, or has no fresh
// result. The first result counts at once; after that it takes Check.Fall
// failures in a row to fail, and Check.Rise passes to pass.
//
// /livez fails only for what a restart cures: nothing, unless a check is put
// there (Check.Groups) or comes there in time (Check.EscalateAfter). /readyz
// fails while a check of this process fails, but not for what all replicas share
// (Check.Shared), or they would all go at once, nor for what is Optional.
// /startupz fails until every check of it has passed.
//
// When ctx ends, [Checker.ListenAndServe] first answers "not ready" while it
// goes on serving, so that balancers take the process out, and only then closes:
// see [Drain]. Responses say Spillway-Draining: 1 meanwhile, which package
// balancer takes at its word.
//
// # Defaults, and why
//
//   - A check every 10 seconds, every second while it fails, within 2 seconds,
//     and three failures in a row: one blip is no outage, and what is back is
//     soon seen.
//   - Draining takes 5 seconds of serving on, 15 for what is in flight and 5 for
//     hooks: that fits into the 30 that Kubernetes grants. [New] refuses a Drain
//     that does not fit into its Grace.
//   - The public answers name no check and hold no error text, since those of
//     drivers name hosts and users: see Config.Authorize and Config.ShowErrors.
//
// # What it costs
//
// A probe costs about a hundred nanoseconds and does not allocate. Any other
// request costs one small allocation and two readings of the clock (go test
// -bench . ./health). While Run or Serve run there is one goroutine per check,
// and one per call in flight. [Metrics] and [Dashboard] read their sources when
// somebody looks, each in a goroutine that ends with the reading.
//
// # How it fails
//
// A Probe that ignores its context is counted as failing and not called again
// until it has returned, so it costs one goroutine. A hook that panics is counted
// and otherwise ignored; one that hangs while draining is left behind after its
// time. A second signal ends draining at once, with [ErrForced]. A [Source] that
// panics loses its own lines of a page, and no others; so does one that does not
// answer within three seconds, which costs a goroutine until it does.
//
// # What it does not do
//
// It does not restart anything, call other services about its findings, or log:
// see Config.OnChange.
package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config configures a [Checker]. The zero value of every field is its default.
type Config struct {
	// Name labels the metrics of this Checker; default "default".
	Name string

	// Checks are what the service needs, by name. A name has letters, digits,
	// '.', '_' and '-', at most 64 of them, and is not "live", "ready",
	// "startup" or "phase". More can be added with [Checker.Register].
	Checks map[string]Check

	// Drain says how Serve stops.
	Drain Drain

	// Service, Version and Release are shown to the authorised as serviceId,
	// version and releaseId (draft-inadarei-api-health-check-06, section 3).
	// Empty ones are left out.
	Service, Version, Release string

	// Authorize reports whether a request may see the verbose and the
	// single-check forms of the probes, which name the checks. Nil means that
	// nobody may. If it panics, the answer is no.
	Authorize func(*http.Request) bool

	// ShowErrors puts the error texts of checks where people look: the
	// verbose forms, Changes, Conditions and with them the dashboard. The
	// texts of drivers tend to hold hosts and user names, so by default those
	// show words such as "error" and "timeout", and the text given to
	// [Public]. The public forms never hold either.
	ShowErrors bool

	// OnChange is called after the status of a check or of a group changes
	// and at each phase of draining, one at a time and in order, without
	// locks held. It should not block: the check that caused the change waits
	// for it, as does a request that Observe watches, and draining does for a
	// second. What changes meanwhile is told after; beyond 4096 changes it is
	// not told but counted in Stats.HookMissed. If it panics, that is counted
	// and otherwise ignored.
	OnChange func(Change)
}

// A Checker runs checks, answers probes and drains. It is safe for concurrent
// use.
type Checker struct {
	cfg   Config
	epoch time.Time // when New was called; times in atomics count from it

	snap atomic.Pointer[snapshot]

	// What requests count. See handler.go and collect.go.
	phase       atomic.Int32
	lastArrival atomic.Int64 // nanoseconds since epoch; kept while draining only
	idle        chan struct{}
	draining    chan struct{} // closed when draining starts
	probes      [groupCount]probeCounts
	aborted     atomic.Uint64
	servers     atomic.Int32 // calls of Serve that have not stopped
	hookPanics  atomic.Uint64
	hookMissed  atomic.Uint64
	served      served

	// mu protects what follows. No code of the user is called while it is
	// held.
	mu          sync.Mutex
	checks      []*check // in the order of their names
	started     bool     // for good
	maintenance string   // why, if on
	inMaint     bool
	groups      [groupCount]groupState
	ring        ring
	queue       []Change // for OnChange
	delivering  bool
	running     bool            // whether Run runs, or waits for what it has begun
	runCtx      context.Context // of Run, until it ends
	loops       *sync.WaitGroup // the goroutines of Run
	samplers    []func(time.Time)
}

// New returns a Checker, or an error that names every field of cfg that is
// not valid. Until [Checker.Run], [Checker.Serve] or [Checker.ListenAndServe]
// have run each check once, the service is not ready.
func New(cfg Config) (*Checker, error) {
	var errs []error
	if cfg.Name == "" {
		cfg.Name = "default"
	}
	h := &Checker{
		cfg:      cfg,
		epoch:    time.Now(),
		idle:     make(chan struct{}, 1),
		draining: make(chan struct{}),
	}
	errs = append(errs, h.cfg.Drain.validate()...)
	names := make([]string, 0, len(cfg.Checks))
	for name := range cfg.Checks {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c, err := newCheck(fmt.Sprintf("Config.Checks[%q]", name), name, cfg.Checks[name], h.epoch)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		h.checks = append(h.checks, c)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	h.cfg.Checks = nil // the caller's map is not ours to keep
	h.renderLocked(h.epoch)
	return h, nil
}

// MustNew is like [New] but panics if cfg is not valid. It is for
// configuration that is written in the source.
func MustNew(cfg Config) *Checker {
	h, err := New(cfg)
	if err != nil {
		panic(err)
	}
	return h
}

// Register adds a check while the service runs. It returns an error if c is
// not valid or there is a check of that name. The check is run soon after,
// and does not count before its first result.
func (h *Checker) Register(name string, c Check) error {
	ch, err := newCheck(fmt.Sprintf("Register(%q)", name), name, c, time.Now())
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	at, found := slices.BinarySearchFunc(h.checks, name, (*check).compare)
	if found {
		return fmt.Errorf("health: Register(%q): there is a check of that name", name)
	}
	h.checks = slices.Insert(h.checks, at, ch)
	if h.runCtx != nil && h.runCtx.Err() == nil {
		h.startLocked(ch)
	}
	h.renderLocked(time.Now())
	return nil
}

// Unregister removes a check; it does nothing if there is none of that name.
func (h *Checker) Unregister(name string) {
	h.mu.Lock()
	if at, found := slices.BinarySearchFunc(h.checks, name, (*check).compare); found {
		close(h.checks[at].stop)
		h.checks[at].gone = true
		h.checks = slices.Delete(h.checks, at, at+1)
		h.renderLocked(time.Now())
	}
	h.mu.Unlock()
	h.deliver()
}

// SetMaintenance makes the service not ready while on, with why as a note for
// the authorised; it stays alive and goes on serving.
func (h *Checker) SetMaintenance(on bool, why string) {
	h.mu.Lock()
	h.inMaint, h.maintenance = on, why
	h.renderLocked(time.Now())
	h.mu.Unlock()
	h.deliver()
}

// Ready reports whether the service should be sent requests. It is one atomic
// load.
func (h *Checker) Ready() bool { return h.Status(Ready).ok() }

// Status returns the status of one group: [Live], [Ready] or [Startup]. It is
// one atomic load.
func (h *Checker) Status(g Group) Status {
	if i, ok := g.index(); ok {
		return h.load().answers[i].status
	}
	return Unknown
}
