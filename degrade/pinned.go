package degrade

import (
	"context"
	"hash/fnv"
	"net/http"
	"time"
)

// DegradedHeader names the features that were left out of an answer.
const DegradedHeader = "Spillway-Degraded"

// place maps a user to [0, 1), the same in every process, differently for each
// feature.
func place(feature, user string) float64 {
	h := fnv.New64a()
	h.Write([]byte(feature))
	h.Write([]byte{0})
	h.Write([]byte(user))
	x := h.Sum64() // FNV's high bits need stirring
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}

// Handler pins what is on for each request, so that it never sees two levels,
// and marks the answers from which something was left out: with
// [DegradedHeader], and with a Cache-Control that lets them be kept no longer
// than SwitchConfig.MaxAge. It also looks at the pressure, four times a second
// at most. It panics if next is nil.
func (s *Switch) Handler(next http.Handler) http.Handler {
	if next == nil {
		panic("degrade: Handler: next is nil")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.pinned(r.Context()) != nil { // further out
			next.ServeHTTP(w, r)
			return
		}
		now := int64(time.Since(s.epoch))
		if due := s.due.Load(); now >= due && s.due.CompareAndSwap(due, now+int64(every)) {
			s.tick(time.Now())
		}
		sn := s.now.Load()
		if sn.plain {
			p := &pin{Context: r.Context(), sw: s, sn: sn}
			serve(next, w, p.carry(r), r)
			return
		}
		x := &struct {
			pin
			marker
		}{pin: pin{Context: r.Context(), sw: s, sn: sn}}
		p, m := &x.pin, &x.marker
		p.m, m.name = m, s.cfg.Key(r)
		if sn.part != nil && place("level", m.name) < sn.share {
			p.sn = sn.part
		}
		m.ResponseWriter, m.sw = w, s
		serve(next, m, p.carry(r), r)
		m.send(http.StatusOK) // when nothing was written
	})
}

// pin is what one request goes by: its context, and the request with that
// context, in one allocation.
type pin struct {
	context.Context
	sw *Switch
	sn *snapshot
	m  *marker // nil while everybody has everything
	r  http.Request
}

// Value returns p itself for its key.
func (p *pin) Value(key any) any {
	if key == snapshotKey {
		return p
	}
	return p.Context.Value(key)
}

// pinned returns what the request that ctx belongs to goes by, or nil if it did
// not pass Handler. Another Switch may have pinned it further in.
func (s *Switch) pinned(ctx context.Context) *pin {
	for {
		p, _ := ctx.Value(snapshotKey).(*pin)
		if p == nil || p.sw == s {
			return p
		}
		ctx = p.Context
	}
}

// carry returns r with p as its context.
func (p *pin) carry(r *http.Request) *http.Request {
	p.r = *r.WithContext(p)
	return &p.r
}
