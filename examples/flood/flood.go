package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// The greedy tenant's plan is this share of the nominal capacity; the polite
// one's is more than the service can ever carry, as such plans are.
const (
	greedyPlan = 0.3
	politePlan = 20
)

// flood runs the whole of it and writes the report, even if ctx ends before the
// script does: then with what there is.
func flood(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	debug.SetGCPercent(400) // the generator should be on time
	r := &run{options: o, gen: newGenerator(o.insist), acts: script()}
	if o.target != "" {
		r.acts = targetScript()
		err = r.aim()
	} else {
		err = r.open(ctx, out)
	}
	defer r.close()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("flood: interrupted before it began; nothing was measured")
	}
	r.play(ctx, out)
	return r.tell(out, ctx.Err() != nil)
}

// A run is one flood.
type run struct {
	options
	gen      *generator
	acts     []act
	spans    []span
	capacity float64 // measured; of a target, what was said with -rate

	sides     []*deployment // none for a target
	to        []destination
	names     []string    // of the destinations
	recorders []*recorder // of the destinations
	scraper   *scraper    // nil for a target

	start time.Time
	end   time.Duration // how long requests were sent
	mu    sync.Mutex
	notes []event
	wrong error // of a step
}

// An event is something that happened, for the time axis.
type event struct {
	At   float64 `json:"at"`  // seconds since the start
	Who  string  `json:"who"` // "script", or the part of the chain that says it
	Text string  `json:"text"`
}

// open starts both sides and measures what the bare one can carry.
func (r *run) open(ctx context.Context, out io.Writer) error {
	plans := map[string]int{
		politeTenant: int(politePlan * nominalCapacity()),
		greedyTenant: int(greedyPlan * nominalCapacity()),
	}
	fmt.Fprintf(out, "Two shops with %d backends each, %d database connections per backend: one bare, one with Spillway.\n", backendCount, connections)
	for i, name := range []string{"bare", "spillway"} {
		d, err := startDeployment(name, i == 1, r.seed, plans)
		if err != nil {
			return err
		}
		r.sides = append(r.sides, d)
	}
	r.scraper = newScraper(r.sides[1].shop.url)
	if ctx.Err() != nil {
		return nil // flood says so
	}

	// Enough workers to keep every connection busy, however unevenly the
	// requests spread over the backends.
	long := max(1500*time.Millisecond, r.length/25)
	r.capacity = r.gen.closedLoop(ctx, 3*backendCount*connections, long, arrivals(r.seed+1, []span{{to: time.Hour, rate: 1000}}, nil), r.sides[0].shop.url)
	if ctx.Err() != nil {
		return nil
	}
	if r.capacity == 0 {
		return errors.New("flood: the bare shop answered nothing when its capacity was measured")
	}
	fmt.Fprintf(out, "Measured on the bare one: it can answer %.0f requests a second (the model says %.0f).\n", r.capacity, nominalCapacity())
	fmt.Fprintf(out, "While it runs, the live page of the protected one is %s/-/\n\n", r.sides[1].shop.url)
	r.lay()
	for _, d := range r.sides {
		r.direct(d.name, d.shop.url)
	}
	return nil
}

// aim makes a run against a target.
func (r *run) aim() error {
	r.capacity = r.rate
	r.lay()
	r.direct("target", r.target)
	return nil
}

// lay gives the acts their times.
func (r *run) lay() {
	var sum, at float64
	for _, a := range r.acts {
		sum += a.Weight
	}
	for _, a := range r.acts {
		s := span{from: time.Duration(at / sum * float64(r.length)), rate: a.Load * r.capacity}
		at += a.Weight
		s.to = time.Duration(at / sum * float64(r.length))
		r.spans = append(r.spans, s)
	}
}

// bin is the resolution in time: half a second, or longer in a long run.
func (r *run) bin() time.Duration {
	return max(500*time.Millisecond, (r.length / 120).Round(500*time.Millisecond))
}

func (r *run) direct(name, url string) {
	rec := newRecorder(r.bin(), r.spans)
	r.names = append(r.names, name)
	r.recorders = append(r.recorders, rec)
	r.to = append(r.to, destination{url, rec})
}

func (r *run) close() {
	for _, d := range r.sides {
		d.end()
	}
}

// play runs the script: the load, what is done to the backends, and the view.
func (r *run) play(ctx context.Context, out io.Writer) {
	r.start = time.Now().Add(50 * time.Millisecond)
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { r.steps(ctx) })
	wg.Go(func() { newView(out, r).run(background) })
	if r.scraper != nil {
		wg.Go(func() { r.scraper.run(background, r.start, r.bin()/2) })
	}
	// The last gap, after the last request, belongs to the script too.
	if r.end = r.gen.run(ctx, r.start, r.arrivals(), r.to); ctx.Err() == nil {
		r.end = r.spans[len(r.spans)-1].to
	}
	stop()
	wg.Wait()
	if r.scraper != nil {
		r.scraper.read(r.start)
	}
}

func (r *run) arrivals() iter.Seq[arrival] {
	if r.target == "" {
		return arrivals(r.seed, r.spans, nil)
	}
	only := target
	return arrivals(r.seed, r.spans, &only)
}

// steps does what the script does to the backends, each step when it is due.
func (r *run) steps(ctx context.Context) {
	for i, a := range r.acts {
		for _, s := range a.steps {
			long := r.spans[i].to - r.spans[i].from
			due := r.spans[i].from + time.Duration(s.at*float64(long))
			select {
			case <-time.After(time.Until(r.start.Add(due))):
			case <-ctx.Done():
				return
			}
			r.note("script", s.what)
			if err := both(r.sides, s.do); err != nil {
				r.note("script", "that went wrong: "+err.Error())
				r.mu.Lock()
				r.wrong = errors.Join(r.wrong, fmt.Errorf("flood: %s: %w", s.what, err))
				r.mu.Unlock()
			}
		}
	}
}

func (r *run) note(who, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, event{time.Since(r.start).Seconds(), who, text})
}

// lastNote returns what happened last, and when.
func (r *run) lastNote() (event, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.notes) == 0 {
		return event{}, false
	}
	return r.notes[len(r.notes)-1], true
}

// act returns which act is on.
func (r *run) act(at time.Duration) int {
	i := slices.IndexFunc(r.spans, func(s span) bool { return at < s.to })
	if i < 0 {
		return len(r.spans) - 1
	}
	return i
}

// tell writes the verdict and the files.
func (r *run) tell(out io.Writer, interrupted bool) error {
	rep := r.report(interrupted)
	fmt.Fprintln(out)
	for _, s := range rep.Verdict {
		fmt.Fprintln(out, wrap(s, 78))
	}
	fmt.Fprintf(out, "\n%s\n", wrap(rep.Generator.Says, 78))
	errs := []error{r.wrong}
	write := func(name string, content func(io.Writer) error) {
		if name == "" {
			return
		}
		f, err := os.Create(name)
		if err == nil {
			err = errors.Join(content(f), f.Close())
		}
		if err == nil {
			fmt.Fprintf(out, "Written: %s\n", name)
		}
		errs = append(errs, err)
	}
	write(r.html, rep.writeHTML)
	write(r.json, rep.writeJSON)
	write(r.svg, rep.writeSVG)
	return errors.Join(errs...)
}

// machine describes where the run took place.
func machine() string {
	return fmt.Sprintf("%d processors, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}
