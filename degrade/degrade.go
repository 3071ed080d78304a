// Package degrade keeps a service useful when it gets more work than it can do:
// it bends instead of breaking.
//
// A [Shedder] lets as many requests run at once as the service can use, lets a
// few more wait, and refuses the rest at the door, least important first:
//
//	shed := degrade.MustNew(degrade.Config{Priority: func(r *http.Request) degrade.Priority { … }})
//	http.ListenAndServe(":8080", shed.Handler(mux))
//
// A [Switch] leaves out what is dear while the pressure lasts, by itself or by
// hand:
//
//	sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{shed.Pressure}})
//	reviews := sw.Feature("reviews", degrade.Optional)
//	mux.Handle("/reviews", reviews.Handler(live, without))
//	http.ListenAndServe(":8080", shed.Handler(sw.Handler(mux)))
//
// # How it decides
//
// The limit is found by measuring, see [Config].Limit, and confirmed by the
// throughput before it is believed. A request waits only as long as there is a
// point in it, which is longer the less its priority has to be refused, and
// never longer than clients were seen to wait. A service that has just been
// started knows nothing and lets a first burst wait, for up to four seconds;
// nobody is refused for a wait below five milliseconds. The level of a switch
// rises after a second of pressure and falls when the pressure that is to be
// expected one level below is low.
//
// # Defaults, and why
//
//   - The limit and the wait are measured, because no number suits two services,
//     nor one service on two days.
//   - All requests are Normal, and nobody's word is taken for their priority or
//     for the time that is left: see [Config].Priority and Trust.
//   - A Switch is quick to protect, after a second above 0.95 of what can be done,
//     and slow to try again: after five seconds at which it expects less than
//     0.8, and twice as long each time that this was too soon.
//
// # What it costs
//
// Two readings of the clock and a handful of atomic operations per request, an
// eighth of a microsecond; a mutex while requests wait; no goroutine. A Normal
// request allocates nothing, one of another priority once, and so do
// [Shedder.Acquire] and [Switch.Handler]. A [TimeoutHeader] that is believed
// costs half a microsecond and five allocations, four of them for the timer that
// ends the context. A refusal costs less than a microsecond, a look at a feature
// nanoseconds (go test -bench . ./degrade).
//
// # How it fails
//
// Where two or three requests are all that can run at once, chance alone brings
// more together than can be told from an overload, and at 70 % of the capacity
// up to four in a thousand are refused; one that becomes slower while all slots
// are taken is noticed after a few dozen requests, which at ten a second are
// seconds. Requests that last a thousand times as long as the others, such as
// large files to clients that read slowly, keep their slots meanwhile. The limit
// makes room for them, up to 1024, but only as others complete: when they take
// all slots in one moment, the others are refused until one of them ends. Name
// them in LongLived, give them a Shedder of their own, or set MinLimit above
// their number, and have timeouts in the http.Server.
// A panic or the end of a handler's goroutine gives the slot back; a handler
// that never returns keeps it. A panic in a hook is counted.
//
// # What it does not do
//
// It does not coordinate with other processes; it knows nothing of what a
// request will cost before it has run; and it counts requests, not connections,
// of which a flood can exhaust memory before it is asked.
package degrade

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Config configures a [Shedder]. Every zero field is its default.
type Config struct {
	// Name labels its metrics; default "default".
	Name string

	// Limit is how many requests may run at once. Zero finds it out, beginning
	// with 8, and follows it. By Little's law the backend can use as many slots
	// as it completes requests per second times the seconds that one takes when
	// the backend is at ease. Both are measured, and taking slots away is a
	// trial, taken back when less gets done.
	Limit int
	// MinLimit and MaxLimit bound what is found; default 1 and 1048576.
	MinLimit, MaxLimit int

	// MaxWait bounds how long a request waits for its turn. Zero means as long
	// as is useful: in a burst up to 3.5 times what a request takes, or as long as
	// thirteen take one after another, or 30 ms; down to two thirds of what one
	// takes, or 5 ms, when most are refused. Negative: nobody waits.
	MaxWait time.Duration
	// MaxQueue bounds how many wait; default 10000. It bounds memory: MaxWait
	// does the deciding.
	MaxQueue int

	// Priority says how important a request is. Nil means that all are Normal.
	Priority func(*http.Request) Priority
	// Tenant says on whose behalf a request comes. While requests of one
	// priority wait, their tenants take turns, so that one who sends much does
	// not push out those who send little. Nil or "" means all are one.
	Tenant func(*http.Request) string
	// Trust says whose PriorityHeader and TimeoutHeader are believed. Nil:
	// nobody's. A priority that is believed comes before Priority. Fields that are
	// not believed are removed from the request that the handler behind sees, so
	// that a proxy does not pass them on.
	Trust func(*http.Request) bool
	// Exempt names requests that are always let through and not counted, such
	// as probes. Nil: none.
	Exempt func(*http.Request) bool
	// LongLived names requests that last for as long as their client likes.
	// They come in through the same door but give their slot back at once, so that
	// they neither use up the limit nor count as latency. Nil: those with an
	// Upgrade field or that accept text/event-stream. Any client can send these
	// and so run as many requests as it likes beside the limit: where clients are
	// not yours, name the paths that stream.
	LongLived func(*http.Request) bool

	// Throttle is how many requests Transport sends to a server per request that it
	// accepts, once it refuses; the rest fails here. Default 2, and at least one
	// a second is sent. Negative sends all.
	Throttle float64

	// Fallback answers the requests that are refused, with the header fields
	// already set. Nil: 503 in text/plain, or application/problem+json.
	Fallback http.Handler
	// DryRun decides and counts, but refuses nobody and lets nobody wait.
	DryRun bool
	// OnChange is called when refusing begins, one at a time and in order, without
	// locks held, by a request that is refused, so it should not block: what comes
	// while it does waits, and beyond 4096 changes is not told but counted in
	// Stats.HookMissed. A panic in it is recovered and counted in Stats.HookPanics.
	OnChange func(Change)
}

// A Change is something that became different, and why.
type Change struct {
	At   time.Time
	Name string // of the Shedder or Switch
	Text string // one sentence without a full stop
}

// A Shedder decides which requests run, which wait and which are refused. It is
// safe for concurrent use.
type Shedder struct {
	cfg   Config
	name  string
	epoch time.Time
	core  core
	seed  maphash.Seed
	idle  sync.Pool // *held

	counts    counts
	waits     waits
	streams   atomic.Int64
	hook      hook
	throttled atomic.Uint64
	lastShed  atomic.Int64 // when one was refused last
	shedding  atomic.Bool  // written under mu

	mu       sync.Mutex // protects what follows
	history  history
	shedFrom int64  // when refusing began
	refusals uint64 // before that
}

// New returns a Shedder, or an error that names every field of cfg that is not
// valid.
func New(cfg Config) (*Shedder, error) {
	var errs []error
	bad := func(field string, value any, rule string) {
		errs = append(errs, fmt.Errorf("degrade: Config.%s is %v, must be %s", field, value, rule))
	}
	if cfg.Limit < 0 || cfg.Limit > maxSlots {
		bad("Limit", cfg.Limit, fmt.Sprintf("0 (adaptive) to %d", maxSlots))
	}
	if cfg.MinLimit < 0 || cfg.MinLimit > maxSlots {
		bad("MinLimit", cfg.MinLimit, fmt.Sprintf("0 to %d", maxSlots))
	}
	if cfg.MaxLimit < 0 || cfg.MaxLimit > maxSlots {
		bad("MaxLimit", cfg.MaxLimit, fmt.Sprintf("0 to %d", maxSlots))
	}
	if cfg.MaxLimit > 0 && cfg.MinLimit > cfg.MaxLimit {
		bad("MinLimit", cfg.MinLimit, fmt.Sprintf("at most MaxLimit (%d)", cfg.MaxLimit))
	}
	if cfg.Limit > 0 && (cfg.MinLimit > 0 || cfg.MaxLimit > 0) {
		bad("Limit", cfg.Limit, "0 when MinLimit or MaxLimit is set")
	}
	if cfg.MaxQueue < 0 {
		bad("MaxQueue", cfg.MaxQueue, "0 (default) or more")
	}
	if cfg.Throttle != cfg.Throttle || cfg.Throttle > 0 && cfg.Throttle < 1 || cfg.Throttle > 1000 {
		bad("Throttle", cfg.Throttle, "0 (default), 1 to 1000, or negative (off)")
	}
	if cfg.Throttle == 0 {
		cfg.Throttle = 2
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s := &Shedder{cfg: cfg, name: cfg.Name, epoch: time.Now(), seed: maphash.MakeSeed()}
	s.hook.call = cfg.OnChange
	if s.name == "" {
		s.name = "default"
	}
	s.core.init(cfg)
	return s, nil
}

// MustNew is like [New] but panics if cfg is not valid.
func MustNew(cfg Config) *Shedder {
	s, err := New(cfg)
	if err != nil {
		panic(err)
	}
	return s
}

// now is the time that core counts in.
func (s *Shedder) now() int64 { return int64(time.Since(s.epoch)) }

// Acquire asks for a slot for work of priority p, and waits for it if that
// makes sense. The caller must call release when the work is done; further calls
// do nothing. err is a [*RefusedError] when there is no room, or ctx.Err() when
// ctx ended first, which counts as neither admitted nor refused. A deadline of
// ctx is heeded: what could not be done in time is refused at once. With
// [Config].DryRun err is nil.
func (s *Shedder) Acquire(ctx context.Context, p Priority) (release func(), err error) {
	tenant, _ := ctx.Value(tenantKey).(string)
	h, _ := s.idle.Get().(*held)
	if h == nil {
		h = new(held)
	}
	h.ticket = ticket{p: p.clamp()}
	if err := s.acquire(ctx, &h.ticket, tenant); err != nil {
		s.idle.Put(h)
		return nil, err
	}
	h.ctx = ctx
	use := h.use.Load()
	return func() {
		if !h.use.CompareAndSwap(use, use+1) {
			return // called before; h may be another's by now
		}
		t, ctx := h.ticket, h.ctx
		h.ctx = nil
		s.idle.Put(h)
		s.release(&t, ctx)
	}, nil
}

// A ticket is a slot that is held.
type ticket struct {
	came  int64 // when the request came
	start int64 // when it got the slot
	n     int   // how many were taken then
	p     Priority
}

// held is a ticket of Acquire. It is used again, so who gives it back must name
// the use.
type held struct {
	ticket
	ctx context.Context
	use atomic.Uint64
}

// release gives the slot of t back.
func (s *Shedder) release(t *ticket, ctx context.Context) {
	now := s.now()
	latency := now - t.start
	if ctx.Err() == context.Canceled {
		s.core.hungUp(now, now-t.came, latency)
		latency = -1 // how long it would have taken is not known
	}
	s.core.leave(now, latency, t.n)
}

// SetLimit replaces Config.Limit while serving: zero lets the limit adapt,
// between Config.MinLimit and MaxLimit. Requests that run are not disturbed.
func (s *Shedder) SetLimit(n int) error {
	if n < 0 || n > maxSlots {
		return fmt.Errorf("degrade: SetLimit: n is %d, must be 0 (adaptive) to %d", n, maxSlots)
	}
	s.core.fix(s.now(), n)
	return nil
}
