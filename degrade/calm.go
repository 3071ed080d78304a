package degrade

import (
	"math"
	"sync/atomic"
)

// Where a few requests last a thousand times as long as the others, their slots
// look like a queue: a slot is held for long, on average, and the mean latency
// says nothing until tens of thousands have been seen. So what most requests say
// is looked at too, by the mean of the logarithms of their latencies. A queue in
// the backend moves it, whatever the shape of service times, because everybody
// waits in it; those few hardly do.

const (
	calmMemory = 300  // latencies under pressure that are compared with those at ease
	mostCalm   = 1024 // slots that may be given because most requests are not slowed down
	logUnit    = 1.0 / 256
)

// logs sums up logarithms of latencies, in parts of logUnit. It is drained by the
// control.
type logs struct{ sum, squares atomic.Uint64 }

// logOf is the logarithm of a latency in nanoseconds, as far as it says
// something of the backend.
func logOf(latency int64) float64 { return math.Log(float64(max(latency, shortest))) }

func (l *logs) add(latency int64) {
	x := uint64(logOf(latency) / logUnit)
	l.sum.Add(x)
	l.squares.Add(x * x)
}

// drain returns the mean and the mean square of the n that were added.
func (l *logs) drain(n float64) (mean, square float64) {
	return float64(l.sum.Swap(0)) * logUnit / n, float64(l.squares.Swap(0)) * logUnit * logUnit / n
}

// A spread is the mean and the mean square of n values.
type spread struct{ n, mean, square float64 }

// add takes n more values in. All count for at most memory.
func (s *spread) add(n, mean, square, memory float64) {
	s.n = min(s.n+n, memory)
	w := min(n/s.n, 1)
	s.mean += (mean - s.mean) * w
	s.square += (square - s.square) * w
}

// ofMean is the square of the standard error of the mean.
func (s *spread) ofMean() float64 { return max(s.square-s.mean*s.mean, 0) / s.n }

// calm reports whether most requests take as long while all slots are taken as
// they do at ease. Those that take far less are of another backend.
func (c *control) calm() bool {
	e, p := &c.eased, &c.pressed
	if e.n < toKnow || p.n < toCompare {
		return false
	}
	d, err := p.mean-e.mean, sure*math.Sqrt(e.ofMean()+p.ofMean())
	return d+err < math.Log(growBelow) && d > math.Log(muchQuicker)
}
