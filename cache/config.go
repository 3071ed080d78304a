package cache

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"
)

// validate returns an error that names every field that is not valid.
func (cfg *Config) validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("cache: Config."+field+" "+format, args...))
	}
	if cfg.MaxBytes < 0 || cfg.MaxBytes > 0 && cfg.MaxBytes < 64<<10 {
		bad("MaxBytes", "is %d, must be 0 or at least 65536", cfg.MaxBytes)
	}
	if cfg.MaxBytes > math.MaxInt64/4 {
		bad("MaxBytes", "is %d, must be at most %d", cfg.MaxBytes, int64(math.MaxInt64/4))
	}
	limit := cfg.MaxBytes
	if limit <= 0 {
		limit = 64 << 20
	}
	if cfg.MaxBodyBytes < 0 || cfg.MaxBodyBytes > limit {
		bad("MaxBodyBytes", "is %d, must not be negative or more than MaxBytes (%d)", cfg.MaxBodyBytes, limit)
	}
	if cfg.MaxVariants < 0 {
		bad("MaxVariants", "is %d, must not be negative", cfg.MaxVariants)
	}
	for _, d := range []struct {
		field string
		d     time.Duration
	}{{"TTL", cfg.TTL}, {"StaleWhileRevalidate", cfg.StaleWhileRevalidate}, {"StoreTimeout", cfg.StoreTimeout}} {
		if d.d < 0 {
			bad(d.field, "is %v, must not be negative", d.d)
		}
	}
	for _, l := range []struct {
		field string
		names []string
	}{{"Targets", cfg.Targets}, {"TagHeaders", cfg.TagHeaders}, {"Key.Headers", cfg.Key.Headers}} {
		for _, name := range l.names {
			if !isToken(name) {
				bad(l.field, "has %q, which is not a field name", name)
			}
		}
	}
	for name, f := range cfg.Normalize {
		if !isToken(name) || f == nil {
			bad("Normalize", "has %q, which must be a field name with a function", name)
		}
	}
	if cfg.SetCookie < CookieRefuse || cfg.SetCookie > CookieKeep {
		bad("SetCookie", "is %d, must be one of the constants", cfg.SetCookie)
	}
	return errors.Join(errs...)
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// canonical returns names in canonical form, or def if there are none.
func canonical(names []string, def ...string) []string {
	if names == nil {
		return def
	}
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = http.CanonicalHeaderKey(name)
	}
	return out
}
