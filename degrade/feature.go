package degrade

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// A Feature is something that a service can do without for a while. Its methods
// are safe for concurrent use; Needs and Keep are called once, before serving.
type Feature struct {
	sw   *Switch
	i    int
	name string
	off  Level

	needs func() bool // written before serving

	// Guarded by sw.mu.
	keep float64
	down bool // what needs said last
}

// Feature registers a feature that goes off at level off; [Optional] is the
// first. It panics if the name is empty, "level" or taken, or off is not
// between 1 and 9: both are mistakes in the source.
func (s *Switch) Feature(name string, off Level) *Feature {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" || name == "level" {
		panic(fmt.Sprintf("degrade: Feature: name is %q, must not be empty or \"level\"", name))
	}
	if off < 1 || off > maxLevel {
		panic(fmt.Sprintf("degrade: Feature: level of %q is %d, must be 1 to %d", name, int(off), maxLevel))
	}
	for _, f := range s.features {
		if f.name == name {
			panic(fmt.Sprintf("degrade: Feature: name is %q, must not be registered twice", name))
		}
	}
	f := &Feature{sw: s, i: len(s.features), name: name, off: off}
	s.features = append(s.features, f)
	s.publishLocked(time.Now())
	return f
}

// Lookup returns the feature of that name, or nil.
func (s *Switch) Lookup(name string) *Feature {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.features {
		if f.name == name {
			return f
		}
	}
	return nil
}

// Name returns the name.
func (f *Feature) Name() string { return f.name }

// Auto lets the pressure decide how many users keep a feature: see [Feature.Keep].
const Auto = -1

// Keep lets a share of users, 0 to 1, keep the feature at the level at which it
// goes off; from the next level on nobody has it. Who keeps it is decided by
// SwitchConfig.Key and stays the same. With [Auto] it is as many as the pressure
// allows: the share grows while the pressure is below the middle of
// SwitchConfig.Leave and Enter, shrinks while it is above Enter, and the level
// changes only when the share has come to its end. It returns f.
func (f *Feature) Keep(share float64) *Feature {
	f.sw.mu.Lock()
	defer f.sw.mu.Unlock()
	switch {
	case share < 0:
		f.keep = Auto
	case share >= 0:
		f.keep = min(share, 1)
	default:
		f.keep = 0 // NaN: nobody
	}
	f.sw.publishLocked(time.Now())
	return f
}

// Needs names what the feature can't do without, such as a health check, or a
// breaker by its Ready method: while up returns false, or panics, the feature is
// off, alone. up must become true again without the feature being used, as
// Ready does when a probe may go out. It is asked as often as the pressure, so
// it must be quick. It returns f.
func (f *Feature) Needs(up func() bool) *Feature {
	f.sw.mu.Lock()
	defer f.sw.mu.Unlock()
	f.needs = up
	return f
}

// Enabled reports whether the feature is on for everybody, at this moment. It
// costs nanoseconds. In a request that passed [Switch.Handler] prefer
// [Feature.EnabledFor], whose answer does not change while the request lasts
// and knows the user.
func (f *Feature) Enabled() bool {
	on := f.sw.now.Load().on
	return on[f.i].on
}

// EnabledFor reports whether the feature is on for the request that ctx belongs
// to, and if not, marks the answer as degraded.
func (f *Feature) EnabledFor(ctx context.Context) bool {
	p := f.sw.pinned(ctx)
	if p == nil || f.i >= len(p.sn.on) {
		return f.Enabled()
	}
	st := &p.sn.on[f.i]
	if st.on {
		return true
	}
	// Features differ, so that not the same users lose all of them.
	if st.share > 0 && place(f.name, p.m.name) < st.share || slices.Contains(st.keys, p.m.name) {
		return true
	}
	p.m.leave(f.name)
	return false
}

// Handler answers with live while the feature is on for the request, and with
// fallback otherwise: a cheaper page, or a [Static] one. Nil fallback answers 503
// with Retry-After, which a cache in front replaces by the stale answer that it
// still has, if that may be used (RFC 5861, section 4).
func (f *Feature) Handler(live, fallback http.Handler) http.Handler {
	if fallback == nil {
		fallback = http.HandlerFunc(off)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.EnabledFor(r.Context()) {
			live.ServeHTTP(w, r)
			return
		}
		if f.sw.pinned(r.Context()) == nil { // no Switch.Handler in front
			m := &marker{ResponseWriter: w, sw: f.sw, left: []string{f.name}}
			fallback.ServeHTTP(m, r)
			m.send(http.StatusOK) // when nothing was written
			return
		}
		fallback.ServeHTTP(w, r)
	})
}

// off answers for a feature that is off and has no fallback.
func off(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Retry-After"] = []string{strconv.Itoa(10 + rand.IntN(20))}
	unavailable(w, r, offText, offProblem)
}

// Static returns a handler that always gives the same answer, with status 200.
func Static(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method != http.MethodHead {
			w.Write(body)
		}
	})
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
