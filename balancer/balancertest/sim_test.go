package balancertest_test

import (
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/balancer/balancertest"
)

// full runs the long version: every cell, for a minute of virtual time.
//
//	SPILLWAY_SIMULATION=full go test -v ./balancer/balancertest
var full = os.Getenv("SPILLWAY_SIMULATION") == "full"

// rivals are the policies that the default is compared with.
var rivals = []struct {
	name string
	make func() balancer.Policy
}{
	{"latency", func() balancer.Policy { return balancer.Latency(3) }},
	{"two choices", balancer.TwoChoices},
	{"least requests", balancer.LeastRequests},
	{"round robin", balancer.RoundRobin},
	{"random", balancer.Random},
}

// notUnderRace skips what the race detector makes many times slower without
// finding anything: a simulation is one goroutine.
func notUnderRace(t *testing.T) {
	if raceEnabled {
		t.Skip("one goroutine, and slow")
	}
}

// badDay is 20 backends: two five times slower, one that fails fast, one that
// hangs. Clients retry.
func badDay(clients int, load float64, policy func() balancer.Policy) balancertest.Scenario {
	s := balancertest.Scenario{
		Servers:  balancertest.Mixed(20),
		Clients:  clients,
		Load:     load,
		Policy:   policy,
		Retry:    true,
		Config:   balancer.Config{Retry: balancer.Retry{PerTry: 500 * time.Millisecond}},
		Warmup:   10 * time.Second,
		Duration: time.Minute,
		Seed:     1,
	}
	return s
}

func briefly(s balancertest.Scenario) balancertest.Scenario {
	s.Duration = 10 * time.Second
	return s
}

func TestTheBadDayHurtsNobody(t *testing.T) {
	notUnderRace(t)
	for _, clients := range []int{1, 50} {
		for _, load := range []float64{0.70, 0.85, 0.95} {
			t.Run(fmt.Sprintf("%d clients, %.0f %%", clients, 100*load), func(t *testing.T) {
				t.Parallel()
				if testing.Short() && load != 0.85 {
					t.Skip("long")
				}
				day := badDay(clients, load, nil)
				if clients == 1 && !full {
					day = briefly(day)
				}
				ours := balancertest.Run(day)
				t.Logf("%-15s %v  failing %.3f %%  hanging %.3f %%", "default", ours, 100*ours.Share[18], 100*ours.Share[19])
				require.Less(t, ours.Share[18], 0.001, "to the one that fails fast")
				require.Less(t, ours.Share[19], 0.0015, "to the one that hangs")
				require.Less(t, ours.Errors, 0.0005, "what clients see")
				if clients == 50 && load == 0.85 {
					require.LessOrEqual(t, ours.P99, 90*time.Millisecond)
				}
				if !full && (load != 0.85 || clients == 1) {
					return
				}
				if !full {
					ours = balancertest.Run(briefly(badDay(clients, load, nil)))
				}
				for _, p := range rivals {
					day := badDay(clients, load, p.make)
					if !full {
						day = briefly(day)
					}
					r := balancertest.Run(day)
					t.Logf("%-15s %v  failing %.3f %%  hanging %.3f %%", p.name, r, 100*r.Share[18], 100*r.Share[19])
					require.LessOrEqual(t, float64(ours.P99), 1.1*float64(r.P99), "against %s", p.name)
				}
			})
		}
	}
}

// blackHole is 20 backends: two slow, one failing fast, nobody ejects.
func blackHole(clients int, policy func() balancer.Policy) balancertest.Result {
	servers := make([]balancertest.Server, 20)
	servers[17].Mean, servers[18].Mean, servers[19].Errors = 50*time.Millisecond, 50*time.Millisecond, 1
	return balancertest.Run(balancertest.Scenario{
		Servers: servers, Clients: clients, Load: 0.85, Policy: policy, Seed: 1, Duration: 5 * time.Second,
		Config: balancer.Config{Eject: balancer.Eject{Consecutive: -1}},
	})
}

func TestFailingFastNeverLooksFast(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	require.Less(t, blackHole(1, nil).Share[19], 0.005)
	require.Less(t, blackHole(50, nil).Share[19], 0.01)
	// And the simulation shows what happens to those who do not look at errors.
	require.Greater(t, blackHole(1, balancer.LeastRequests).Share[19], 0.25)
	require.InDelta(t, 0.05, blackHole(1, balancer.RoundRobin).Share[19], 0.001)
}

func TestShortErrorBurstEverywhereDoesNotEmptyThePool(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	blip := func(errors float64, cfg balancer.Config, retry bool) balancertest.Result {
		all := func(share float64) func(*balancertest.Simulation) {
			return func(s *balancertest.Simulation) {
				for i := range 20 {
					s.Change(i, balancertest.Server{Errors: share})
				}
			}
		}
		return balancertest.Run(balancertest.Scenario{
			Servers: make([]balancertest.Server, 20), Clients: 10, Load: 0.6, Seed: 1, Config: cfg, Retry: retry,
			Duration: 25 * time.Second,
			Events:   []balancertest.Event{{At: 10 * time.Second, Do: all(errors)}, {At: 20 * time.Second, Do: all(0)}},
		})
	}
	during := func(r balancertest.Result) float64 { return r.Success(10*time.Second, 20*time.Second) }
	after := func(r balancertest.Result) float64 { return r.Success(21*time.Second, 30*time.Second) }
	for share, least := range map[float64]float64{0.05: 0.948, 0.30: 0.69, 0.80: 0.19} {
		r := blip(share, balancer.Config{}, false)
		require.Greater(t, during(r), least, "%v of errors", share)
		require.Greater(t, after(r), 0.999, "%v of errors", share)
	}
	require.Greater(t, during(blip(0.05, balancer.Config{}, true)), 0.999, "with retries")

	// One failure, half a minute out, everybody may be: the rule of some.
	r := blip(0.05, balancer.Config{PanicShare: -1,
		Eject: balancer.Eject{Consecutive: 1, Ratio: -1, Base: 30 * time.Second, Max: 30 * time.Second, MaxShare: 1}}, false)
	require.Less(t, during(r), 0.5)
}

func TestRetryStormEndsWithTheSurge(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	surge := func(retry bool, unlimited int) balancertest.Result {
		return balancertest.Run(balancertest.Scenario{
			Servers: make([]balancertest.Server, 20), Clients: 10, Load: 0.8, Seed: 1, Retry: retry, Unlimited: unlimited,
			Config:  balancer.Config{Retry: balancer.Retry{Max: 3, PerTry: time.Second}},
			Timeout: map[bool]time.Duration{true: 4 * time.Second, false: time.Second}[retry],
			Events: []balancertest.Event{
				{At: 10 * time.Second, Do: func(s *balancertest.Simulation) { s.SetLoad(1.2) }},
				{At: 20 * time.Second, Do: func(s *balancertest.Simulation) { s.SetLoad(0.8) }},
			},
			Duration: 30 * time.Second,
		})
	}
	r := surge(true, 0)
	t.Logf("budget:    %v  after the surge %.2f %%", r, 100*r.Success(25*time.Second, 35*time.Second))
	require.Greater(t, r.Success(25*time.Second, 35*time.Second), 0.99)
	require.Less(t, r.Attempts, 1.25, "a fifth, and ten a second for each of ten clients")
	if testing.Short() {
		return
	}
	r = surge(false, 3)
	t.Logf("no budget: %v  after the surge %.2f %%", r, 100*r.Success(25*time.Second, 35*time.Second))
	require.Less(t, r.Success(25*time.Second, 35*time.Second), 0.2, "it never recovers")
	require.Greater(t, r.Attempts, 2.0)
}

// leastTime is the formula of a rival: an unknown backend has a latency of 0,
// and looks better than any other whatever is under way to it.
type leastTime struct{}

func (leastTime) Picker(ready []*balancer.Endpoint) balancer.Picker {
	return func(balancer.Call) *balancer.Endpoint {
		best := ready[0]
		score := func(e *balancer.Endpoint) float64 { return float64(e.Latency()) * float64(1+e.InFlight()) }
		for _, e := range ready {
			if score(e) < score(best) {
				best = e
			}
		}
		return best
	}
}

func TestNewcomerGetsNeitherTheHerdNorNothing(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	join := func(clients int, cfg balancer.Config, policy func() balancer.Policy) balancertest.Result {
		members := make([]int, 19)
		for i := range members {
			members[i] = i
		}
		servers := make([]balancertest.Server, 20)
		servers[19].Mean = 30 * time.Millisecond // cold: three times slower for five seconds
		return balancertest.Run(balancertest.Scenario{
			Servers: servers, Members: members, Clients: clients, Load: 0.7, Seed: 1, Config: cfg, Policy: policy,
			Duration: 35 * time.Second,
			Events: []balancertest.Event{
				{At: 10 * time.Second, Do: func(s *balancertest.Simulation) { s.SetMembers(append(members, 19)...) }},
				{At: 15 * time.Second, Do: func(s *balancertest.Simulation) { s.Change(19, balancertest.Server{}) }},
			},
		})
	}
	at := func(r balancertest.Result, from, to int) float64 {
		return r.ShareOf(19, time.Duration(10+from)*time.Second, time.Duration(10+to)*time.Second)
	}
	for _, clients := range []int{1, 50} {
		r := join(clients, balancer.Config{}, nil)
		t.Logf("%2d clients: first second %.2f %%, second to fifth %.2f %%, sixth to tenth %.2f %%, then %.2f %%; longest queue %d",
			clients, 100*at(r, 0, 1), 100*at(r, 1, 5), 100*at(r, 5, 10), 100*at(r, 15, 30), r.LongestQueue[19])
		require.Less(t, at(r, 0, 1), 0.01, "little at first")
		require.Greater(t, at(r, 0, 5), 0.0005, "but something")
		require.Greater(t, at(r, 15, 30), 0.035, "and its share at last, of which a twentieth is fair")
		require.Less(t, r.LongestQueue[19], 50)
		require.Zero(t, r.Errors)

		r = join(clients, balancer.Config{SlowStart: -1}, nil)
		require.Less(t, at(r, 0, 1), 0.05, "no herd without a slow start either")
	}
	r := join(50, balancer.Config{SlowStart: -1}, func() balancer.Policy { return leastTime{} })
	require.Greater(t, at(r, 0, 1), 0.25, "the rival's herd")
	require.Greater(t, r.LongestQueue[19], 500)
}

func TestEqualBackendsGetEqualShares(t *testing.T) {
	notUnderRace(t)
	t.Parallel()
	for _, clients := range []int{1, 50} {
		r := balancertest.Run(balancertest.Scenario{Servers: make([]balancertest.Server, 20), Clients: clients, Load: 0.7, Seed: 1, Duration: 10 * time.Second})
		for i, share := range r.Share {
			require.InDelta(t, 0.05, share, 0.0075, "server %d with %d clients", i, clients)
		}
	}
}

func TestSameSeedSameRun(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) balancertest.Result {
		s := badDay(10, 0.85, nil)
		s.Seed, s.Duration, s.Warmup = seed, 3*time.Second, time.Second
		return balancertest.Run(s)
	}
	require.Equal(t, run(7), run(7))
	require.NotEqual(t, run(7).Hash, run(8).Hash)
}

func TestStoppedBackendIsNoticedBeforeItsFirstTimeout(t *testing.T) {
	t.Parallel()
	r := balancertest.Run(balancertest.Scenario{
		Servers: make([]balancertest.Server, 20), Load: 0.7, Seed: 1, Warmup: 10 * time.Second, Duration: 5 * time.Second,
		Timeout: 3 * time.Second,
		Events:  []balancertest.Event{{At: 10 * time.Second, Do: func(s *balancertest.Simulation) { s.Change(5, balancertest.Server{Hangs: true}) }}},
	})
	require.Less(t, r.ShareOf(5, 10*time.Second, 11*time.Second), 0.004, "instead of a twentieth")
	require.Zero(t, r.ShareOf(5, 11*time.Second, 13*time.Second))
}

func Example() {
	// The default policy, and the less busy of two, on a bad day.
	day := balancertest.Scenario{
		Servers: balancertest.Mixed(20), // two are slow, one fails fast, one hangs
		Clients: 50, Load: 0.7, Seed: 1,
		Warmup: 10 * time.Second, Duration: 5 * time.Second,
	}
	ours := balancertest.Run(day)
	day.Policy = balancer.TwoChoices
	theirs := balancertest.Run(day)
	fmt.Println(theirs.P99 > 3*ours.P99)
	// Output: true
}

func TestARequestWithoutABackendIsAnErrorAndNoRetry(t *testing.T) {
	r := balancertest.Run(balancertest.Scenario{
		Servers: make([]balancertest.Server, 2), Load: 0.1, Duration: time.Second, Warmup: time.Nanosecond,
		Config: balancer.Config{PanicShare: -1, Healthy: func(balancer.Backend) bool { return false }},
	})
	require.Positive(t, r.Requests)
	require.EqualValues(t, 1, r.Errors)
	require.Zero(t, r.Retries)
	require.Zero(t, r.Attempts)
}

func TestAScenarioThatCannotRunSaysSo(t *testing.T) {
	hang := []balancertest.Server{{Hangs: true}}
	for want, cfg := range map[string]balancertest.Scenario{
		"balancertest: Scenario.Servers is empty, must have a server":                        {Load: 1},
		"balancertest: Load is 0.5 of 0 requests per second, must make a positive number":    {Load: 0.5, Servers: hang},
		"balancertest: Load is 0 of 400 requests per second, must make a positive number":    {Servers: make([]balancertest.Server, 1)},
		"balancertest: Load is +Inf of 400 requests per second, must make a positive number": {Load: math.Inf(1), Servers: make([]balancertest.Server, 1)},
	} {
		require.PanicsWithValue(t, want, func() { balancertest.Run(cfg) })
	}
	require.PanicsWithValue(t, "balancertest: Mixed: n is 3, must be at least 4", func() { balancertest.Mixed(3) })
}
