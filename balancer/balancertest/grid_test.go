package balancertest_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/balancer/balancertest"
)

func guide() []balancertest.Server {
	l := make([]balancertest.Server, 20)
	l[19].Errors = 1
	l[18].Mean = 50 * time.Millisecond
	l[17].Mean = 50 * time.Millisecond
	return l
}

func TestExplore(t *testing.T) {
	if os.Getenv("EXPLORE") == "" {
		t.Skip()
	}
	for _, scene := range []string{"guide", "issue"} {
		for _, clients := range []int{1, 50} {
			for _, load := range []float64{0.7, 0.85, 0.95} {
				for _, p := range []struct {
					name string
					mk   func() balancer.Policy
				}{{"lat3", func() balancer.Policy { return balancer.Latency(3) }}, {"lat2", func() balancer.Policy { return balancer.Latency(2) }},
					{"p2c", balancer.TwoChoices}, {"lr", balancer.LeastRequests}, {"rr", balancer.RoundRobin}} {
					if (p.name == "lr" || p.name == "rr") && load != 0.85 {
						continue
					}
					servers, retry := guide(), false
					if scene == "issue" {
						servers, retry = balancertest.Mixed(20), true
					}
					start := time.Now()
					r := balancertest.Run(balancertest.Scenario{Servers: servers, Clients: clients, Load: load, Policy: p.mk, Retry: retry, Seed: 1, Duration: 60 * time.Second, Warmup: 10 * time.Second,
						Config: balancer.Config{Retry: balancer.Retry{PerTry: 500 * time.Millisecond}}})
					fmt.Printf("%s c=%d load=%.2f %-5s %v fail%% %.3f hang %.3f slow %.2f  (%v)\n", scene, clients, load, p.name, r, 100*r.Share[18], 100*r.Share[19], 100*(r.Share[17]+r.Share[16]), time.Since(start).Round(time.Millisecond))
				}
			}
		}
	}
}
