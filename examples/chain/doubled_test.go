package chain

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/degrade"
)

// A database has ten connections, and a query takes log-normal 20 ms: 500 a
// second at most.
type database struct {
	slots chan struct{}
	deaf  bool // to the request's context, while waiting for a connection

	mu     sync.Mutex // protects what follows
	slower float64
	rng    *rand.Rand
}

func (d *database) query() time.Duration {
	const sigma = 0.5
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Duration(d.slower * 20e6 * math.Exp(sigma*d.rng.NormFloat64()-sigma*sigma/2))
}

func (d *database) slow(times float64) {
	d.mu.Lock()
	d.slower = times
	d.mu.Unlock()
}

func newDatabase(seed uint64, deaf bool) *database {
	return &database{slots: make(chan struct{}, 10), slower: 1, deaf: deaf, rng: rand.New(rand.NewPCG(seed, 1))}
}

func (d *database) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	done := r.Context().Done()
	if d.deaf {
		done = nil
	}
	select {
	case d.slots <- struct{}{}:
	case <-done:
		return
	}
	time.Sleep(d.query())
	<-d.slots
	w.Write([]byte("row"))
}

// A phase is what clients saw of a stretch of the run, by when they asked.
type phase struct {
	mu                           sync.Mutex // protects what follows
	offered, good, refused, late int
	latency                      []time.Duration // of the good
}

func (p *phase) quantile(q float64) time.Duration {
	if len(p.latency) == 0 {
		return 0
	}
	slices.Sort(p.latency)
	return p.latency[int(q*float64(len(p.latency)-1))]
}

func (p *phase) String() string {
	return fmt.Sprintf("offered %d good %d refused %d late %d p50 %v p99 %v", p.offered, p.good, p.refused, p.late,
		p.quantile(.5).Round(time.Millisecond), p.quantile(.99).Round(time.Millisecond))
}

// offer sends Poisson arrivals, perSecond for as long as given, whose clients
// give up after a second, and returns what they saw. It does not wait for the
// stragglers.
func offer(h http.Handler, rng *rand.Rand, perSecond float64, length time.Duration) *phase {
	p := &phase{}
	for end := time.Now().Add(length); ; {
		time.Sleep(time.Duration(rng.ExpFloat64() / perSecond * float64(time.Second)))
		if !time.Now().Before(end) {
			return p
		}
		p.mu.Lock()
		p.offered++
		p.mu.Unlock()
		go func() {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			began := time.Now()
			giveUp := time.AfterFunc(time.Second, cancel) // as a client that hangs up
			defer giveUp.Stop()
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "http://api.example/row", nil))
			took := time.Since(began)
			p.mu.Lock()
			defer p.mu.Unlock()
			switch {
			case took >= time.Second:
				p.late++
			case w.Code == 200:
				p.good++
				p.latency = append(p.latency, took)
			default:
				p.refused++
			}
		}()
	}
}

// seeds are three; a figure is the median over them.
const seeds = 3

func median(f [seeds]float64) float64 {
	s := f[:]
	slices.Sort(s)
	return s[seeds/2]
}

func milliseconds(d time.Duration) float64 { return float64(d) / 1e6 }

// TestTrafficDoubled is the night that the library is for. In virtual time,
// at defaults: 350 requests a second, which is 0.7 of what the database can
// do, then 1000, then 350 again.
func TestTrafficDoubled(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprintf("deaf=%v", deaf), func(t *testing.T) {
			if deaf && testing.Short() {
				t.Skip("more of the same")
			}
			var early, good, p99, lost [seeds]float64
			for seed := range seeds {
				synctest.Test(t, func(t *testing.T) {
					h := newDefaults().handler(newDatabase(uint64(seed), deaf))
					rng := rand.New(rand.NewPCG(uint64(seed), 2))
					before := offer(h, rng, 350, 30*time.Second)
					flood := offer(h, rng, 1000, 30*time.Second)
					after := offer(h, rng, 350, 20*time.Second)
					time.Sleep(2 * time.Second)
					synctest.Wait()
					t.Logf("350/s  %v", before)
					t.Logf("1000/s %v", flood)
					t.Logf("350/s  %v", after)
					early[seed] = float64(before.refused + before.late)
					good[seed] = float64(flood.good) / 30
					p99[seed] = milliseconds(flood.quantile(.99))
					lost[seed] = float64(after.offered - after.good)
				})
			}
			require.Zero(t, early, "nothing is refused at 350/s, by any seed")
			require.GreaterOrEqual(t, median(good), 500.0, "good a second in the flood")
			require.LessOrEqual(t, median(p99), 80.0, "p99 in the flood, in ms")
			require.Zero(t, median(lost), "all 350/s are good right after")
		})
	}
}

// TestDatabaseFourTimesSlower is the other night: 350 a second all along, and
// for 20 s the database can do 125.
func TestDatabaseFourTimesSlower(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprintf("deaf=%v", deaf), func(t *testing.T) {
			if deaf && testing.Short() {
				t.Skip("more of the same")
			}
			var good, p99, kept [seeds]float64
			for seed := range seeds {
				synctest.Test(t, func(t *testing.T) {
					db := newDatabase(uint64(seed), deaf)
					h := newDefaults().handler(db)
					rng := rand.New(rand.NewPCG(uint64(seed), 3))
					offer(h, rng, 350, 30*time.Second)
					db.slow(4)
					slow := offer(h, rng, 350, 20*time.Second)
					db.slow(1)
					after := offer(h, rng, 350, 20*time.Second)
					time.Sleep(2 * time.Second)
					synctest.Wait()
					t.Logf("slow   %v", slow)
					t.Logf("after  %v", after)
					good[seed] = float64(slow.good) / 20
					p99[seed] = milliseconds(slow.quantile(.99))
					kept[seed] = float64(after.good) / float64(after.offered)
				})
			}
			require.GreaterOrEqual(t, median(good), 0.95*125, "good a second, of the 125 that are left")
			require.LessOrEqual(t, median(p99), 300.0, "p99, in ms")
			require.GreaterOrEqual(t, median(kept), 0.995, "right after")
		})
	}
}

// newDefaults are the parts as their zero Configs make them.
func newDefaults() *parts {
	p := newParts()
	p.shed = degrade.MustNew(degrade.Config{})
	p.b = breaker.MustNew(breaker.Config{})
	return p
}
