package ratelimit

import (
	"fmt"
	"time"
)

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
