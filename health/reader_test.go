package health_test

import (
	"encoding/json"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

// stuck is a source that does not answer until it is freed.
type stuck struct {
	free  chan struct{}
	calls atomic.Int64
}

func newStuck() *stuck { return &stuck{free: make(chan struct{})} }

func (s *stuck) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	s.calls.Add(1)
	<-s.free
	emit("stuck", "", "gauge", 1)
}

func TestASourceThatHangsHoldsUpNoScrapeForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStuck()
		sane := newSource(func(emit func(name, help, kind string, value float64, labels ...string)) {
			emit("sane", "", "gauge", 1)
		})
		page := health.Metrics(s, sane)
		scraped := func() (body string, took time.Duration) {
			start := time.Now()
			return get(page, "/metrics").Body.String(), time.Since(start)
		}
		body, took := scraped()
		require.Equal(t, 3*time.Second, took)
		require.Contains(t, body, "\nsane 1\n", "the others are there")
		require.Contains(t, body, "\nspillway_scrape_timeouts 1\n", "and what is missing is said")
		for range 100 {
			_, took = scraped()
			require.Zero(t, took, "once is enough")
		}
		require.EqualValues(t, 1, s.calls.Load(), "one goroutine, however many ask")

		close(s.free)
		synctest.Wait()
		body, _ = scraped()
		require.Contains(t, body, "\nstuck 1\n")
		require.Contains(t, body, "\nspillway_scrape_timeouts 0\n")
	})
}

func TestASourceThatHangsHoldsUpNeitherTheViewersNorTheChecker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		h := health.MustNew(health.Config{
			Checks: map[string]health.Check{"db": {Probe: fail, EscalateAfter: time.Minute, Jitter: -1}},
			OnChange: func(c health.Change) {
				if c.Subject == "live" {
					told = append(told, c.To)
				}
			},
		})
		s := newStuck()
		page := health.Dashboard(h, s)
		run(t, h)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Equal(t, []string{"fail"}, told, "nobody has asked, so it is the tick of Run that has noticed")

		start := time.Now()
		for range 64 {
			got := stateOf(t, page)
			require.Equal(t, "Not alive", got.Headline)
			require.Contains(t, got.Conditions, struct{ Subject, Text string }{
				"*health_test.stuck", "does not answer: what it has to show is missing",
			})
		}
		require.Zero(t, time.Since(start))
		require.EqualValues(t, 1, s.calls.Load())
		close(s.free)
	})
}

// wordy hangs where it is asked for words.
type wordy struct{ *stuck }

func (wordy) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	emit("wordy", "", "gauge", 1)
}

func (w wordy) Conditions() iter.Seq2[string, string] {
	return func(func(string, string) bool) { <-w.free }
}

func TestWordsThatDoNotComeHoldUpNeitherThePageNorTheNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wordy{newStuck()}
		start := time.Now()
		page, metrics, vars := health.Dashboard(w), health.Metrics(w), health.Vars(w)
		require.Len(t, stateOf(t, page).Conditions, 1)
		require.Contains(t, get(metrics, "/metrics").Body.String(), "\nwordy 1\n")
		require.True(t, json.Valid([]byte(vars.String())))
		require.Equal(t, 3*time.Second, time.Since(start))
		close(w.free)
	})
}

func TestASourceThatIsSlowIsReadOnceForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int64
		page := health.Metrics(newSource(func(emit func(name, help, kind string, value float64, labels ...string)) {
			time.Sleep(2 * time.Second)
			emit("slow", "", "gauge", float64(reads.Add(1)))
		}))
		var viewers sync.WaitGroup
		for range 50 {
			viewers.Go(func() {
				if body := get(page, "/metrics").Body.String(); !strings.Contains(body, "\nslow 1\n") {
					t.Error(body)
				}
			})
		}
		viewers.Wait()
		require.EqualValues(t, 1, reads.Load())
	})
}
