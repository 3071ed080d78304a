package ratelimit

import (
	"slices"
	"time"
)

const (
	maxAlso   = 3
	maxGroups = 4
	maxLimits = 1 + maxAlso + maxGroups
)

// An ask is one request to the buckets, and their answer. It lives on the
// asker's stack.
type ask struct {
	n      int // tokens
	limits [maxLimits]*limit
	own    int // how many of limits hold for keys[0]; each later one for a key of its own
	all    int
	keys   [1 + maxGroups]string

	allowed  bool
	degraded bool
	by       int              // the limit that refused for longest, or that has the fewest tokens left
	debts    [maxLimits]int64 // ticks until each bucket is full, after the decision
	wait     int64            // ticks until the same ask would be granted
}

const never = int64(1<<63 - 1)

// span returns which of a.limits hold for a.keys[level].
func (a *ask) span(level int) (from, to int) {
	if level == 0 {
		return 0, a.own
	}
	return a.own + level - 1, a.own + level
}

// judge decides from a.debts, which is how far from full the buckets are
// before: all of them have the tokens, or the ask is refused.
func (a *ask) judge(now int64) {
	a.allowed, a.wait, a.by = true, 0, 0
	for i := range a.all {
		lim := a.limits[i]
		wait := a.debts[i] + lim.cost(now+a.debts[i], a.n) - lim.room
		if a.n > lim.rate.Burst {
			wait = never
		}
		if wait > a.wait {
			a.allowed, a.wait, a.by = false, wait, i
		}
	}
	if a.allowed {
		for i := range a.all {
			a.debts[i] += a.limits[i].cost(now+a.debts[i], a.n)
		}
		a.least()
	}
}

// least points a.by at the limit with the fewest tokens left.
func (a *ask) least() {
	for i := 1; i < a.all; i++ {
		if a.limits[i].remaining(a.debts[i]) < a.limits[a.by].remaining(a.debts[a.by]) {
			a.by = i
		}
	}
}

// memory holds buckets in this process: one table for the keys, and one for
// each group.
type memory struct {
	base   time.Time
	seed   seed
	atomic bool // one limit per ask: tables may be written without a lock
	tables []*table
	first  *table // tables[0]
}

func newMemory(own, groups, maxKeys int) *memory {
	m := &memory{base: time.Now(), seed: newSeed(), atomic: own == 1 && groups == 0}
	m.tables = append(m.tables, newTable(own, maxKeys))
	for range groups {
		m.tables = append(m.tables, newTable(1, maxKeys))
	}
	m.first = m.tables[0]
	return m
}

// now reads the monotonic clock alone, which costs half of time.Now.
//
// Decisions read it before they touch a bucket, not under its lock. That is
// exact all the same, because a due time never moves back: however late a
// reading is used, between two readings a and b there fit no more than
// burst + rate*(b-a) admissions with readings of their own in between.
func (m *memory) now() int64 { return int64(time.Since(m.base)) * ticksPerNano }

// take decides a, and takes a.n tokens from every bucket or from none.
func (m *memory) take(a *ask) { m.takeAt(a, m.now()) }

func (m *memory) takeAt(a *ask, now int64) {
	if lim := a.limits[0]; m.atomic && a.n <= lim.rate.Burst {
		h := m.seed.hash(a.keys[0])
		s, home := m.first.path(h)
		a.debts[0], a.wait = m.first.take(s, home, h, now, a.n, lim)
		a.allowed, a.wait = a.wait <= 0, max(a.wait, 0)
		return
	}
	m.locked(a, now, take)
}

// charge adds a.n tokens to the debt of every bucket whether or not they are
// there, or gives them back when a.n is negative.
func (m *memory) charge(a *ask) { m.locked(a, m.now(), charge) }

// What locked is to do with a.
const (
	take   = iota // a.n tokens from every bucket, or from none
	charge        // a.n tokens from every bucket
	follow        // make the debts those that a says
)

// locked does it under the locks of the shards that a touches, always taken in
// the order of the tables.
func (m *memory) locked(a *ask, now int64, what int) {
	told := a.debts
	var held [1 + maxGroups]struct {
		sh *shard
		h  uint64
		i  int
	}
	levels := 1 + a.all - a.own
	for k := range levels {
		t, at := m.tables[k], &held[k]
		at.h = m.seed.hash(a.keys[k])
		at.sh = t.shard(at.h)
		at.sh.mu.Lock()
		from, to := a.span(k)
		at.i = t.openLocked(at.sh, at.h, now, a.debts[from:to])
	}
	switch what {
	case take:
		a.judge(now)
	case charge:
		for i := range a.all {
			a.debts[i] = min(max(a.debts[i]+a.limits[i].cost(now+a.debts[i], a.n), 0), maxDebt)
		}
		a.allowed, a.wait, a.by = true, 0, 0
		a.least()
	case follow:
		a.debts = told
	}
	for k := range levels {
		t, at := m.tables[k], &held[k]
		from, to := a.span(k)
		if at.i >= 0 || (what == follow || a.allowed) && slices.Max(a.debts[from:to]) > 0 {
			t.closeLocked(at.sh, at.h, at.i, now, a.debts[from:to])
		}
		at.sh.mu.Unlock()
	}
}
