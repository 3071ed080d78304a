package cache

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// loaderClock tells the time in nanoseconds since the Loader was made, and
// spares most hits from asking for it.
//
// Reading the clock is the dearest part of a hit: the processor first waits for
// all that is under way, above all for the entry to come from memory, and then
// some. But almost every hit is on an entry that is fresh for long, and needs to
// know only that. So when hits come fast, a reading is good for loaderTick: as
// long as it is, an entry that is fresh for loaderSure more is fresh, whatever
// the time is exactly. A timer ends the tick; when hits come slowly there is
// none, and each of them reads the clock.
//
// What a hit says is exact all the same, unless the timer runs late by nearly
// loaderSure: then the process has stood still for that long.
type loaderClock struct {
	start time.Time

	// Until when an entry must be fresh to be served without reading the clock:
	// loaderNever while there is no tick.
	sure atomic.Int64
	last atomic.Int64 // reading by a hit

	mu     sync.Mutex
	tick   *time.Timer // nil while there is none
	closed bool
}

const (
	loaderTick = 10 * time.Millisecond
	loaderSure = time.Second
	loaderFast = 20 * time.Microsecond // between hits, to begin a tick
)

// loaderNever is a time that doesn't come.
const loaderNever = math.MaxInt64

func (c *loaderClock) init() {
	c.start = time.Now()
	c.sure.Store(loaderNever)
}

// now is cheaper than time.Now: it reads one clock, not two.
func (c *loaderClock) now() int64 { return int64(time.Since(c.start)) }

// read is now for a hit on an entry that is fresh until then. It begins a tick
// if that spares the next hits from reading, too.
func (c *loaderClock) read(fresh int64) int64 {
	now := c.now()
	if now+int64(loaderSure) < fresh {
		if now-c.last.Load() < int64(loaderFast) {
			c.begin(now)
		}
		c.last.Store(now)
	}
	return now
}

func (c *loaderClock) begin(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tick != nil || c.closed {
		return
	}
	c.sure.Store(now + int64(loaderSure))
	c.tick = time.AfterFunc(loaderTick, c.end)
}

func (c *loaderClock) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sure.Store(loaderNever)
	c.tick = nil
}

// close ends the tick, and lets none begin.
func (c *loaderClock) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sure.Store(loaderNever)
	c.closed = true
	if c.tick != nil {
		c.tick.Stop()
	}
}
