package ratelimit_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

var ok = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })

func get(h http.Handler, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func with(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func TestRetryAfterIsTrueRoundedUpAndAtLeastOne(t *testing.T) {
	for _, c := range []struct {
		rate ratelimit.Rate
		want string
		wait time.Duration
	}{
		{ratelimit.Rate{Requests: 4, Per: time.Second, Burst: 1}, "1", time.Second},
		{ratelimit.Rate{Requests: 2, Per: 3 * time.Second, Burst: 1}, "2", 2 * time.Second},
		{ratelimit.PerMinute(1), "60", time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := ratelimit.MustNew(ratelimit.Config{Rate: c.rate}).Handler(ok)
			require.Equal(t, 200, get(h).Code)
			w := get(h)
			require.Equal(t, 429, w.Code)
			require.Equal(t, c.want, w.Header().Get("Retry-After"))
			time.Sleep(c.wait)
			require.Equal(t, 200, get(h).Code, "who obeys is served")
		})
	}
}

func TestFieldsFollowTheDraft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := ratelimit.MustNew(ratelimit.Config{
			Name: "burst", Rate: ratelimit.Rate{Requests: 100, Per: 30 * time.Second, Burst: 4},
			Also:   []ratelimit.Rate{ratelimit.PerDay(1000), {Requests: 5, Per: 100 * time.Millisecond}},
			Groups: []ratelimit.Group{{Name: "all", Key: func(*http.Request) string { return "" }, Rate: ratelimit.PerSecond(3)}},
		}).Handler(ok)
		w := get(h)
		require.Equal(t, []string{`"burst";q=100;w=30,"burst-day";q=1000;w=86400,"burst-100ms";q=50;w=1,"all";q=3;w=1`}, w.Header()["Ratelimit-Policy"])
		require.Equal(t, []string{`"burst";r=3;t=1,"burst-day";r=999;t=86314,"burst-100ms";r=4;t=1,"all";r=2;t=1`}, w.Header()["Ratelimit"])
		get(h)
		get(h)
		w = get(h)
		require.Equal(t, 429, w.Code)
		require.Contains(t, w.Header()["Ratelimit"][0], `"all";r=0;t=1`)
		require.Contains(t, w.Header()["Ratelimit"][0], `"burst";r=1;t=1`, "the refusal spent nothing")
	})
}

// A client that uses r requests evenly within t seconds, as the field tells
// it, is never refused.
func TestWhoeverKeepsToTheFieldIsNeverRefused(t *testing.T) {
	for _, rate := range []ratelimit.Rate{ratelimit.PerMinute(100), ratelimit.PerSecond(3), {Requests: 7, Per: 11 * time.Second, Burst: 2}} {
		synctest.Test(t, func(t *testing.T) {
			l := ratelimit.MustNew(ratelimit.Config{Rate: rate})
			h := l.Handler(ok)
			for range 300 {
				w := get(h)
				require.Equal(t, 200, w.Code)
				r, tt := field(t, w)
				if r == 0 {
					time.Sleep(time.Duration(tt) * time.Second)
				} else {
					time.Sleep(time.Duration(tt) * time.Second / time.Duration(r))
				}
			}
		})
	}
}

func field(t *testing.T, w *httptest.ResponseRecorder) (r, window int) {
	v := w.Header()["Ratelimit"]
	require.Len(t, v, 1)
	n, err := fmt.Sscanf(v[0], `"default";r=%d;t=%d`, &r, &window)
	require.NoError(t, err, "%q", v[0])
	require.Equal(t, 2, n)
	return r, window
}

func TestTheAnswerIsTextOrProblemJSON(t *testing.T) {
	h := ratelimit.MustNew(ratelimit.Config{Name: "api", Rate: ratelimit.PerHour(1)}).Handler(ok)
	get(h)
	w := get(h)
	require.Equal(t, "text/plain; charset=utf-8", w.Header().Get("Content-Type"))
	require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	require.Regexp(t, `^Too many requests: try again in \d+ seconds\.\n$`, w.Body.String())

	for _, accept := range []string{"application/json", "text/html, application/problem+json;q=0.5", "Application/JSON;charset=utf-8", "application/json;q=0, application/problem+json"} {
		w = get(h, with("Accept", accept))
		require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"), accept)
		var p map[string]any
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
		require.Equal(t, "https://iana.org/assignments/http-problem-types#quota-exceeded", p["type"])
		require.EqualValues(t, 429, p["status"])
		require.Equal(t, []any{"api"}, p["violated-policies"])
	}
	for _, accept := range []string{"", "*/*", "text/html", "application/json;q=0", "application/jsonx"} {
		require.Equal(t, "text/plain; charset=utf-8", get(h, with("Accept", accept)).Header().Get("Content-Type"), accept)
	}
	w = get(h, func(r *http.Request) { r.Method = "HEAD" })
	require.Equal(t, 429, w.Code)
	require.Empty(t, w.Body.String())
}

func TestFallbackAnswersWithTheFieldsSet(t *testing.T) {
	h := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(1), Fallback: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(420)
	})}).Handler(ok)
	get(h)
	w := get(h)
	require.Equal(t, 420, w.Code)
	require.Equal(t, "60", w.Header().Get("Retry-After"))
	require.Contains(t, w.Header()["Ratelimit"][0], "r=0")
}

func TestHeadersCanBeLegacyToo(t *testing.T) {
	h := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(3), Headers: ratelimit.LegacyHeaders}).Handler(ok)
	w := get(h)
	require.Equal(t, "3", w.Header().Get("X-RateLimit-Limit"))
	require.Equal(t, "2", w.Header().Get("X-RateLimit-Remaining"))
	require.Equal(t, "20", w.Header().Get("X-RateLimit-Reset"))
	require.NotEmpty(t, w.Header().Get("RateLimit"))
}

func TestALoginNeedNotPublishItsBudget(t *testing.T) {
	h := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(1), Headers: ratelimit.RetryAfterOnly}).Handler(ok)
	require.Empty(t, get(h).Header().Get("RateLimit"))
	w := get(h)
	require.Equal(t, 429, w.Code)
	require.Equal(t, "60", w.Header().Get("Retry-After"))
	for name := range w.Header() {
		require.False(t, strings.Contains(strings.ToLower(name), "ratelimit"), name)
	}
}

func TestNestedLimitersBothShow(t *testing.T) {
	inner := ratelimit.MustNew(ratelimit.Config{Name: "inner", Rate: ratelimit.PerMinute(10)})
	outer := ratelimit.MustNew(ratelimit.Config{Name: "outer", Rate: ratelimit.PerMinute(20)})
	w := get(outer.Handler(inner.Handler(ok)))
	require.Equal(t, []string{`"outer";r=19;t=57`, `"inner";r=9;t=54`}, w.Header()["Ratelimit"])
	require.Equal(t, []string{`"outer";q=20;w=60`, `"inner";q=10;w=60`}, w.Header()["Ratelimit-Policy"])
}

// Handlers may do to the header what they like: no other request sees it.
func TestHeaderValuesAreNotShared(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1_000_000)})
	h := l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, values := range w.Header() {
			for i := range values {
				values[i] = strings.ToUpper(values[i]) + " mine"
			}
			_ = append(values, "more")
		}
	}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				w := get(h)
				if v := w.Header()["Ratelimit-Policy"]; len(v) != 1 || v[0] != `"DEFAULT";Q=1000000;W=3600 mine` {
					t.Errorf("%q", v)
				}
				if v := w.Header()["Ratelimit"]; len(v) != 1 || strings.Count(v[0], "mine") != 1 {
					t.Errorf("%q", v)
				}
			}
		})
	}
	wg.Wait()
}

func TestAnAllowedRequestDoesNotAllocate(t *testing.T) {
	for _, remote := range []string{"203.0.113.9:4711", "[2001:db8:1:2:3:4:5:6]:4711"} {
		h := ratelimit.MustNew(ratelimit.Config{Rate: plenty}).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = remote
		w := nowhere{make(http.Header)}
		if got := testing.AllocsPerRun(2000, func() { clear(w.h); h.ServeHTTP(w, r) }); !raceEnabled {
			require.Zero(t, got, remote)
		}
	}
}

func TestGroupsHoldBesideTheKeyAllOrNothing(t *testing.T) {
	wide, err := ratelimit.NewClientIP(ratelimit.ClientIPConfig{IPv6Bits: 48})
	require.NoError(t, err)
	l := ratelimit.MustNew(ratelimit.Config{
		Rate:   ratelimit.PerHour(2),
		Groups: []ratelimit.Group{{Name: "site", Key: wide, Rate: ratelimit.PerHour(5)}},
	})
	h := l.Handler(ok)
	from := func(addr string) int {
		return get(h, func(r *http.Request) { r.RemoteAddr = "[" + addr + "]:1" }).Code
	}
	for range 10 {
		from("2001:db8:1:1::1")
	}
	require.Equal(t, 429, from("2001:db8:1:1:ffff::1"), "one /64 has two an hour")
	require.Equal(t, 200, from("2001:db8:1:2::1"))
	require.Equal(t, 200, from("2001:db8:1:3::1"))
	require.Equal(t, 200, from("2001:db8:1:4::1"), "eight refusals of the first spent nothing of the /48")
	require.Equal(t, 429, from("2001:db8:1:5::1"), "the /48 has five")
	require.Equal(t, 200, from("2001:db8:2:5::1"), "another /48")
	d, err := l.Decide(func() *http.Request {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "[2001:db8:1:6::1]:1"
		return r
	}())
	require.NoError(t, err)
	require.False(t, d.Allowed)
	require.Equal(t, "site", d.Policy())
	require.Equal(t, 2, l.Peek(ctx, "2001:db8:1:6::/64").Remaining, "refused by the group, not charged here")
}

func TestTiersDrawFromTheSameDebt(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerHour(10), Key: ratelimit.Header("X-Key"),
		RateOf: func(r *http.Request) ratelimit.Rate {
			switch r.Header.Get("X-Plan") {
			case "pro":
				return ratelimit.PerHour(100)
			case "broken":
				return ratelimit.Rate{Requests: -1, Per: time.Hour}
			}
			return ratelimit.Rate{}
		},
	})
	h := l.Handler(ok)
	for range 5 {
		require.Equal(t, 200, get(h, with("X-Key", "k")).Code)
	}
	w := get(h, with("X-Key", "k"), with("X-Plan", "pro"))
	require.Equal(t, `"default";q=100;w=3600`, w.Header()["Ratelimit-Policy"][0])
	require.Contains(t, w.Header()["Ratelimit"][0], ";r=49;", "half the bucket was in use, half of the larger one is")
	for range 4 {
		require.Equal(t, 200, get(h, with("X-Key", "k")).Code)
	}
	require.Equal(t, 429, get(h, with("X-Key", "k")).Code)
	require.Equal(t, 429, get(h, with("X-Key", "k"), with("X-Plan", "broken")).Code, "a broken tier is the default one")
	require.EqualValues(t, 1, l.Stats().Errors)
}

func TestCostIsCharged(t *testing.T) {
	costs := map[string]int{"/search": 5, "/free": 0, "/broken": -7, "/huge": 11}
	l := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerHour(10), Cost: func(r *http.Request) int { return costs[r.URL.Path] },
		Key: func(*http.Request) string { return "k" },
	})
	h := l.Handler(ok)
	path := func(p string) func(*http.Request) { return func(r *http.Request) { r.URL.Path = p } }
	require.Equal(t, 200, get(h, path("/search")).Code)
	require.Equal(t, 5, l.Peek(ctx, "k").Remaining)
	require.Equal(t, 200, get(h, path("/free")).Code)
	require.Equal(t, 5, l.Peek(ctx, "k").Remaining)
	require.Equal(t, 200, get(h, path("/broken")).Code)
	require.Equal(t, 4, l.Peek(ctx, "k").Remaining, "a negative cost is an error, and costs 1")
	require.Equal(t, 429, get(h, path("/search")).Code)
	require.Equal(t, 4, l.Peek(ctx, "k").Remaining)
	w := get(h, path("/huge"))
	require.Equal(t, 429, w.Code)
	require.Empty(t, w.Header().Get("Retry-After"), "no wait would help")
	require.Equal(t, 200, get(h, path("/free")).Code, "free stays free")
	require.EqualValues(t, 1, l.Stats().Errors)
}

func TestOnlyFailedLoginsCount(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerHour(3), Key: func(*http.Request) string { return "k" },
		Settle: func(r *http.Request, o ratelimit.Outcome) int {
			if o.Status == http.StatusUnauthorized {
				return 1
			}
			return 0
		},
	})
	h := l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Password") != "right" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	for range 20 {
		require.Equal(t, 200, get(h, with("Password", "right")).Code)
	}
	for range 3 {
		require.Equal(t, 401, get(h).Code)
	}
	require.Equal(t, 429, get(h, with("Password", "right")).Code)

	// Whoever hangs up, or makes the handler panic, has no refund.
	l.Forget(ctx, "k")
	gone, cancel := context.WithCancel(ctx)
	h = l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { cancel() }))
	get(h, func(r *http.Request) { *r = *r.WithContext(gone) })
	require.Equal(t, 2, l.Peek(ctx, "k").Remaining)
	h = l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }))
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { get(h) })
	require.Equal(t, 1, l.Peek(ctx, "k").Remaining)
}

func TestBytesCanBeCharged(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerHour(1000), Key: func(*http.Request) string { return "k" },
		Settle: func(r *http.Request, o ratelimit.Outcome) int { return int(o.Written) },
	})
	h := l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", 300))
		io.Copy(w, strings.NewReader(strings.Repeat("y", 500)))
	}))
	require.Equal(t, 800, get(h).Body.Len())
	require.Equal(t, 200, l.Peek(ctx, "k").Remaining)
	get(h)
	require.Equal(t, 429, get(h).Code, "overdrawn by 600")
	require.InDelta(t, 0.601, l.Peek(ctx, "k").RetryAfter.Hours(), 0.001)
}

func TestWhoHangsUpPaysForTheBytesSent(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerHour(1000), Key: func(*http.Request) string { return "k" },
		Settle: func(r *http.Request, o ratelimit.Outcome) int { return int(o.Written) },
	})
	gone, cancel := context.WithCancel(ctx)
	get(l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("x", 300))
		cancel()
	})), func(r *http.Request) { *r = *r.WithContext(gone) })
	require.Equal(t, 700, l.Peek(ctx, "k").Remaining)
	require.Panics(t, func() {
		get(l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, strings.Repeat("x", 300))
			panic(http.ErrAbortHandler)
		})))
	})
	require.Equal(t, 400, l.Peek(ctx, "k").Remaining)
}

func TestSettlingKeepsWhatAWriterCanDo(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(100), Settle: func(r *http.Request, o ratelimit.Outcome) int { return 1 }})
	s := httptest.NewServer(l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hijack" {
			c, rw, err := http.NewResponseController(w).Hijack()
			if err == nil {
				rw.WriteString("HTTP/1.1 299 Mine\r\nContent-Length: 0\r\n\r\n")
				rw.Flush()
				c.Close()
			}
			return
		}
		w.Header().Set("Trailer", "X-End")
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "first\n")
		w.(http.Flusher).Flush()
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute))
		<-r.Context().Done()
	})))
	defer s.Close()
	ctx, cancel := context.WithCancel(ctx)
	r, _ := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "first\n", line, "flushed while the handler still runs")
	cancel()
	res.Body.Close()
	res, err = http.Get(s.URL + "/hijack")
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, 299, res.StatusCode)
}

func TestADryRunDecidesCountsAndReportsButNeverRefuses(t *testing.T) {
	var reported []string
	l := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerHour(2), DryRun: true, Key: func(*http.Request) string { return "k" },
		OnRefuse: func(r *http.Request, key string, d ratelimit.Decision) {
			require.True(t, d.DryRun)
			reported = append(reported, key)
		},
	})
	h := l.Handler(ok)
	for range 5 {
		w := get(h)
		require.Equal(t, 200, w.Code)
		require.Equal(t, "ok", w.Body.String())
		require.Empty(t, w.Header().Get("RateLimit"))
	}
	s := l.Stats()
	require.EqualValues(t, 2, s.Allowed)
	require.EqualValues(t, 3, s.WouldRefuse)
	require.Zero(t, s.Refused)
	require.Equal(t, []string{"k", "k", "k"}, reported)
	require.Equal(t, []ratelimit.KeyCount{{Key: "k", Refused: 3, AtLeast: 3}}, s.MostRefused)
}

func TestAPanickingHookIsCountedAndTheRequestAnswered(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1), OnRefuse: func(*http.Request, string, ratelimit.Decision) { panic("hook") }})
	h := l.Handler(ok)
	get(h)
	require.Equal(t, 429, get(h).Code)
	require.EqualValues(t, 1, l.Stats().Panics)
}

func TestAPanickingHandlerKeepsItsPanic(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1)})
	require.PanicsWithValue(t, "mine", func() {
		get(l.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("mine") })))
	})
}

func TestHandlerRefusesToWrapNothing(t *testing.T) {
	l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1)})
	require.PanicsWithValue(t, "ratelimit: Handler: next is nil", func() { l.Handler(nil) })
}
