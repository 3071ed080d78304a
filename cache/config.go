package cache

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"
)

// Config configures a [Cache]. The zero value of every field is its default.
type Config struct {
	// Name labels the metrics; default "default".
	Name string

	// StatusName is what the cache calls itself in Cache-Status. Empty means
	// Name if that is set, and else "Spillway".
	StatusName string

	// NoCacheStatus leaves Cache-Status out.
	NoCacheStatus bool

	// MaxBytes bounds the memory that stored responses take, with headers,
	// keys and index; at least 64 KiB. Default 64 MiB. Responses on their way
	// may take as much as a quarter of it besides, or twice MaxBodyBytes if
	// that is more; beyond that, 256 KiB for each whose client is slow.
	MaxBytes int64

	// MaxBodyBytes is the largest body that is kept, at most MaxBytes. Larger
	// ones pass through without being held in memory. Default a sixteenth of
	// MaxBytes.
	MaxBodyBytes int64

	// MaxVariants is how many responses to one URL are kept that differ by
	// what their Vary names. Default 16.
	MaxVariants int

	// TTL is how long a response is fresh that does not say so itself, and
	// whose status may be kept without saying so (200, 404 and others, see RFC
	// 9110 §15.1). It goes before the guess from Last-Modified. Zero means
	// that only this guess counts. TTLOf, if set, decides for each such
	// response of any status; zero or less leaves it alone. In a shared cache
	// neither counts for the answer to a request with a cookie, which may be a
	// page for one user, nor does the guess: it is not kept unless it says how
	// long it is fresh, or public.
	TTL   time.Duration
	TTLOf func(status int, header http.Header) time.Duration

	// StaleIfError and StaleWhileRevalidate are how long past its life a
	// response may be used when the handler answers 500, 502, 503 or 504, and
	// while a new one is fetched in the background (RFC 5861). A longer time
	// that the response itself gives counts. Responses with no-cache,
	// must-revalidate, proxy-revalidate or s-maxage are not affected (RFC 9111
	// §4.2.4). Zero means as the response says, but that one which does not
	// mention stale-if-error stands in for up to an hour when the origin can't
	// be reached: after 502, 503 or 504 (RFC 9111 §4.2.4, §4.3.3). A negative
	// StaleIfError means no more than the response says.
	StaleIfError, StaleWhileRevalidate time.Duration

	// Targets lists the header fields that go before Cache-Control, the most
	// specific first (RFC 9213); only a shared cache reads them. Nil means
	// CDN-Cache-Control.
	Targets []string

	// Key says what tells one response from another.
	Key KeyConfig

	// Normalize maps the names of request header fields to what makes their
	// values comparable when a Vary names them. Accept, Accept-Charset,
	// Accept-Encoding and Accept-Language have one already: case and the order
	// of equally wanted members make no difference.
	Normalize map[string]Normalizer

	// TagHeaders lists the response header fields that hold tags for [Tag],
	// separated by spaces or commas. Nil means Cache-Tag and Surrogate-Key.
	TagHeaders []string

	// SetCookie says what becomes of responses with Set-Cookie. The zero value
	// does not store them.
	SetCookie CookiePolicy

	// Shared makes Transport a shared cache, for a gateway whose users have
	// one client between them. Handler always is one.
	Shared bool

	// IgnoreRequestDirectives makes the Cache-Control and Pragma of requests
	// mean nothing, so that clients cannot reload past the cache.
	IgnoreRequestDirectives bool

	// Bypass says which GET and HEAD requests must not touch the cache. Nil
	// means none.
	Bypass func(*http.Request) bool

	// NoCollapse makes every request for what is not stored call the handler,
	// instead of waiting for the answer to another.
	NoCollapse bool

	// HitForMiss is for how long requests do not wait for one another after an
	// answer that could not be shared. Default 10 seconds; negative means never.
	HitForMiss time.Duration

	// FillTimeout is how long the handler may take until the header, when it
	// is called for several requests; its context then ends. If it does not
	// heed that, those who wait get what is stale or 504, a moment later. A
	// revalidation in the background has as long for all of its response.
	// Default 30 seconds; negative means no limit.
	FillTimeout time.Duration

	// Store is a second tier, which processes share. It is read when memory
	// has nothing, and written in the background. Nil means none. Every call
	// ends after StoreTimeout (default 50 ms); a store that fails is left
	// alone for seconds at a time, and then tried with one call. StorePrefix
	// begins all keys in it; default "spillway:cache:", Name and a colon. What
	// was purged is told by the time of day: the clocks of the processes should
	// agree to a second, and one that is set back may let others take from the
	// store what it has put there before.
	Store        Store
	StoreTimeout time.Duration
	StorePrefix  string

	// OnResult is called after each request with how it was answered, on the
	// goroutine that answers; with Transport that is before the body, because
	// the request is the caller's again after it. It must not keep the request.
	OnResult func(*http.Request, Result)
}

// A CookiePolicy says what becomes of responses with Set-Cookie.
type CookiePolicy int

// The cookie policies of Config.SetCookie.
const (
	CookieRefuse CookiePolicy = iota // in a shared cache, not stored
	CookieStrip                      // stored without Set-Cookie
	CookieKeep                       // stored with it: every user gets the same cookie
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
