package ratelimit

import (
	"fmt"
	"net/http"
	"time"
)

// Config configures a [Limiter]. Rate is required; the zero value of every
// other field is its default.
type Config struct {
	// Name labels the limiter's metrics and is the name of its policy in
	// header fields. Printable ASCII without quote and backslash. Default
	// "default".
	Name string

	// Rate is what each key is held to.
	Rate Rate

	// Also are further rates that hold for each key at the same time, three
	// at most: 10 per second and 5000 per day. A request passes all of them
	// or none, and one that is refused spends nothing.
	Also []Rate

	// Groups are further buckets that a request must pass at the same time,
	// four at most, each with a key of its own: a looser limit for a /48
	// beside the one for each /64, or one for the whole service. They hold in
	// Handler and Decide, where there is a request to find their keys in.
	Groups []Group

	// Key names the bucket that a request draws from. Nil means ClientIP():
	// the TCP peer.
	Key KeyFunc

	// RateOf gives the rate for a request, in place of Rate: by plan, by
	// route. Its zero value means Rate; one that is not valid is counted as
	// an error, and means Rate too.
	//
	// A debt is kept as the time until it is paid off, whatever the rate: who
	// changes from 100 per minute to 1000 per minute with an empty bucket
	// starts with an empty bucket that fills ten times as fast. Forget lets
	// such a key start afresh.
	RateOf func(*http.Request) Rate

	// Cost says how many tokens a request takes. Nil means 1. Zero passes
	// freely. A negative one is counted as an error and means 1. A request
	// that costs more than Burst is refused for good, without a Retry-After.
	Cost func(*http.Request) int

	// DryRun decides, counts and calls OnRefuse, but never refuses, and sends
	// no header fields.
	DryRun bool

	// MaxKeys bounds the memory: how many buckets may be in debt at once,
	// for the keys and for each of Groups. See the package comment for what
	// happens beyond. Default 1048576, for which at most 26 MB are used, as
	// they are needed.
	MaxKeys int

	// Fallback answers the requests that are refused, with Retry-After and
	// the other header fields already set; the status is its to choose. Nil
	// means 429 with a line of text, or problem+json if Accept asks for it.
	Fallback http.Handler

	// Headers says which header fields answers carry.
	Headers Headers

	// Settle says what a request has cost in the end, by its answer: 0 for a
	// login that succeeded, the tokens that a model used. The difference to
	// Cost is charged or given back, as by Charge; a negative cost is counted
	// as an error and changes nothing. A request that panicked, or whose
	// client left before the end, may be charged more but gets nothing back:
	// whoever could get tokens back by leaving would have no limit.
	Settle func(r *http.Request, o Outcome) int

	// MaxWait is how long a request may wait for its turn, in order, where it
	// would otherwise be refused at once. Zero means that Handler, Allow and
	// Decide do not wait, and that Transport waits as long as the request's
	// context allows. In a dry run nothing but Transport waits.
	MaxWait time.Duration

	// Store holds the buckets where several processes share them, such as
	// [NewRedisStore]. Nil means in this process.
	Store Store

	// StoreTimeout is how long a decision may wait for the Store. One that
	// waited in vain, or got an error, makes it an outage: from then on
	// decisions do not wait, and every 100 ms one of them has the Store
	// asked in the background whether it answers again. One whose own
	// deadline left the Store less than an eighth of that has it asked first.
	// Default 25ms.
	StoreTimeout time.Duration

	// Outage says how to decide meanwhile. Default DecideLocally.
	Outage Outage

	// LocalShare is the part of the rates and bursts that this process grants
	// by itself in an outage: with n processes, 1/n keeps the sum. More than
	// 0, at most 1. Default 0.5.
	LocalShare float64

	// Lease is how many tokens to take from the Store at once, for a key that
	// is asked for, to decide the next requests without it; and refusals are
	// remembered until they would end. Near the limit less is taken. Each
	// process may then hold back up to so many tokens of a key and use them
	// later: the most that n processes admit is n*Lease more than the bound.
	// Default 0: every decision asks the Store.
	Lease int

	// MaxPause bounds how long Transport obeys an upstream's answer. Default
	// a minute; negative means that it pays no heed to answers.
	MaxPause time.Duration

	// OnRefuse is called for each request that is refused (in a dry run, that
	// would have been), on its goroutine, before the answer. If it panics, that is
	// counted and the request goes on.
	OnRefuse func(r *http.Request, key string, d Decision)
}

// A Group is a wider bucket that requests draw from beside their own.
type Group struct {
	Name string  // of the policy, no other's. Required, as for Config.Name
	Key  KeyFunc // names the group of a request. Required
	Rate Rate    // what each group is held to. Required
}

// check returns an error for each field that is not valid by itself, and fills
// in the defaults.
func (cfg *Config) check() (errs []error) {
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("ratelimit: Config."+format, args...))
	}
	if cfg.Name == "" {
		cfg.Name = "default"
	}
	if !goodName(cfg.Name) {
		bad("Name is %q, must be printable ASCII without quote and backslash", cfg.Name)
	}
	if len(cfg.Also) > maxAlso {
		bad("Also has %d rates, must have at most %d", len(cfg.Also), maxAlso)
	}
	if len(cfg.Groups) > maxGroups {
		bad("Groups has %d groups, must have at most %d", len(cfg.Groups), maxGroups)
	}
	taken := map[string]bool{cfg.Name: true}
	for i := range cfg.Also {
		taken[alsoName(cfg.Name, i+1, cfg.Also)] = true
	}
	for i, g := range cfg.Groups {
		switch {
		case !goodName(g.Name) || g.Name == "":
			bad("Groups[%d].Name is %q, must be printable ASCII without quote and backslash", i, g.Name)
		case taken[g.Name]: // in a Store, they would share buckets where their keys are the same
			bad("Groups[%d].Name is %q, must not be that of another policy", i, g.Name)
		}
		taken[g.Name] = true
		if g.Key == nil {
			bad("Groups[%d].Key is nil, must name the group of a request", i)
		}
	}
	if cfg.MaxKeys < 0 {
		bad("MaxKeys is %d, must not be negative", cfg.MaxKeys)
	}
	if cfg.MaxKeys > 1<<30 {
		bad("MaxKeys is %d, must be at most %d", cfg.MaxKeys, 1<<30)
	}
	if cfg.MaxWait < 0 {
		bad("MaxWait is %v, must not be negative", cfg.MaxWait)
	}
	if cfg.Headers < StandardHeaders || cfg.Headers > RetryAfterOnly {
		bad("Headers is %d, must be one of the constants", cfg.Headers)
	}
	if cfg.Outage < DecideLocally || cfg.Outage > RefuseAll {
		bad("Outage is %d, must be one of the constants", cfg.Outage)
	}
	if cfg.StoreTimeout < 0 {
		bad("StoreTimeout is %v, must not be negative", cfg.StoreTimeout)
	}
	if !(cfg.LocalShare >= 0 && cfg.LocalShare <= 1) { // NaN is not
		bad("LocalShare is %v, must be more than 0 and at most 1", cfg.LocalShare)
		cfg.LocalShare = 0
	}
	if cfg.Lease < 0 {
		bad("Lease is %d, must not be negative", cfg.Lease)
	}
	if cfg.Lease > 0 && cfg.Store == nil {
		bad("Lease is %d, must be 0 without a Store", cfg.Lease)
	}
	if cfg.StoreTimeout == 0 {
		cfg.StoreTimeout = 25 * time.Millisecond
	}
	if cfg.LocalShare == 0 {
		cfg.LocalShare = 0.5
	}
	if cfg.MaxPause == 0 {
		cfg.MaxPause = time.Minute
	}
	if cfg.MaxKeys == 0 {
		cfg.MaxKeys = 1 << 20
	}
	if cfg.Key == nil {
		cfg.Key = ClientIP()
	}
	return errs
}
