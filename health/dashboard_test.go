package health_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

// The page is looked at with a real Chromium in the nested module
// health/browsertest.

// state is what the page shows, as far as these tests look.
type state struct {
	Verdict, Headline, Phase string
	Conditions               []struct{ Subject, Text string }
	Now                      []struct {
		Label string
		Value *float64
		Unit  string
	}
	Plots []struct {
		Title string
		Times []float64
		Lines []struct {
			Name   string
			Values []*float64
		}
	}
	Parts []struct {
		Kind, Name, Tone string
		Facts            []struct {
			Label, Text string
			Value       *float64
		}
		Rows []struct{ Name, Tone string }
	}
	Checks []struct {
		Name, Status, Reason string
		Age                  *float64
	}
	Timeline []struct{ Time, Text string }
	Actions  []string
}

func stateOf(t *testing.T, page http.Handler) (s state) {
	rec := get(page, "/-/?state")
	require.Equal(t, 200, rec.Code)
	require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &s))
	return s
}

// part is a source with all that the page looks for.
type part struct {
	reads   atomic.Int64
	denied  atomic.Int64
	changed []time.Time
}

func (p *part) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	p.reads.Add(1)
	emit("spillway_ratelimit_requests_total", "", "counter", float64(p.denied.Load()), "policy", "api", "outcome", "denied")
	emit("spillway_breaker_state", "", "gauge", 0, "breaker", "inventory", "state", "closed")
	emit("spillway_breaker_state", "", "gauge", 1, "breaker", "inventory", "state", "open")
	emit("spillway_balancer_upstream_up", "", "gauge", 1, "pool", "web", "upstream", "a:80")
	emit("spillway_balancer_upstream_up", "", "gauge", 0, "pool", "web", "upstream", "b:80")
}

func (p *part) Changes() iter.Seq2[time.Time, string] {
	return func(yield func(time.Time, string) bool) {
		for _, at := range p.changed {
			if !yield(at, "inventory: opened") {
				return
			}
		}
	}
}

func (p *part) Conditions() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) { yield("inventory", "open until 12:00:05Z") }
}

func TestThePageSaysWhatIsGoingOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{Checks: map[string]health.Check{
			"db": {Probe: pass, Jitter: -1}, "redis": {Probe: fail, Optional: true, Jitter: -1, FailEvery: 10 * time.Second},
		}})
		p := &part{changed: []time.Time{time.Now().Add(-time.Hour), time.Now().Add(time.Second)}}
		page := health.Dashboard(h, p, h)
		front := h.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { time.Sleep(30 * time.Millisecond); w.WriteHeader(500) }))
		require.Equal(t, "Starting", stateOf(t, page).Headline)
		run(t, h)
		for range 100 {
			get(front, "/") // 33 a second
			p.denied.Add(1)
		}
		time.Sleep(time.Second)
		s := stateOf(t, page)
		require.Equal(t, "warn", s.Verdict)
		require.Equal(t, "Serving, degraded", s.Headline)
		require.Equal(t, "inventory", s.Conditions[1].Subject)
		require.Equal(t, "redis", s.Conditions[0].Subject)
		require.Equal(t, "failing since 00:00:00Z: error", s.Conditions[0].Text)

		now := map[string]float64{}
		for _, f := range s.Now {
			if f.Value != nil {
				now[f.Label] = *f.Value
			}
		}
		require.InDelta(t, 100.0/6, now["requests"], 0.1, "over the six seconds since the page was first asked")
		require.Equal(t, 100.0, now["errors"])
		require.InDelta(t, 0.0375, now["p50"], 0.001, "in the middle of the bucket from 25 to 50 ms")
		require.InDelta(t, 100.0/6, now["denied"], 0.1)
		require.Equal(t, 0.0, now["in flight"])

		parts := map[string]string{}
		for _, p := range s.Parts {
			parts[p.Kind+" "+p.Name] = p.Tone
		}
		require.Equal(t, map[string]string{"rate limit api": "", "breaker inventory": "bad", "pool web": "warn"}, parts)
		require.Equal(t, "db", s.Checks[0].Name)
		require.InDelta(t, 6, *s.Checks[0].Age, 0.01)
		var texts []string
		for _, e := range s.Timeline {
			texts = append(texts, e.Text)
		}
		require.Contains(t, texts, "redis: fail: error (was unknown)")
		require.Equal(t, "inventory: opened", s.Timeline[0].Text, "newest first, over all parts")
		require.Equal(t, "inventory: opened", s.Timeline[len(s.Timeline)-1].Text)

		h.Drain()
		time.Sleep(time.Second)
		s = stateOf(t, page)
		require.Equal(t, "fail", s.Verdict)
		require.Equal(t, "Draining: not ready, still serving", s.Headline)
		require.Equal(t, "draining", s.Phase)
	})
}

func TestThePlotsHaveAPastBeforeAnybodyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{})
		p := new(part)
		page := health.Dashboard(h, p)
		run(t, h)
		time.Sleep(time.Hour)
		s := stateOf(t, page)
		require.Equal(t, "requests", s.Plots[0].Title)
		n := len(s.Plots[0].Times)
		require.Equal(t, 119, n, "ten minutes of five seconds")
		require.InDelta(t, 5*118, s.Plots[0].Times[n-1]-s.Plots[0].Times[0], 1)
		require.InDelta(t, 3600/5, float64(p.reads.Load()), 3, "one reading every five seconds is all it costs")
	})
}

func TestWithoutAViewerOrACheckerThePageReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(part)
		health.Dashboard(p)
		health.Metrics(p)
		time.Sleep(time.Hour)
		require.Zero(t, p.reads.Load())
	})
}

// viewer reads a stream.
type viewer struct {
	bare
	mu     sync.Mutex
	events int
	last   string
}

func (v *viewer) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.events++
	v.last = string(p)
	return len(p), nil
}

func (v *viewer) Flush() {}

func (v *viewer) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.events
}

func watch(ctx context.Context, page http.Handler) (*viewer, chan struct{}) {
	v := &viewer{bare: bare{header: http.Header{}}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		page.ServeHTTP(v, httptest.NewRequestWithContext(ctx, "GET", "/-/?events", nil))
	}()
	return v, done
}

func TestTheStreamSendsTheStateEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(part)
		page := health.Dashboard(p)
		ctx, cancel := context.WithCancel(t.Context())
		viewers := []*viewer{}
		for range 20 {
			v, _ := watch(ctx, page)
			viewers = append(viewers, v)
		}
		time.Sleep(10*time.Second + time.Millisecond)
		for _, v := range viewers {
			require.Equal(t, 11, v.count())
			require.True(t, strings.HasPrefix(v.last, "data: {") && strings.HasSuffix(v.last, "}\n\n"))
			require.Equal(t, 2, strings.Count(v.last, "\n"), "one line is one event")
			require.Equal(t, "text/event-stream", v.header.Get("Content-Type"))
		}
		require.Equal(t, int64(11), p.reads.Load(), "twenty viewers cause one reading a second")
		cancel()
		time.Sleep(time.Minute)
		require.Equal(t, int64(11), p.reads.Load())
	})
}

func TestTheStreamEndsWhenTheServiceClosesAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{})
		front := h.Handler(health.Dashboard(h))
		ctx, cancel := context.WithCancel(t.Context())
		v, done := watch(t.Context(), front)
		time.AfterFunc(10*time.Second, cancel)
		start := time.Now()
		require.NoError(t, h.Serve(ctx, &http.Server{Handler: front}, newSilent()))
		<-done
		require.InDelta(t, 15, time.Since(start).Seconds(), 1.1, "it shows the drain of five seconds, and does not hold it up")
		require.Contains(t, v.last, `"phase":"closing"`, "the last thing it says is that it closes")
		require.Zero(t, value(t, h, "spillway_http_request_duration_seconds_count"), "its length is no latency")
	})
}

func TestViewersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		page := health.Dashboard()
		ctx, cancel := context.WithCancel(t.Context())
		for range 64 {
			watch(ctx, page)
		}
		synctest.Wait()
		rec := get(page, "/-/?events")
		require.Equal(t, 503, rec.Code)
		require.NotEmpty(t, rec.Header().Get("Retry-After"))
		cancel()
		synctest.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		v, done := watch(ctx, page)
		<-done
		require.Positive(t, v.count())
	})
}

func TestThePageNeedsNothingFromElsewhere(t *testing.T) {
	rec := get(health.Dashboard(), "/anywhere/")
	body := rec.Body.String()
	require.Equal(t, "text/html; charset=utf-8", rec.Header().Get("Content-Type"))
	require.Equal(t, "no-store", rec.Header().Get("Cache-Control"))
	require.NotRegexp(t, regexp.MustCompile(`https?://[^w]|//cdn|@import|url\(|<link[^>]+stylesheet|<script [^>]|<iframe`), body)
	require.NotRegexp(t, regexp.MustCompile(`innerHTML|insertAdjacentHTML|document\.write|eval\(`), body, "nothing that a name could get into")

	policy := rec.Header().Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'")
	require.Contains(t, policy, "frame-ancestors 'none'")
	require.NotContains(t, policy, "unsafe")
	for _, tag := range []string{"script", "style"} {
		m := regexp.MustCompile(`(?s)<` + tag + `>(.*)</` + tag + `>`).FindStringSubmatch(body)
		sum := sha256.Sum256([]byte(m[1]))
		require.Contains(t, policy, tag+"-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
}

func TestActionsAreOffUntilAllowedAndAuthorised(t *testing.T) {
	post := func(page http.Handler, query string, header ...string) int {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "http://service/-/?"+query, nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		page.ServeHTTP(rec, r)
		return rec.Code
	}
	h := health.MustNew(health.Config{})
	require.Equal(t, 403, post(health.Dashboard(h), "action=maintenance+on"))
	require.Empty(t, stateOf(t, health.Dashboard(h)).Actions)

	operator := func(r *http.Request) bool { return r.Header.Get("X-Operator") == "yes" }
	page := health.Dashboard(h).Allow(operator, append(h.MaintenanceActions(), health.Action{
		Name: "fail", Do: func(context.Context) error { return errors.New("no way") },
	}, health.Action{
		Name: "panic", Do: func(context.Context) error { panic("boom") },
	})...)
	require.Equal(t, []string{"maintenance on", "maintenance off", "fail", "panic"}, stateOf(t, page).Actions)
	require.Equal(t, 403, post(page, "action=maintenance+on"))
	require.Equal(t, 403, post(page, "action=maintenance+on", "X-Operator", "yes", "Sec-Fetch-Site", "cross-site"), "another site may not")
	require.Equal(t, 403, post(page, "action=maintenance+on", "X-Operator", "yes", "Origin", "https://evil.example"))
	require.True(t, h.Ready())
	require.Equal(t, 204, post(page, "action=maintenance+on", "X-Operator", "yes", "Sec-Fetch-Site", "same-origin"))
	require.False(t, h.Ready())
	require.Equal(t, 204, post(page, "action=maintenance+off", "X-Operator", "yes"))
	require.True(t, h.Ready())
	require.Equal(t, 404, post(page, "action=reboot", "X-Operator", "yes"))
	require.Equal(t, 500, post(page, "action=fail", "X-Operator", "yes"))
	require.Equal(t, 500, post(page, "action=panic", "X-Operator", "yes"))
	require.Equal(t, 403, post(health.Dashboard(h).Allow(func(*http.Request) bool { panic("bad token") }, h.MaintenanceActions()...), "action=maintenance+on"))
	require.Equal(t, 405, get(page, "/-/?action=maintenance+on").Code, "a link can't do it")
	require.Equal(t, 405, post(page, "state"))
}

// The script of the page goes through the lists without asking.
func TestAListOfTheStateIsNeverNull(t *testing.T) {
	for _, page := range []http.Handler{health.Dashboard(), health.Dashboard(health.MustNew(health.Config{})), health.Dashboard(new(part))} {
		var s map[string]any
		require.NoError(t, json.Unmarshal(get(page, "/?state").Body.Bytes(), &s))
		for _, list := range []string{"conditions", "now", "plots", "parts", "checks", "timeline", "process"} {
			require.IsType(t, []any{}, s[list], list)
		}
	}
}

func TestASourceThatPanicsLeavesThePageAlive(t *testing.T) {
	s := newSource(func(func(name, help, kind string, value float64, labels ...string)) { panic("boom") })
	require.Equal(t, "Serving", stateOf(t, health.Dashboard(s, bad{})).Headline)
}

// bad panics wherever the page calls it.
type bad struct{}

func (bad) Collect(func(name, help, kind string, value float64, labels ...string)) { panic("boom") }
func (bad) Changes() iter.Seq2[time.Time, string]                                  { panic("boom") }
func (bad) Conditions() iter.Seq2[string, string] {
	return func(func(string, string) bool) { panic("boom") }
}
