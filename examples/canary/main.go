// Canary rolls out a new version to a growing share of users, and takes it
// back by itself when it fails more than the old one. A good one replaces the
// old in one step, as green does blue.
//
//	go run ./examples/canary             # from the root of the repository
//	go run ./examples/canary -bad 0      # a good version: it is rolled out to all
//
// It starts two versions on loopback and sends requests through the split. You
// should see the canary's share grow from 5 % on, and fall to 0 soon after
// version 2 begins to fail. Until then a user who has seen the new version
// stays on it: the key of the split.
package main

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"time"

	"github.com/go-spillway/spillway/balancer"
)

// A rollout is the part to copy: one step, to be called every so often.
type rollout struct {
	split          *balancer.Splitter
	stable, canary *balancer.Balancer
	share          float64 // of the canary
	seen           [2]balancer.Stats
}

func newRollout(stable, canary string) *rollout {
	r := &rollout{
		stable: balancer.MustNew(balancer.Config{Name: "stable", Backends: balancer.URLs(stable)}),
		canary: balancer.MustNew(balancer.Config{Name: "canary", Backends: balancer.URLs(canary)}),
		share:  0.05,
	}
	r.split = balancer.MustNewSplit(balancer.SplitConfig{
		Shares: r.shares(),
		Key:    balancer.ByHeader("X-User"), // sticky: a user does not flip between versions
		Rules:  []balancer.Rule{{When: func(r *http.Request) bool { return r.Header.Get("X-Canary") == "yes" }, To: r.canary}},
	})
	return r
}

func (r *rollout) shares() []balancer.Share {
	return []balancer.Share{{Pool: r.stable, Weight: 1 - r.share}, {Pool: r.canary, Weight: r.share}}
}

// step looks at what both answered since the last step, and says what it did.
func (r *rollout) step() string {
	stable, canary := r.stable.Stats(), r.canary.Stats()
	failing := func(now, then balancer.Stats) (share float64, enough bool) {
		failed, all := now.Failure-then.Failure, now.Failure-then.Failure+now.Success-then.Success
		return float64(failed) / float64(max(all, 1)), all >= 20
	}
	old, _ := failing(stable, r.seen[0])
	fresh, enough := failing(canary, r.seen[1])
	if !enough {
		return "" // too few to judge by: wait
	}
	r.seen = [2]balancer.Stats{stable, canary}
	if fresh > old+0.02 {
		r.share = 0
		r.split.SetShares(r.shares()...)
		return fmt.Sprintf("version 2 fails %.0f %%, version 1 %.0f %%: rolled back", 100*fresh, 100*old)
	}
	r.share = min(1, r.share*2)
	r.split.SetShares(r.shares()...)
	return fmt.Sprintf("version 2 does well: its share is now %.0f %%", 100*r.share)
}

func main() {
	bad := flag.Float64("bad", 0.5, "`share` of requests that version 2 fails, from its 100th on")
	flag.Parse()
	if *bad < 0 || *bad > 1 {
		fmt.Fprintf(os.Stderr, "canary: -bad is %v, must be from 0 to 1\n", *bad)
		os.Exit(2)
	}
	one := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "1") }))
	defer one.Close()
	var asked atomic.Int64
	two := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 100 && rand.Float64() < *bad {
			http.Error(w, "version 2 is broken", http.StatusInternalServerError)
			return
		}
		io.WriteString(w, "2")
	}))
	defer two.Close()

	r := newRollout(one.URL, two.URL)
	front := httptest.NewServer(r.split.Proxy())
	defer front.Close()
	began := time.Now()
	sent := 0
	for r.share > 0 && r.share < 1 && sent < 20_000 {
		for range 200 {
			req, _ := http.NewRequest("GET", front.URL, nil)
			req.Header.Set("X-User", fmt.Sprint("user-", rand.IntN(2000)))
			if resp, err := http.DefaultClient.Do(req); err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			sent++
		}
		if what := r.step(); what != "" {
			fmt.Printf("after %5d requests: %s\n", sent, what)
		}
	}
	if r.share == 1 { // blue-green: the new version's backends become the stable ones, in one step
		r.stable.SetBackends(balancer.URLs(two.URL)...)
		r.share = 0
		r.split.SetShares(r.shares()...)
		fmt.Println("version 2 is the stable one")
	}
	fmt.Printf("%d requests in %.1f s\n", sent, time.Since(began).Seconds())
}
