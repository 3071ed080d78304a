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
// at most.
func (s *Switch) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		if due := s.due.Load(); now.UnixNano() >= due && s.due.CompareAndSwap(due, now.Add(every).UnixNano()) {
			s.tick(now)
		}
		p := &pin{sw: s, sn: s.now.Load(), name: s.cfg.Key(r)}
		if p.sn.part != nil && place("level", p.name) < p.sn.share {
			p.sn = p.sn.part
		}
		r = r.WithContext(context.WithValue(r.Context(), snapshotKey, p))
		m := &marker{ResponseWriter: w, p: p}
		next.ServeHTTP(m, r)
		m.send(http.StatusOK) // when nothing was written
	})
}
