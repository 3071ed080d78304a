package ratelimit

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"time"
)

// A Rate is a number of requests per period, with room for a burst: a token
// bucket that holds Burst tokens, is full at first, and gains Requests tokens
// per Per, evenly. Over any time t it admits at most Burst + Requests*t/Per.
//
// [PerSecond], [PerMinute], [PerHour] and [PerDay] build the usual ones.
type Rate struct {
	// Requests is how many requests are allowed per Per. Required, positive.
	// Together with Per at most a billion per second.
	Requests int

	// Per is the period that Requests refers to. Required, positive.
	Per time.Duration

	// Burst is how many requests may arrive at once. Zero means Requests. An
	// empty bucket must be full again within a year.
	//
	// With Burst equal to Requests a client may send Requests at once and as
	// many again, evenly, within the same Per. To come closer to "never more
	// than Requests in any Per", set Burst to a small part of Requests.
	Burst int
}

// PerSecond returns the rate of n requests per second.
func PerSecond(n int) Rate { return Rate{Requests: n, Per: time.Second} }

// PerMinute returns the rate of n requests per minute.
func PerMinute(n int) Rate { return Rate{Requests: n, Per: time.Minute} }

// PerHour returns the rate of n requests per hour.
func PerHour(n int) Rate { return Rate{Requests: n, Per: time.Hour} }

// PerDay returns the rate of n requests per 24 hours.
func PerDay(n int) Rate { return Rate{Requests: n, Per: 24 * time.Hour} }

// String returns the rate as people write it: "100 per 1m0s, burst 20".
func (r Rate) String() string {
	s := strconv.Itoa(r.Requests) + " per " + r.Per.String()
	if r.Burst != 0 && r.Burst != r.Requests {
		s += ", burst " + strconv.Itoa(r.Burst)
	}
	return s
}

// Time inside this package is counted in ticks, 63 to the nanosecond, so that
// the thirds, sevenths and ninths of a nanosecond that rates like 3 or 700
// per second come to are whole numbers and add up without drift. A uint64
// holds nine years of ticks, and differences stay right across the wrap.
const (
	ticksPerNano = 63
	year         = 365 * 24 * time.Hour
	maxDebt      = int64(2 * year * ticksPerNano) // no charge puts a bucket further behind
)

// ticksToDuration rounds up, so that whoever waits that long has waited long
// enough.
func ticksToDuration(t int64) time.Duration {
	if t <= 0 {
		return 0
	}
	return time.Duration((t + ticksPerNano - 1) / ticksPerNano)
}

// A limit is a Rate made ready for deciding.
type limit struct {
	rate     Rate   // with Burst filled in
	period   uint64 // Per in ticks
	requests uint64
	every    int64  // ticks per token, rounded up
	exact    bool   // no rounding was needed
	most     int64  // a cost beyond this many tokens is maxDebt
	inverse  uint64 // 2^64 / every, rounded down
	room     int64  // how far a bucket's due time may run ahead of the clock

	policy string // name of the policy in header fields
	item   string // `"name"`, the start of this policy's RateLimit item
	local  *limit // what holds while a Store is out
}

// newPolicy makes the limit of a policy, and its local share. The share of both
// the rate and the burst is taken, so that a debt, which is a time, means the
// same part of the bucket in both.
func newPolicy(what, name string, rate Rate, share float64) (*limit, error) {
	l, err := newLimit(what, rate)
	if err != nil {
		return nil, err
	}
	r := l.rate
	r.Burst = max(1, int(float64(r.Burst)*share))
	r.Per = time.Duration(min(float64(r.Per)/share, float64(year)))
	if l.local, err = newLimit(what, r); err != nil {
		r.Burst = 1 // at a year for a token, more than one would take too long
		if l.local, err = newLimit(what, r); err != nil {
			return nil, err
		}
	}
	l.policy, l.item = name, `"`+name+`"`
	l.local.policy, l.local.item = l.policy, l.item
	return l, nil
}

// newLimit checks rate; what names its field in errors.
func newLimit(what string, rate Rate) (*limit, error) {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("ratelimit: "+what+format, args...))
	}
	if rate.Requests <= 0 {
		bad(".Requests is %d, must be positive", rate.Requests)
	}
	if rate.Per <= 0 {
		bad(".Per is %v, must be positive", rate.Per)
	} else if rate.Per > year {
		bad(".Per is %v, must be at most %v", rate.Per, year)
	}
	if rate.Burst < 0 {
		bad(".Burst is %d, must not be negative", rate.Burst)
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	if rate.Burst == 0 {
		rate.Burst = rate.Requests
	}

	l := &limit{rate: rate, period: uint64(rate.Per) * ticksPerNano, requests: uint64(rate.Requests)}
	l.exact = l.period%l.requests == 0
	l.every = int64(l.grid(1))
	if l.period/l.requests < ticksPerNano {
		bad(" is %v, must be at most a billion per second", rate)
		return nil, errors.Join(errs...)
	}
	if hi, room := bits.Mul64(uint64(l.every), uint64(rate.Burst)); hi != 0 || room > uint64(year)*ticksPerNano {
		bad(".Burst is %d, takes more than a year to refill at %d per %v", rate.Burst, rate.Requests, rate.Per)
		return nil, errors.Join(errs...)
	}
	l.most, l.inverse = maxDebt/l.every, math.MaxUint64/uint64(l.every)
	l.room = int64(l.grid(uint64(rate.Burst)))
	if !l.exact {
		l.room += 2 // what the grid may round away, a thirtieth of a nanosecond
	}
	return l, nil
}

// grid returns the tick by which n tokens have come in since the start of a
// period, rounded up. A due time moves from point to point of this grid, so
// that what is rounded at one token is made up for at the next, and a rate
// like 11 per second does not drift.
func (l *limit) grid(n uint64) uint64 {
	hi, lo := bits.Mul64(n, l.period)
	lo, carry := bits.Add64(lo, l.requests-1, 0)
	q, _ := bits.Div64(hi+carry, lo, l.requests)
	return q
}

// cost returns the ticks that n tokens take to come back to a bucket that is
// due at the tick at; it is negative when n is, and at most maxDebt.
func (l *limit) cost(at int64, n int) int64 {
	switch {
	case int64(n) >= l.most:
		return maxDebt
	case int64(n) <= -l.most:
		return -maxDebt
	case l.exact:
		return int64(n) * l.every
	}
	hi, lo := bits.Mul64(uint64(at)%l.period, l.requests)
	from, _ := bits.Div64(hi, lo, l.period)
	if n < 0 {
		from += (uint64(-n)/l.requests + 1) * l.requests // another period, the same grid
	}
	return int64(l.grid(from+uint64(n)) - l.grid(from))
}

// remaining returns the whole tokens in a bucket that is debt ticks from full.
func (l *limit) remaining(debt int64) int {
	left := l.room - debt
	if !l.exact || left <= 0 {
		return l.remainingInexact(left)
	}
	// A division takes longer. This quotient is right or one too small, since left
	// is below 2^63.
	hi, _ := bits.Mul64(uint64(left), l.inverse)
	n := int64(hi)
	if left-n*l.every >= l.every {
		n++
	}
	return int(n)
}

func (l *limit) remainingInexact(left int64) int {
	if left <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(left), l.requests)
	n, _ := bits.Div64(hi, lo, l.period)
	return int(n)
}
