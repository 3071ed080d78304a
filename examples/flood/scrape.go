package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What the parts of the chain say of themselves, read from outside: the
// protected shop serves its /metrics and what changed like any other service.

// The parts that refuse, in the order of the chain, and the series that count
// what they refused. The breaker in front of the recommendations is not one of
// them: a page that is made without them is not refused.
var refusers = []struct{ part, metric, labels string }{
	{"ratelimit", "spillway_ratelimit_requests_total", `outcome="denied"`},
	{"degrade", "spillway_degrade_requests_total", `outcome="shed"`},
	{"breaker", "spillway_breaker_requests_total", `breaker="catalogue",outcome="rejected"`},
	{"balancer", "spillway_balancer_unavailable_total", ""},
}

// A sample is one reading of the metrics.
type sample struct {
	At      float64            `json:"at"`      // seconds since the start
	Limit   float64            `json:"limit"`   // requests that may run at once
	Level   float64            `json:"level"`   // 0 is every feature
	Refused map[string]float64 `json:"refused"` // by part, since the start
}

// A scraper reads the metrics of the protected shop every so often.
type scraper struct {
	url    string
	client *http.Client

	mu      sync.Mutex
	samples []sample
}

func newScraper(shop string) *scraper {
	return &scraper{url: shop, client: &http.Client{Timeout: 2 * time.Second}}
}

// run reads until ctx ends. A reading that fails is left out, and not guessed.
func (s *scraper) run(ctx context.Context, start time.Time, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		s.read(start)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *scraper) read(start time.Time) {
	resp, err := s.client.Get(s.url + "/metrics")
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return
	}
	got, err := parseMetrics(resp.Body)
	if err != nil {
		return
	}
	got.At = time.Since(start).Seconds()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples = append(s.samples, got)
}

// at returns the last sample that was read by a time since the start.
func (s *scraper) at(t time.Duration) *sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.samples) - 1; i >= 0; i-- {
		if s.samples[i].At <= t.Seconds() {
			return &s.samples[i]
		}
	}
	return nil
}

// parseMetrics picks what is shown here out of the Prometheus text format.
func parseMetrics(r io.Reader) (sample, error) {
	got := sample{Refused: map[string]float64{}}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		series, value, ok := strings.Cut(lines.Text(), " ")
		if i := strings.LastIndexByte(lines.Text(), '}'); i >= 0 { // label values may hold spaces
			series, value, ok = lines.Text()[:i+1], strings.TrimSpace(lines.Text()[i+1:]), true
		}
		if !ok || strings.HasPrefix(series, "#") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		name, labels, _ := strings.Cut(series, "{")
		switch name {
		case "spillway_degrade_limit":
			got.Limit = v
		case "spillway_degrade_level":
			got.Level = v
		}
		for _, f := range refusers {
			if name == f.metric && strings.Contains(labels, f.labels) {
				got.Refused[f.part] += v
			}
		}
	}
	return got, lines.Err()
}

// A change is one sentence of a part about itself.
type change struct {
	At   time.Time `json:"at"`
	Part string    `json:"part"`
	Text string    `json:"text"`
}

// changes asks the protected shop what its parts have noted.
func (s *scraper) changes() ([]change, error) {
	resp, err := s.client.Get(s.url + "/changes")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var all []change
	return all, json.NewDecoder(resp.Body).Decode(&all)
}
