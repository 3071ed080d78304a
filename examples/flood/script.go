package main

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// An act is one part of the flood: so much load for so long, and what is done
// to the backends meanwhile.
type act struct {
	Name   string
	Load   float64 // in multiples of the measured capacity
	Weight float64 // its share of the script's length, in seconds of the usual form
	steps  []step
}

// A step is one thing that is done to both sides alike.
type step struct {
	at   float64 // share of the act that has passed
	what string
	do   func(*deployment) error
}

// script is the flood. What is broken in an act is mended before its end.
func script() []act {
	return []act{
		{Name: "half load", Load: 0.5, Weight: 3},
		{Name: "double", Load: 2, Weight: 6},
		{Name: "ten times", Load: 10, Weight: 7},
		{Name: "backend killed", Load: 0.5, Weight: 5, steps: []step{
			{0.25, "kill -9 of backend 1", func(d *deployment) error { return d.backends[0].kill() }},
			{0.75, "backend 1 is started again", func(d *deployment) error { return d.replace(0, nil) }},
		}},
		{Name: "backend hung", Load: 0.5, Weight: 5, steps: []step{
			{0.1, "SIGSTOP: backend 2 hangs", func(d *deployment) error { return d.backends[1].freeze() }},
			{0.7, "SIGCONT: backend 2 goes on", func(d *deployment) error { return d.backends[1].thaw() }},
		}},
		{Name: "slow database", Load: 0.5, Weight: 7, steps: []step{
			{0.1, "the database becomes 5 times slower", func(d *deployment) error { return d.slow(slowDatabase) }},
			{0.75, "the database is itself again", func(d *deployment) error { return d.slow(1) }},
		}},
		{Name: "bad deploy", Load: 0.5, Weight: 5, steps: []step{
			{0.1, "v2 on backend 3: it says it is ready, and answers 500", func(d *deployment) error { return d.deploy(2, "v2") }},
			{0.7, "backend 3 is rolled back", func(d *deployment) error { return d.deploy(2, "v1") }},
		}},
		{Name: "recovery", Load: 0.5, Weight: 3},
		{Name: "rolling restart", Load: 0.5, Weight: 8, steps: []step{
			{0.08, "SIGTERM to backend 1, and its successor", func(d *deployment) error { return d.deploy(0, "v1") }},
			{0.37, "SIGTERM to backend 2, and its successor", func(d *deployment) error { return d.deploy(1, "v1") }},
			{0.66, "SIGTERM to backend 3, and its successor", func(d *deployment) error { return d.deploy(2, "v1") }},
		}},
	}
}

// targetScript floods somebody's own service, which nothing is done to.
func targetScript() []act {
	return []act{
		{Name: "half load", Load: 0.5, Weight: 8},
		{Name: "full", Load: 1, Weight: 8},
		{Name: "double", Load: 2, Weight: 10},
		{Name: "ten times", Load: 10, Weight: 12},
		{Name: "recovery", Load: 0.5, Weight: 10},
	}
}

// A deployment is one side: a shop and its backends.
type deployment struct {
	name     string
	shop     *child
	backends []*child
}

// startDeployment starts a side's processes.
func startDeployment(name string, protected bool, seed uint64, plans map[string]int) (*deployment, error) {
	d := &deployment{name: name, backends: make([]*child, backendCount)}
	urls, errs := make([]string, backendCount), make([]error, backendCount)
	var wg sync.WaitGroup
	for i := range backendCount {
		wg.Go(func() {
			d.backends[i], errs[i] = startChild(childSpec{
				Role: "backend", Name: backendName(i), Addr: "127.0.0.1:0", Protected: protected,
				Connections: connections, Version: "v1", Seed: seed*backendCount + uint64(i),
			})
			if errs[i] == nil {
				urls[i] = d.backends[i].url
			}
		})
	}
	wg.Wait()
	err := errors.Join(errs...)
	if err == nil {
		d.shop, err = startChild(childSpec{Role: "shop", Name: name, Addr: "127.0.0.1:0", Protected: protected, Backends: urls, Plans: plans})
	}
	if err != nil {
		d.end()
		return nil, err
	}
	return d, nil
}

func backendName(i int) string { return fmt.Sprintf("backend %d", i+1) }

// end ends the processes, whatever was done to them.
func (d *deployment) end() {
	d.shop.end()
	for _, b := range d.backends {
		b.end()
	}
}

// replace starts the successor of a backend that is gone.
func (d *deployment) replace(i int, change func(*childSpec)) error {
	b, err := d.backends[i].restart(change)
	if err == nil {
		d.backends[i] = b
	}
	return err
}

// deploy ends a backend politely and starts another version in its place.
func (d *deployment) deploy(i int, version string) error {
	if err := d.backends[i].term(); err != nil {
		return err
	}
	return d.replace(i, func(s *childSpec) { s.Version = version })
}

// slow makes the database of every backend so many times slower than usual.
func (d *deployment) slow(times float64) error {
	client := &http.Client{Timeout: 5 * time.Second}
	for _, b := range d.backends {
		req, err := http.NewRequest(http.MethodPut, b.url+"/-/database?slower="+strconv.FormatFloat(times, 'g', -1, 64), nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("the database of %s: %s", b.spec.Name, resp.Status)
		}
	}
	return nil
}

// both does a step to all sides at once, and returns what went wrong.
func both(sides []*deployment, do func(*deployment) error) error {
	errs := make([]error, len(sides))
	var wg sync.WaitGroup
	for i, d := range sides {
		wg.Go(func() {
			if err := do(d); err != nil {
				errs[i] = fmt.Errorf("%s: %w", d.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
