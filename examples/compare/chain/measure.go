package chain

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-spillway/spillway/examples/compare/chain/rivals"
	"github.com/go-spillway/spillway/examples/compare/chain/spillway"
)

// A Case is one handler under one kind of request.
type Case struct {
	Name  string // who
	Kind  string // "no-store", "miss" or "hit"
	Path  string
	Fresh bool // every request has a URL of its own
	next  http.Handler
	h     http.Handler
}

var kilobyte = []byte(strings.Repeat("x", 1024))

// reply answers with 1 KiB.
func reply(cacheControl string) http.Handler {
	cc, length := []string{cacheControl}, []string{"1024"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Cache-Control"] = cc
		h["Content-Length"] = length
		w.Write(kilobyte)
	})
}

// Cases are both chains, and the bare handler, on each kind of path: what must
// not be stored, what is stored for the first time, and what is there already.
// The rivals' cache stands only in front of what may be stored: they pay
// nothing for it on a path where Spillway looks at the Cache-Control.
func Cases() []*Case {
	type chain struct {
		name string
		wrap func(http.Handler) http.Handler
	}
	var all []*Case
	for _, c := range []chain{
		{"bare", func(h http.Handler) http.Handler { return h }},
		{"spillway", spillway.Chain},
		{"rivals", rivals.Chain},
	} {
		for _, k := range []Case{
			{Kind: "no-store", Path: "/user/42", next: reply("no-store")},
			{Kind: "miss", Path: "/public/", Fresh: true, next: reply("public, max-age=3600")},
			{Kind: "hit", Path: "/public/42", next: reply("public, max-age=3600")},
		} {
			k.Name, k.h = c.name, c.wrap(k.next)
			all = append(all, &k)
		}
	}
	return all
}

// blank is a ResponseWriter that costs nothing.
type blank struct {
	header  http.Header
	refused int // answers that were not 200
}

func (w *blank) Header() http.Header         { return w.header }
func (w *blank) Write(p []byte) (int, error) { return len(p), nil }
func (w *blank) WriteHeader(status int) {
	if status != http.StatusOK {
		w.refused++
	}
}

// A caller calls a handler as one connection does, one request at a time.
type caller struct {
	c *Case
	w *blank
	r *http.Request
	n int
}

func newCaller(c *Case, first int) *caller {
	r := httptest.NewRequest("GET", "http://api.example"+c.Path, nil)
	r.Header.Set("User-Agent", "bench")
	r.Header.Set("Accept", "*/*")
	// The first answer gets a header map of its own: stampede keeps that very
	// map, and reads it at each hit.
	c.h.ServeHTTP(&blank{header: http.Header{}}, r.Clone(r.Context()))
	return &caller{c, &blank{header: http.Header{}}, r, first}
}

func (c *caller) call() {
	if c.c.Fresh {
		c.n++
		c.r.URL.Path = c.c.Path + strconv.Itoa(c.n)
	}
	clear(c.w.header)
	c.c.h.ServeHTTP(c.w, c.r)
}

// InProcess is what a case costs without a network.
type InProcess struct {
	*Case
	Allocs, Bytes float64      // for one request
	Refused       int          // answers that cost less than those that are asked for, and are in the other figures
	slices        [2][]float64 // nanoseconds of processor time for one request, by round; serial and parallel
}

// Added returns the nanoseconds of processor time that a chain adds to the bare
// handler: the median of the differences between slices that ran one after the other.
func (p *InProcess) Added(bare *InProcess, parallel int) float64 {
	d := make([]float64, len(p.slices[parallel]))
	for i := range d {
		d[i] = p.slices[parallel][i] - bare.slices[parallel][i]
	}
	return median(d)
}

// RatioTo returns the median of the ratios of what p and q add to the bare
// handler, of slices that ran one after the other.
func (p *InProcess) RatioTo(q, bare *InProcess, parallel int) float64 {
	d := make([]float64, len(p.slices[parallel]))
	for i := range d {
		b := bare.slices[parallel][i]
		d[i] = (p.slices[parallel][i] - b) / (q.slices[parallel][i] - b)
	}
	return median(d)
}

// MeasureInProcess runs all cases in turn, each for a slice, rounds times: so
// that the machine's noise hits all of them alike.
func MeasureInProcess(cases []*Case, rounds int, slice time.Duration) []*InProcess {
	var all []*InProcess
	width := runtime.GOMAXPROCS(0)
	callers := map[*InProcess][]*caller{}
	for _, c := range cases {
		p := &InProcess{Case: c}
		for i := range width {
			callers[p] = append(callers[p], newCaller(c, i<<40))
		}
		for range 1000 {
			callers[p][0].call()
		}
		p.Allocs, p.Bytes = allocs(callers[p][0])
		all = append(all, p)
	}
	for range rounds {
		for _, p := range all {
			p.slices[0] = append(p.slices[0], spend(callers[p][:1], slice))
			p.slices[1] = append(p.slices[1], spend(callers[p], slice))
		}
	}
	for _, p := range all {
		for _, c := range callers[p] {
			p.Refused += c.w.refused
		}
	}
	return all
}

func allocs(c *caller) (n, bytes float64) {
	const calls = 5000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range calls {
		c.call()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / calls, float64(after.TotalAlloc-before.TotalAlloc) / calls
}

// spend returns the processor time of one call, with what the collector and the
// scheduler take, while all callers call. Unlike the wall clock it stands still
// while other programs have the processor.
func spend(callers []*caller, slice time.Duration) float64 {
	var wg sync.WaitGroup
	done := make([]int, len(callers))
	began, used := time.Now(), cpu()
	for i, c := range callers {
		wg.Go(func() {
			for time.Since(began) < slice {
				for range 100 {
					c.call()
				}
				done[i] += 100
			}
		})
	}
	wg.Wait()
	used = cpu() - used
	n := 0
	for _, d := range done {
		n += d
	}
	return float64(used) / float64(n)
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
