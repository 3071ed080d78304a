package degrade

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"time"
)

// ErrRefused is what errors.Is finds in every refusal.
var ErrRefused = errors.New("degrade: refused")

// A RefusedError says why there was no room, and when to come back. It matches
// [ErrRefused].
type RefusedError struct {
	Name       string        // of the Shedder
	Reason     string        // "no room", "waited too long", "too late", "made room"
	RetryAfter time.Duration // when to try again, jittered
	Waited     time.Duration
}

// Error returns the reason in a sentence.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("degrade: %s: refused: %s, retry after %v", e.Name, e.Reason, e.RetryAfter.Round(time.Millisecond))
}

// Is reports whether target is ErrRefused.
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

var reasons = [...]string{
	refused: "no room",
	evicted: "made room for others",
	expired: "waited too long",
	tooLate: "too late to finish in time",
}

// acquire fills in t, which must be released then.
func (s *Shedder) acquire(ctx context.Context, t *ticket, tenant string) error {
	if n := s.core.take(); n > 0 {
		t.start, t.n = s.now(), n
		t.came = t.start
		s.counts.add(t.p, outAdmitted)
		return nil
	}
	return s.acquireSlow(ctx, t, tenant)
}

func (s *Shedder) acquireSlow(ctx context.Context, t *ticket, tenant string) error {
	if err := ctx.Err(); err != nil {
		s.counts.add(t.p, outAbandoned)
		return err
	}
	now := s.now()
	t.came = now
	if s.cfg.DryRun {
		refuse := false
		if t.n, refuse = s.core.force(now); refuse {
			s.counts.add(t.p, outRefused)
		}
		t.start = now
		s.counts.add(t.p, outAdmitted)
		return nil
	}
	w := &waiter{prio: t.p}
	if tenant != "" {
		w.flow = uint8(maphash.String(s.seed, tenant) % flows)
	}
	if d, ok := ctx.Deadline(); ok {
		w.deadline = max(int64(d.Sub(s.epoch)), 1)
	}
	ready := make(chan struct{}, 1)
	w.signal = func() { ready <- struct{}{} }
	switch v := s.core.wait(now, w); v {
	case granted:
		t.start, t.n = now, int(s.core.limit.Load())
		s.counts.add(t.p, outAdmitted)
		return nil
	case pending:
	default:
		return s.refuse(t, v, 0)
	}
	s.counts.add(t.p, outQueued)
	timer := time.NewTimer(time.Duration(w.expires - now))
	defer timer.Stop()
	select {
	case <-ready:
	case <-timer.C:
		s.core.cancel(s.now(), w, expired)
	case <-ctx.Done():
		s.core.cancel(s.now(), w, abandoned)
	}
	end := s.now()
	switch w.verdict {
	case granted:
		t.start, t.n = end, int(s.core.limit.Load())
		s.counts.add(t.p, outAdmitted)
		return nil
	case abandoned:
		s.counts.add(t.p, outAbandoned)
		return ctx.Err()
	}
	return s.refuse(t, w.verdict, time.Duration(end-now))
}

func (s *Shedder) refuse(t *ticket, v verdict, waited time.Duration) error {
	s.counts.add(t.p, outRefused)
	base, spread := s.core.retry(s.now())
	after := max(base, time.Second)
	if spread > 0 {
		after += rand.N(spread)
	}
	s.noteRefusal()
	return &RefusedError{Name: s.name, Reason: reasons[v], RetryAfter: after, Waited: waited}
}
