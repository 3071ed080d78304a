// Package breaker stops calling what is failing, and finds out by itself when
// it works again.
//
// A [Breaker] counts how recent calls ended. When too many of them failed or
// were slow it opens: calls are refused at once, until a few probes succeed.
//
//	b := breaker.MustNew(breaker.Config{Name: "inventory"})
//	client := &http.Client{Transport: b.Transport(nil)} // one circuit per host
//	mux.Handle("/stock", b.Handler(stock))              // counts the statuses that stock answers with
//	price, err := breaker.Do(ctx, b, fetchPrice)        // any other call
//
// A refusal is an [*OpenError]: it names the breaker, the reason, and when the
// next probe may go out. To [errors.Is] it is [ErrOpen]. A handler answers 503
// with Retry-After instead.
//
// # How it decides
//
// It opens when, among the calls that ended within [Config.Window], too large a
// share failed or was slow, or when too many failed in a row. A call that is
// still running past the slow mark counts as slow already: a dependency that
// hangs opens the circuit before its calls time out. Calls that run are never
// part of the ratio otherwise.
//
// What a failure is, [DefaultJudge] says, or a Judge of your own: an error, a
// status of 500 and above, a body that breaks off, a deadline that passed, a
// panic. A call that its own caller has cancelled counts as nothing.
//
// An open circuit refuses until its time is over. Then it is half-open: it lets
// probes through, one at a time, and closes when enough have succeeded. A probe
// that fails opens it again, for twice as long. So does one that hangs, whose
// goroutine ended, or whose done was forgotten, once its lease is over: nothing
// can keep a circuit half-open. An upstream that asks to wait, with Retry-After,
// is not probed before.
//
// # Defaults, and why
//
//   - Half of at least 20 calls in 10 seconds. Fewer calls are too small a sample
//     for a ratio; a service with little traffic sets ConsecutiveFailures too.
//   - Slow is 10 seconds, because no one mark suits every dependency. Set
//     SlowCall to what your callers would still put up with: it opens the circuit
//     on a dependency that is stuck rather than down.
//   - Open for 5 seconds, up to a minute, shortened at random by up to a fifth, so
//     that a fleet doesn't probe in step.
//   - Three probes, one at a time: one good answer may be luck, and what has just
//     come back can't take many. With Ramp, traffic then comes back by and by.
//   - One circuit per host in a Transport, in a Handler one for all. See
//     [Config.Key] and [Breaker.For] for others. At most MaxKeys are held.
//
// # What it costs
//
// A call that is let through costs two readings of the monotonic clock and four
// atomic additions, about 0.6 of gobreaker's own call; without a slow mark, one
// reading, and a third of it. [Do] allocates nothing, [Breaker.Allow] the
// function that it returns, and [Breaker.Handler] and [Breaker.Transport] one
// small value each. A refusal costs half of gobreaker's, and allocates nothing.
// A circuit takes about 1.4 KB. No goroutine runs, except [Breaker.Run] if you
// start it. See examples/compare for the figures.
//
// # How it is made, and how it fails
//
// The state machine is github.com/sony/gobreaker/v2 with its rolling window. It
// is told about calls that have ended, never about calls that run, and of the
// successes only of those that can change its state; the others are counted
// beside it, in the same steps of time, and it asks for their number when it
// decides. A ring of calls in flight finds those that are slow already, and one
// atomic word says whether calls pass. No lock is held while code of yours
// runs, hooks may call the Breaker, and a hook that panics is counted.
//
// A Store that shares openings with a fleet is only asked by Run. When it is
// dead or slow, every process decides for itself, and [Breaker.Conditions] says
// so.
//
// # What it does not do
//
// It does not retry: that is package balancer, or a loop of yours, which stops at
// [ErrOpen]. It does not time calls out, and does not limit how many run at once:
// that is package degrade. The state is not kept when the process ends.
package breaker

import (
	"sync"
	"sync/atomic"
	"time"
)

// A State says what a Breaker does with a call.
type State uint8

// The states of a Breaker.
const (
	// Closed lets calls through. It is the normal state.
	Closed State = iota

	// Recovering lets a growing share of the calls through, after probes have
	// succeeded. It exists only if Config.Ramp is set.
	Recovering

	// HalfOpen lets a few probes through, to find out whether calls succeed
	// again, and refuses other calls.
	HalfOpen

	// Open refuses calls.
	Open

	numStates = iota
)

// String returns "closed", "recovering", "half-open" or "open".
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Recovering:
		return "recovering"
	case HalfOpen:
		return "half-open"
	case Open:
		return "open"
	}
	return "unknown"
}

// A Breaker guards a dependency. It has one circuit of its own, for [Do],
// [Breaker.Allow] and [Breaker.Handler], and one for each key, which is a host
// unless Config.Key says otherwise: see [Breaker.For]. It is safe for
// concurrent use.
type Breaker struct {
	// Read by every call, and hardly ever written: on a cache line of its own.
	fam     *family
	key     string // "" for the circuit of the Breaker that New returned
	cur     atomic.Pointer[period]
	force   atomic.Pointer[force] // nil unless forced; written with mu held
	home    *shard                // nil for the Breaker that New returned
	retired atomic.Bool           // dropped from its shard; its counts go to home.retired
	_       [8]byte

	counts [numOutcomes]atomic.Uint64

	used int64 // when it was last looked up; guarded by shard.mu

	mu     sync.Mutex // guards what follows, and the fields of period that say so
	shown  State      // as last reported
	level  int        // how often the open time has doubled
	closed int64      // when the circuit last closed, on the family's clock
	notice notice     // what the upstream asked for last
	last   *LastFailure
}

// family is what the circuits of one Breaker share.
type family struct {
	cfg  Config
	base time.Time // the clock's zero
	root *Breaker
	keys *table

	permits sync.Pool    // of *permit
	forced  atomic.Int64 // circuits that are forced open or closed
	dryRun  atomic.Bool
	inState [numStates]atomic.Int64
	moves   [numStates][numStates]atomic.Uint64
	evicted atomic.Uint64
	events  events
	share   share
}

// now reads the family's clock, in nanoseconds. It is monotonic, and costs half
// of what time.Now costs.
func (f *family) now() int64 { return int64(time.Since(f.base)) }

// at returns the wall-clock time of a reading of the family's clock. It goes by
// the wall clock of today: since the clock's zero that may have been set.
func (f *family) at(t int64) time.Time { return time.Now().Add(time.Duration(t - f.now())) }

// New returns a closed Breaker, or an error that names every field of cfg that
// is not valid.
func New(cfg Config) (*Breaker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	f := &family{cfg: cfg, base: time.Now()}
	f.dryRun.Store(cfg.DryRun)
	f.keys = newTable(cfg.MaxKeys)
	f.root = new(Breaker)
	f.root.init(f, "")
	f.share.init()
	return f.root, nil
}

// MustNew is like [New] but panics if cfg is not valid.
func MustNew(cfg Config) *Breaker {
	b, err := New(cfg)
	if err != nil {
		panic(err)
	}
	return b
}

func (b *Breaker) init(f *family, key string) {
	b.fam, b.key, b.closed = f, key, -int64(f.cfg.Window)
	b.cur.Store(newPeriod(f, f.cfg.OpenFor))
	f.inState[Closed].Add(1)
}

// For returns the circuit of one key, as a Breaker of its own: its State,
// Stats, Reset and forcing are about that key alone. It is made on first use.
//
//	breaker.Do(ctx, b.For("tenant-42"), fetch)
//	b.For("https://api.example.com").ForceOpen(time.Hour, "moving to v2")
//
// The key that [Breaker.Transport] uses by default is scheme://host, with the
// port unless it is the scheme's own. For("") is the Breaker that New returned.
//
// Call For again rather than keep what it returns: a circuit that is idle may
// be forgotten, and then what was kept is no longer the one that others use.
func (b *Breaker) For(key string) *Breaker {
	return b.fam.find(key, b.fam.now())
}

// Name returns Config.Name.
func (b *Breaker) Name() string { return b.fam.cfg.Name }

// State returns the worst state of the Breaker's circuits: Open if any of them
// is open. Of a Breaker that [Breaker.For] returned it is that circuit's state.
//
// An open circuit whose time is over stays Open until a call comes to probe it.
func (b *Breaker) State() State {
	f := b.fam
	if f.forced.Load() != 0 {
		now := f.now()
		if fo := b.forcedNow(now); fo != nil {
			return fo.state
		}
		for c := range b.circuits() { // nobody may have called them since
			c.releaseExpired(now)
		}
	}
	if b != f.root {
		return b.shownNow()
	}
	for s := State(numStates - 1); s > Closed; s-- {
		if f.inState[s].Load() > 0 {
			return s
		}
	}
	return Closed
}

func (b *Breaker) shownNow() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.shown
}

// outcome is what a call is counted as.
type outcome int

const (
	succeeded outcome = iota
	slow              // succeeded, but took longer than Config.SlowCall
	failed
	ignored
	refused
	spared // would have been refused, if not for DryRun or ForceClosed
	opened // not a call: how often the circuit opened
	numOutcomes
)

func (b *Breaker) count(o outcome) {
	b.counts[o].Add(1)
	if b.retired.Load() { // rare: a call that outlived its circuit
		b.home.retired[o].Add(b.counts[o].Swap(0))
	}
}

// find returns the circuit of a key.
func (f *family) find(key string, now int64) *Breaker {
	if key == "" {
		return f.root
	}
	return f.lookup(parseKey(key), now)
}
