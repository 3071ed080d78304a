package degrade_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
)

// full returns a Shedder whose only slot is taken.
func full(t *testing.T, cfg degrade.Config) *degrade.Shedder {
	cfg.Limit = 1
	if cfg.MaxWait == 0 {
		cfg.MaxWait = -1
	}
	shed := degrade.MustNew(cfg)
	release, err := shed.Acquire(context.Background(), degrade.Normal)
	require.NoError(t, err)
	t.Cleanup(release)
	return shed
}

var ok = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })

func TestARefusalSaysWhenToComeBack(t *testing.T) {
	w := get(full(t, degrade.Config{}).Handler(ok))
	require.Equal(t, 503, w.Code)
	n, err := strconv.Atoi(w.Header().Get("Retry-After"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, 1)
	require.Equal(t, "text/plain; charset=utf-8", w.Header().Get("Content-Type"))
	require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.NotEmpty(t, w.Body.String())
}

func TestARefusalIsAProblemForThoseWhoAskForJSON(t *testing.T) {
	w := get(full(t, degrade.Config{}).Handler(ok), func(r *http.Request) { r.Header.Set("Accept", "application/json") })
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	require.Contains(t, w.Body.String(), `"status":503`)
}

func TestARefusedHEADHasNoBody(t *testing.T) {
	w := get(full(t, degrade.Config{}).Handler(ok), func(r *http.Request) { r.Method = "HEAD" })
	require.Equal(t, 503, w.Code)
	require.Empty(t, w.Body.String())
}

func TestAFallbackAnswersTheRefused(t *testing.T) {
	shed := full(t, degrade.Config{Fallback: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		io.WriteString(w, "from yesterday, retry in "+w.Header().Get("Retry-After"))
	})})
	w := get(shed.Handler(ok))
	require.Equal(t, 200, w.Code)
	require.Contains(t, w.Body.String(), "from yesterday, retry in ")
}

// The more is refused, the later and the more spread out the refused come back.
func TestRetryAfterGrowsWithTheBacklogAndIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shed := degrade.MustNew(degrade.Config{Limit: 1})
		h := shed.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(100 * time.Millisecond) }))
		get(h)
		release, err := shed.Acquire(t.Context(), degrade.Normal)
		require.NoError(t, err)
		seen := map[string]int{}
		for range 100 {
			go func() { get(h) }()
		}
		synctest.Wait()
		for range 100 {
			w := get(h)
			require.Equal(t, 503, w.Code)
			n, _ := strconv.Atoi(w.Header().Get("Retry-After"))
			require.LessOrEqual(t, n, 35)
			seen[w.Header().Get("Retry-After")]++
		}
		// 200 refused in a second at 10 a second: up to 20 s.
		require.Greater(t, len(seen), 5, "jittered")
		release()
		time.Sleep(time.Minute)
	})
}

func TestOnlyTheTrustedSetPriorityAndTimeout(t *testing.T) {
	var got degrade.Priority
	var left bool
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = degrade.PriorityOf(r.Context())
		_, left = r.Context().Deadline()
	})
	shed := degrade.MustNew(degrade.Config{
		Priority: func(*http.Request) degrade.Priority { return degrade.Sheddable },
		Trust:    func(r *http.Request) bool { return strings.HasPrefix(r.RemoteAddr, "10.") },
	})
	edit := func(addr string) func(*http.Request) {
		return func(r *http.Request) {
			r.RemoteAddr = addr + ":1"
			r.Header.Set(degrade.PriorityHeader, "critical")
			r.Header.Set(degrade.TimeoutHeader, "500")
		}
	}
	get(shed.Handler(next), edit("203.0.113.1"))
	require.Equal(t, degrade.Sheddable, got)
	require.False(t, left)
	get(shed.Handler(next), edit("10.0.0.1"))
	require.Equal(t, degrade.Critical, got)
	require.True(t, left)
}

func TestWhatCannotBeDoneInTimeIsNotStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shed := degrade.MustNew(degrade.Config{Limit: 1})
		h := shed.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(100 * time.Millisecond) }))
		for range 100 {
			get(h)
		}
		release, err := shed.Acquire(t.Context(), degrade.Normal)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err = shed.Acquire(ctx, degrade.Critical)
		require.ErrorIs(t, err, degrade.ErrRefused, "it takes 100 ms and has 50")
		require.Zero(t, time.Since(began), "at the door")
		release()
	})
}

func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shed := full(t, degrade.Config{MaxWait: 300 * time.Millisecond})
		began := time.Now()
		_, err := shed.Acquire(t.Context(), degrade.Normal)
		var refused *degrade.RefusedError
		require.ErrorAs(t, err, &refused)
		require.LessOrEqual(t, time.Since(began), 300*time.Millisecond)
		require.Equal(t, time.Since(began), refused.Waited)
	})
}

func TestLongLivedRequestsHoldNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shed := degrade.MustNew(degrade.Config{Limit: 1, MaxWait: -1})
		h := shed.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept") != "" {
				time.Sleep(time.Hour)
			}
		}))
		go get(h, func(r *http.Request) { r.Header.Set("Accept", "text/event-stream") })
		synctest.Wait()
		st := shed.Stats()
		require.Equal(t, 1, st.Streams)
		require.Zero(t, st.InFlight)
		require.Equal(t, 200, get(h).Code)
		time.Sleep(2 * time.Hour)
		require.Zero(t, shed.Stats().Streams)
		require.Less(t, shed.Stats().Latency, time.Second, "an hour is not what a request takes")
	})
}

// Even when nobody has said that it would be long.
func TestOneEndlessRequestDoesNotPassForASlowBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shed := degrade.MustNew(degrade.Config{})
		h := shed.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d, _ := time.ParseDuration(r.Header.Get("Work"))
			time.Sleep(d)
		}))
		work := func(d string) func(*http.Request) { return func(r *http.Request) { r.Header.Set("Work", d) } }
		for range 200 {
			get(h, work("10ms"))
		}
		get(h, work("5h"))
		require.Less(t, shed.Stats().Latency, 50*time.Millisecond)
	})
}

func TestExemptRequestsAlwaysPass(t *testing.T) {
	shed := full(t, degrade.Config{Exempt: func(r *http.Request) bool { return true }})
	require.Equal(t, 200, get(shed.Handler(ok)).Code)
	require.Equal(t, uint64(1), shed.Stats().Admitted, "not counted")
}

func TestADryRunCountsAndRefusesNobody(t *testing.T) {
	shed := full(t, degrade.Config{DryRun: true})
	for range 5 {
		require.Equal(t, 200, get(shed.Handler(ok)).Code)
	}
	require.Equal(t, uint64(5), shed.Stats().Refused)
	require.Equal(t, 1, shed.Stats().InFlight)
}

func TestAHijackedConnectionGivesItsSlotBack(t *testing.T) {
	shed := degrade.MustNew(degrade.Config{Limit: 1})
	h := shed.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			c.Close()
		}
	}))
	done := make(chan bool, 3)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		done <- true
	}))
	defer srv.Close()
	for range 3 {
		_, err := http.Get(srv.URL)
		require.Error(t, err)
		<-done
	}
	require.Zero(t, shed.Stats().InFlight)
}

func TestEventsBeginAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		shed := full(t, degrade.Config{Name: "api", OnChange: func(c degrade.Change) {
			told = append(told, c.Text)
			panic("a hook must not kill the service")
		}})
		for range shed.Conditions() {
			t.Fatal("all is well")
		}
		get(shed.Handler(ok))
		get(shed.Handler(ok))
		require.Equal(t, []string{"api: began to refuse: 1 of 1 slots taken"}, told)
		require.Equal(t, uint64(1), shed.Stats().HookPanics)
		for subject, text := range shed.Conditions() {
			require.Equal(t, "api", subject)
			require.Contains(t, text, "refusing requests")
		}
		time.Sleep(10 * time.Second)
		var texts []string
		for _, text := range shed.Changes() {
			texts = append(texts, text)
		}
		require.Equal(t, []string{"api: began to refuse: 1 of 1 slots taken", "api: refused no more: 2 requests in 0s"}, texts)
		require.False(t, shed.Stats().Refusing)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int) (*http.Response, error) {
	return &http.Response{StatusCode: status, Body: http.NoBody, Header: http.Header{}}, nil
}

func TestTransportPassesPriorityAndTimeLeftOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got http.Header
		rt := degrade.MustNew(degrade.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			got = r.Header
			return answer(200)
		}))
		ctx, cancel := context.WithTimeout(degrade.WithPriority(t.Context(), degrade.Critical), 1500*time.Millisecond)
		defer cancel()
		r, _ := http.NewRequestWithContext(ctx, "GET", "http://next/", nil)
		_, err := rt.RoundTrip(r)
		require.NoError(t, err)
		require.Equal(t, "critical", got.Get(degrade.PriorityHeader))
		require.Equal(t, "1500", got.Get(degrade.TimeoutHeader))
		require.Empty(t, r.Header, "the caller's request is not changed")

		time.Sleep(time.Second)
		for told, want := range map[string]string{"2000": "500", "500": "500", "200": "200", "soon": "soon"} {
			r.Header.Set(degrade.TimeoutHeader, told)
			_, err = rt.RoundTrip(r)
			require.NoError(t, err)
			require.Equal(t, []string{want}, got.Values(degrade.TimeoutHeader), "no more than is left is promised")
			require.Equal(t, told, r.Header.Get(degrade.TimeoutHeader), "the caller's request is not changed")
		}
	})
}

type closer struct{ closed bool }

func (c *closer) Read([]byte) (int, error) { return 0, io.EOF }
func (c *closer) Close() error             { c.closed = true; return nil }

func TestTransportHoldsBackWhileTheServerRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent, status := 0, 503
		shed := degrade.MustNew(degrade.Config{})
		rt := shed.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			sent++
			return answer(status)
		}))
		do := func(host string) error {
			body := &closer{}
			r, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+host+"/", body)
			_, err := rt.RoundTrip(r)
			if err != nil {
				require.ErrorIs(t, err, degrade.ErrRefused)
				require.True(t, body.closed)
			}
			return err
		}
		for range 1000 {
			do("busy")
			time.Sleep(10 * time.Millisecond)
		}
		require.Less(t, sent, 100, "of 1000 in ten seconds")
		require.GreaterOrEqual(t, sent, 10, "one a second gets through")
		require.Equal(t, uint64(1000-sent), shed.Stats().Throttled)
		require.NoError(t, do("other"), "hosts are told apart")

		status = 200
		for range 6000 {
			do("busy")
			time.Sleep(10 * time.Millisecond)
		}
		sent = 0
		for range 100 {
			do("busy")
		}
		require.Equal(t, 100, sent, "a minute after the server has recovered all is sent")
	})
}

func TestTransportDoesNotTakeFailuresForRefusals(t *testing.T) {
	rt := degrade.MustNew(degrade.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		return nil, errors.New("connection refused")
	}))
	for range 100 {
		r, _ := http.NewRequest("GET", "http://down/", nil)
		_, err := rt.RoundTrip(r)
		require.NotErrorIs(t, err, degrade.ErrRefused)
	}
}

func TestCollectHasEverySeriesFromTheStart(t *testing.T) {
	count := func(c func(func(name, help, kind string, value float64, labels ...string))) map[string]int {
		names, last := map[string]int{}, ""
		c(func(name, help, kind string, value float64, labels ...string) {
			require.NotEmpty(t, help)
			require.Zero(t, len(labels)%2)
			require.True(t, name == last || names[name] == 0, "series of one name are adjacent")
			names[name]++
			last = name
		})
		return names
	}
	shed := degrade.MustNew(degrade.Config{})
	before := count(shed.Collect)
	require.Equal(t, 9, before["spillway_degrade_requests_total"])
	require.Equal(t, 12, before["spillway_degrade_queue_wait_seconds_bucket"])
	get(shed.Handler(ok))
	require.Equal(t, before, count(shed.Collect))
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	sw.Feature("reviews", degrade.Optional)
	require.Equal(t, 1, count(sw.Collect)["spillway_degrade_feature_share"])
}

func TestHandlerRefusesToWrapNothing(t *testing.T) {
	shed, sw := degrade.MustNew(degrade.Config{}), degrade.MustNewSwitch(degrade.SwitchConfig{})
	require.PanicsWithValue(t, "degrade: Handler: next is nil", func() { shed.Handler(nil) })
	require.PanicsWithValue(t, "degrade: Handler: next is nil", func() { sw.Handler(nil) })
}
