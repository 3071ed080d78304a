package breaker_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

// A model is the state machine as the documentation has it, written the simple
// way: lists instead of counters, and one clock.
type model struct {
	cfg   breaker.Config
	state breaker.State
	run   int // changes with each opening and reset; calls from before don't count

	// Closed.
	start     time.Duration // of gobreaker's steps
	ended     []ending
	slow      []time.Duration
	late      []time.Duration
	lastEpoch int64

	// Open and half-open.
	until    time.Duration
	level    int
	closedAt time.Duration
	probes   []*modelCall
	good     int

	calls []*modelCall // in flight
}

type ending struct {
	at     time.Duration
	failed bool
}

type modelCall struct {
	run    int
	at     time.Duration
	probe  bool
	late   bool
	done   func(error)
	cancel context.CancelFunc
}

func (m *model) epochLength() time.Duration {
	n := time.Duration(1)
	for n*2 <= m.cfg.SlowCall/8 {
		n *= 2
	}
	return n
}

// inWindow reports whether a time is within the ten steps up to now.
func (m *model) inWindow(at, now, start time.Duration) bool {
	step := m.cfg.Window / 10
	return (now-start)/step-(at-start)/step < 10
}

// enter says whether a call is let through, and as a probe.
func (m *model) enter(now time.Duration) (admitted, probe bool) {
	switch m.state {
	case breaker.Closed:
		if epoch := int64(now / m.epochLength()); epoch != m.lastEpoch {
			m.lastEpoch = epoch
			found := false
			for _, c := range m.calls {
				end := (c.at/m.epochLength() + 1) * m.epochLength()
				if c.run == m.run && !c.probe && !c.late && end+m.cfg.SlowCall <= now {
					c.late, found = true, true
					m.late = append(m.late, now)
				}
			}
			if found && m.tooSlow(now) {
				m.open(now, false)
				return false, false
			}
		}
		return true, false
	case breaker.Open:
		if now < m.until {
			return false, false
		}
		m.state = breaker.HalfOpen
	}
	for _, p := range m.probes {
		if p.at+m.cfg.ProbeLease <= now {
			m.open(now, true)
			return false, false
		}
	}
	if len(m.probes) < m.cfg.ProbesAtOnce && len(m.probes)+m.good < m.cfg.Probes {
		return true, true
	}
	return false, false
}

func (m *model) open(now time.Duration, failedProbe bool) {
	switch {
	case failedProbe, now-m.closedAt < m.cfg.Window:
		m.level++
	default:
		m.level = 0
	}
	m.fresh(breaker.Open)
	m.until = now + min(m.cfg.OpenFor<<min(m.level, 20), m.cfg.MaxOpen)
}

// fresh begins a new run.
func (m *model) fresh(s breaker.State) {
	m.state = s
	m.run++
	m.ended, m.slow, m.late, m.probes, m.good, m.lastEpoch = nil, nil, nil, nil, 0, -1
}

func (m *model) tooSlow(now time.Duration) bool {
	slow, late := 0, 0
	for _, at := range m.slow {
		if m.inWindow(at, now, 0) {
			slow++
		}
	}
	for _, at := range m.late {
		if m.inWindow(at, now, 0) {
			late++
		}
	}
	calls, _, _ := m.counts(now)
	all := max(calls, slow) + late
	return all >= m.cfg.MinCalls && float64(slow+late)/float64(all) >= m.cfg.SlowRatio
}

// counts returns what the window holds, and how many failed at its end.
func (m *model) counts(now time.Duration) (calls, failed, inARow int) {
	for _, e := range m.ended {
		if !m.inWindow(e.at, now, m.start) {
			continue
		}
		calls++
		inARow++
		if e.failed {
			failed++
		} else {
			inARow = 0
		}
	}
	return calls, failed, inARow
}

type kind int

const (
	success kind = iota
	failure
	cancelled
)

// end takes the end of a call.
func (m *model) end(c *modelCall, k kind, now time.Duration) {
	if c.run != m.run {
		return
	}
	slow := now-c.at >= m.cfg.SlowCall
	if c.probe {
		at := -1
		for i, p := range m.probes {
			if p == c {
				at = i
			}
		}
		if at < 0 || m.state != breaker.HalfOpen {
			return
		}
		m.probes = append(m.probes[:at:at], m.probes[at+1:]...)
		switch {
		case k == cancelled:
		case k == failure || slow:
			m.open(now, true)
		default:
			if m.good++; m.good == m.cfg.Probes {
				m.state, m.probes, m.good = breaker.Closed, nil, 0
				m.start, m.closedAt, m.lastEpoch = now, now, -1
			}
		}
		return
	}
	if c.late {
		for i, at := range m.late {
			if m.inWindow(at, now, 0) {
				m.late = append(m.late[:i:i], m.late[i+1:]...)
				break
			}
		}
	}
	if k == cancelled {
		return
	}
	m.ended = append(m.ended, ending{now, k == failure})
	calls, failed, inARow := m.counts(now)
	if k == failure && (m.cfg.ConsecutiveFailures > 0 && inARow >= m.cfg.ConsecutiveFailures ||
		calls >= m.cfg.MinCalls && float64(failed)/float64(calls) >= m.cfg.FailureRatio) {
		m.open(now, false)
		return
	}
	if slow {
		m.slow = append(m.slow, now)
		if m.tooSlow(now) {
			m.open(now, false)
		}
	}
}

// edges returns times at which something changes.
func (m *model) edges(now time.Duration) (at []time.Duration) {
	at = append(at, m.until, m.start+m.cfg.Window, now/m.epochLength()*m.epochLength()+m.epochLength(),
		m.closedAt+m.cfg.Window, m.start+(now-m.start)/(m.cfg.Window/10)*(m.cfg.Window/10)+m.cfg.Window/10)
	for _, c := range m.calls {
		at = append(at, c.at+m.cfg.SlowCall, c.at+m.cfg.ProbeLease)
	}
	return at
}

func TestTheBreakerIsItsModel(t *testing.T) {
	seeds, steps := 150, 600
	if testing.Short() {
		seeds = 40
	}
	var opened, closed, refusals, lates int
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 6))
			cfg := breaker.Config{
				Window:              time.Duration(1+r.IntN(10)) * time.Second,
				MinCalls:            2 + r.IntN(8),
				FailureRatio:        []float64{0.3, 0.5, 1}[r.IntN(3)],
				ConsecutiveFailures: r.IntN(5),
				SlowCall:            []time.Duration{50 * time.Millisecond, time.Second, 3 * time.Second}[r.IntN(3)],
				SlowRatio:           []float64{0.3, 0.5, 1}[r.IntN(3)],
				OpenFor:             time.Second,
				MaxOpen:             6 * time.Second,
				Jitter:              -1,
				Probes:              1 + r.IntN(4),
				ProbesAtOnce:        1 + r.IntN(3),
				ProbeLease:          []time.Duration{30 * time.Millisecond, time.Second}[r.IntN(2)],
			}
			cfg.ProbeLease = min(cfg.ProbeLease, cfg.SlowCall)
			birth := time.Now()
			b := breaker.MustNew(cfg)
			m := &model{cfg: cfg, lastEpoch: -1, closedAt: -cfg.Window}
			var log []string
			check := func(step int) {
				s := b.Stats()
				require.Equal(t, m.state, s.State, "seed %d step %d\n%v", seed, step, log[max(0, len(log)-30):])
				if m.state == breaker.Closed {
					now := time.Since(birth)
					calls, failed, _ := m.counts(now)
					late := 0
					for _, at := range m.late {
						if m.inWindow(at, now, 0) {
							late++
						}
					}
					require.Equal(t, []int{calls + late, failed}, []int{s.WindowCalls, s.WindowFailed}, "seed %d step %d\n%v", seed, step, log[max(0, len(log)-30):])
				}
				if m.state == breaker.Open {
					require.Equal(t, m.until, s.Until.Sub(birth), "seed %d step %d\n%v", seed, step, log[max(0, len(log)-30):])
				}
			}
			for step := range steps {
				now := time.Since(birth)
				was := m.state
				switch n := r.IntN(20); {
				case n < 8: // a call begins
					admitted, probe := m.enter(now)
					ctx, cancel := context.WithCancel(context.Background())
					done, err := b.Allow(ctx)
					log = append(log, fmt.Sprintf("%v enter %v %v -> %v", now, admitted, probe, err))
					require.Equal(t, admitted, err == nil, "seed %d step %d\n%v", seed, step, log[max(0, len(log)-30):])
					if !admitted {
						refusals++
						cancel()
						break
					}
					c := &modelCall{run: m.run, at: now, probe: probe, done: done, cancel: cancel}
					m.calls = append(m.calls, c)
					if probe {
						m.probes = append(m.probes, c)
					}
				case n < 14 && len(m.calls) > 0: // a call ends
					i := r.IntN(len(m.calls))
					c := m.calls[i]
					m.calls = append(m.calls[:i:i], m.calls[i+1:]...)
					k := []kind{success, success, success, failure, failure, cancelled}[r.IntN(6)]
					if c.late {
						lates++
					}
					log = append(log, fmt.Sprintf("%v end of %v: %v", now, c.at, k))
					m.end(c, k, now)
					switch k {
					case cancelled:
						c.cancel()
						c.done(context.Canceled)
					case failure:
						c.done(errDown)
					default:
						c.done(nil)
					}
					c.cancel()
				case n == 14 && r.IntN(20) == 0:
					log = append(log, fmt.Sprintf("%v reset", now))
					m.fresh(breaker.Closed)
					m.start, m.level, m.closedAt = now, 0, now-cfg.Window
					b.Reset()
				case n < 18: // to an edge, or next to it
					edges := m.edges(now)
					if d := edges[r.IntN(len(edges))] + time.Duration(r.IntN(3)-1) - now; d > 0 {
						time.Sleep(d)
					}
				default:
					time.Sleep(time.Duration(r.Int64N(int64(2 * cfg.SlowCall))))
				}
				if m.state != was && m.state == breaker.Open {
					opened++
				}
				if m.state != was && m.state == breaker.Closed {
					closed++
				}
				check(step)
			}
			for _, c := range m.calls {
				c.cancel()
			}
		})
	}
	t.Logf("opened %d times, closed %d times, %d refusals, %d late calls", opened, closed, refusals, lates)
	require.Greater(t, opened, seeds)
	require.Greater(t, closed, seeds/10)
	require.Greater(t, lates, seeds/10)
}
