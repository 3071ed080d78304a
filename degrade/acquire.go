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
	Name   string        // of the Shedder
	Reason string        // in a few words: "no room", "waited too long", …
	Waited time.Duration // before it was refused
	retry  time.Duration
}

// Error returns the reason in a sentence.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("degrade: %s: refused: %s, retry after %v", e.Name, e.Reason, e.retry.Round(time.Millisecond))
}

// RetryAfter is how long to wait before another try, jittered, at least a
// second.
func (e *RefusedError) RetryAfter() time.Duration { return e.retry }

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
	if err := ctx.Err(); err != nil {
		s.counts.add(t.p, outAbandoned)
		return err
	}
	if n := s.core.take(); n > 0 {
		t.start, t.n = s.now(), n
		t.came = t.start
		s.counts.add(t.p, outAdmitted)
		return nil
	}
	return s.acquireSlow(ctx, t, tenant)
}

func (s *Shedder) acquireSlow(ctx context.Context, t *ticket, tenant string) error {
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
	ask := waiter{prio: t.p}
	if tenant != "" {
		ask.flow = uint8(maphash.String(s.seed, tenant) % flows)
	}
	if d, ok := ctx.Deadline(); ok {
		ask.deadline = max(int64(d.Sub(s.epoch)), 1)
	}
	v, w, base, spread := s.core.wait(now, &ask)
	switch v {
	case granted:
		t.start, t.n = now, int(s.core.limit.Load())
		s.counts.add(t.p, outAdmitted)
		return nil
	case pending:
		return s.await(ctx, t, w)
	}
	return s.refuse(t, v, now, 0, base, spread)
}

// await waits for the verdict on w.
func (s *Shedder) await(ctx context.Context, t *ticket, w *waiter) error {
	s.counts.add(t.p, outQueued)
	timer := time.NewTimer(time.Duration(w.expires - w.since))
	defer timer.Stop()
	var v verdict
	select {
	case <-w.ready:
		v = w.verdict
	case <-timer.C:
		v = s.core.cancel(s.now(), w, expired)
	case <-ctx.Done():
		v = s.core.cancel(s.now(), w, abandoned)
	}
	now := s.now()
	s.waits.add(time.Duration(now - w.since))
	switch v {
	case granted:
		t.start, t.n = now, int(s.core.limit.Load())
		s.core.handoff.add(now - w.until)
		s.counts.add(t.p, outAdmitted)
		return nil
	case abandoned:
		s.counts.add(t.p, outAbandoned)
		return ctx.Err()
	}
	s.core.mu.Lock()
	base, spread := s.core.retry(now)
	s.core.mu.Unlock()
	return s.refuse(t, v, now, time.Duration(now-w.since), base, spread)
}

func (s *Shedder) refuse(t *ticket, v verdict, now int64, waited time.Duration, base, spread float64) error {
	s.counts.add(t.p, outRefused)
	s.noteRefusal(now)
	return &RefusedError{
		Name: s.name, Reason: reasons[v], Waited: waited,
		retry: max(time.Duration(base), time.Second) + time.Duration(spread*rand.Float64()),
	}
}
