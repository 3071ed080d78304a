package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func take(seq iter.Seq[arrival]) []arrival { return slices.Collect(seq) }

func TestArrivalsAreTheSameForTheSameSeed(t *testing.T) {
	spans := []span{{0, 10 * time.Second, 50}, {10 * time.Second, 20 * time.Second, 500}}
	a := take(arrivals(3, spans, nil))
	require.Equal(t, a, take(arrivals(3, spans, nil)))
	require.NotEqual(t, a, take(arrivals(4, spans, nil)))
}

func TestArrivalsAreAPoissonProcessOfTheAskedRateAndMix(t *testing.T) {
	const rate, seconds = 200.0, 500
	spans := []span{{to: 100 * time.Second, rate: rate}, {from: 100 * time.Second, to: 200 * time.Second}, {from: 200 * time.Second, to: (seconds + 100) * time.Second, rate: rate}}
	all := take(arrivals(1, spans, nil))
	near := func(what string, got, want, sigma float64) {
		t.Helper()
		require.InDelta(t, want, got, 5*sigma, what)
	}
	n := rate * seconds
	near("number", float64(len(all)), n, math.Sqrt(n))
	var gaps, squares float64
	kinds := map[kind]int{}
	for i, a := range all {
		kinds[a.kind]++
		require.False(t, a.due >= 100*time.Second && a.due < 200*time.Second, "no rate, no request")
		if i > 0 {
			require.Greater(t, a.due, all[i-1].due)
			if gap := (a.due - all[i-1].due).Seconds(); gap < 50 {
				gaps += gap
				squares += gap * gap
			}
		}
	}
	mean := gaps / n
	near("mean gap", mean, 1/rate, 1/rate/math.Sqrt(n))
	near("coefficient of variation, 1 if the gaps are exponential", math.Sqrt(squares/n-mean*mean)/mean, 1, 2/math.Sqrt(n))
	for k, p := range map[kind]float64{
		crawl: 1 - politeShare, checkout: politeShare * checkoutShare, anonymous: politeShare * anonymousShare,
		signedIn: politeShare * (1 - checkoutShare - anonymousShare),
	} {
		near(fmt.Sprint("kind ", k), float64(kinds[k])/n, p, math.Sqrt(p*(1-p)/n))
	}
}

func TestOnlyCheckoutsCanBeSentTwiceWithAKey(t *testing.T) {
	only := func(k kind) *http.Request {
		r, err := arrival{kind: k, sku: 7, id: 9}.request("http://shop")
		require.NoError(t, err)
		return r
	}
	r := only(checkout)
	require.Equal(t, "POST http://shop/checkout", r.Method+" "+r.URL.String())
	require.Equal(t, "order-9", r.Header.Get("Idempotency-Key"))
	require.Equal(t, politeTenant, r.Header.Get("X-Tenant"))
	r = only(crawl)
	require.Equal(t, "GET http://shop/products/7", r.Method+" "+r.URL.String())
	require.Equal(t, greedyTenant, r.Header.Get("X-Tenant"))
	require.NotEmpty(t, only(signedIn).Header.Get("Authorization"))
	require.Empty(t, only(anonymous).Header.Get("Authorization"))
	r = only(target)
	require.Equal(t, "GET http://shop", r.Method+" "+r.URL.String())
	require.Empty(t, r.Header)
}

// A fakeService answers in a bubble, without a network.
type fakeService func(*http.Request) (*http.Response, error)

func (f fakeService) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func generatorFor(f fakeService) *generator {
	return &generator{client: &http.Client{Transport: f, CheckRedirect: newGenerator(false).client.CheckRedirect}, lag: newHistogram()}
}

func answer(status int, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: h, Body: io.NopCloser(strings.NewReader("body"))}
}

// busyFor works, or does not if its client goes away.
func busyFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestGeneratorDoesNotWaitForAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// One request at a time, 100 ms each: a tenth of what is sent.
		slot := make(chan struct{}, 1)
		g := generatorFor(func(r *http.Request) (*http.Response, error) {
			select {
			case slot <- struct{}{}:
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
			defer func() { <-slot }()
			if err := busyFor(r.Context(), 100*time.Millisecond); err != nil {
				return nil, err
			}
			return answer(200), nil
		})
		spans := []span{{to: 10 * time.Second, rate: 100}}
		want := len(take(arrivals(1, spans, nil)))
		rec := newRecorder(500*time.Millisecond, spans)
		start := time.Now()
		g.run(t.Context(), start, arrivals(1, spans, nil), []destination{{"http://shop", rec}})

		got := rec.act(0)
		require.Equal(t, want, got.Offered, "a closed loop would have sent a tenth of it")
		require.Equal(t, got.Offered, got.answeredAll())
		require.Greater(t, got.Late, got.Offered/2)
		require.Equal(t, 1000.0, quantile(got.latency, 99), "those who gave up count with the whole deadline")
		require.Zero(t, got.Lag)
		require.LessOrEqual(t, time.Since(start), 11*time.Second)
	})
}

func TestLatencyCountsFromWhenARequestWasDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := generatorFor(func(r *http.Request) (*http.Response, error) { return answer(200), nil })
		// The schedule began 300 ms ago: the generator is late, the service is not.
		start := time.Now().Add(-300 * time.Millisecond)
		spans := []span{{to: 100 * time.Millisecond, rate: 1000}}
		rec := newRecorder(500*time.Millisecond, spans)
		g.run(t.Context(), start, arrivals(1, spans, nil), []destination{{"http://shop", rec}})
		got := rec.act(0)
		require.Equal(t, got.Offered, got.Good)
		require.Greater(t, quantile(got.latency, 1), 190.0)
		require.Greater(t, got.Lag, 290.0)
		require.True(t, honest(g, 80, 80).Busy, "and the report says so")
		require.Contains(t, honest(g, 80, 80).Says, "fell behind")
		quiet := generatorFor(nil)
		require.False(t, honest(quiet, 80, 80).Busy)
		require.False(t, honest(quiet, 80, 0).Busy, "a target has no model")
		require.Contains(t, honest(quiet, 50, 80).Says, "the model promises 80 a second")
	})
}

func TestOutcomes(t *testing.T) {
	for name, tt := range map[string]struct {
		service fakeService
		want    outcome
	}{
		"200":              {func(*http.Request) (*http.Response, error) { return answer(200), nil }, outcome{result: good}},
		"302 not followed": {func(*http.Request) (*http.Response, error) { return answer(302, "Location", "http://192.0.2.1/"), nil }, outcome{result: good}},
		"from the cache": {func(*http.Request) (*http.Response, error) {
			return answer(200, "Cache-Status", "pages; hit; ttl=1"), nil
		}, outcome{result: good, cached: true}},
		"made, and now cached": {func(*http.Request) (*http.Response, error) {
			return answer(200, "Cache-Status", "pages; fwd=uri-miss; stored"), nil
		}, outcome{result: good}},
		"without a feature": {func(*http.Request) (*http.Response, error) {
			return answer(200, degradedHeader, "recommendations"), nil
		}, outcome{result: good, reduced: true}},
		"429":                {func(*http.Request) (*http.Response, error) { return answer(429, "Retry-After", "1"), nil }, outcome{result: refused, retryAfter: true}},
		"503 without a word": {func(*http.Request) (*http.Response, error) { return answer(503), nil }, outcome{result: refused}},
		"500":                {func(*http.Request) (*http.Response, error) { return answer(500), nil }, outcome{result: failed, why: "500"}},
		"404":                {func(*http.Request) (*http.Response, error) { return answer(404), nil }, outcome{result: failed, why: "404"}},
		"reset": {func(*http.Request) (*http.Response, error) { return nil, errors.New("connection reset") },
			outcome{result: failed, why: `Get "http://shop/products/0": connection reset`}},
		"body breaks off": {func(*http.Request) (*http.Response, error) {
			r := answer(200)
			r.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), errReader{}))
			return r, nil
		}, outcome{result: failed, why: "unexpected EOF"}},
		"in the nick of time": {func(r *http.Request) (*http.Response, error) {
			return answer(200), busyFor(r.Context(), deadline-time.Nanosecond)
		}, outcome{result: good, took: deadline - time.Nanosecond}},
		"never": {func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() },
			outcome{result: late, took: deadline}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := generatorFor(tt.service).send(arrival{}, time.Now(), "http://shop")
				got.at = time.Time{}
				require.Equal(t, tt.want, got)
			})
		})
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestGeneratorStaysOnThisMachine(t *testing.T) {
	for _, a := range []string{"192.0.2.1:80", "[2001:db8::1]:80", "10.0.0.1:80", "0.0.0.0:80", "shop:80", ""} {
		require.ErrorContains(t, loopbackOnly("tcp", a, nil), "not on this machine", a)
	}
	for _, a := range []string{"127.0.0.1:80", "127.8.8.8:80", "[::1]:80", "[::ffff:127.0.0.1]:80"} {
		require.NoError(t, loopbackOnly("tcp", a, nil), a)
	}
	out := newGenerator(false).send(arrival{kind: target}, time.Now(), "http://192.0.2.1/")
	require.Equal(t, failed, out.result, "refused before a packet is sent, and not late")
	require.Contains(t, out.why, "not on this machine")

	srv := httptest.NewServer(http.RedirectHandler("http://192.0.2.1/", http.StatusFound))
	defer srv.Close()
	require.Equal(t, good, newGenerator(false).send(arrival{kind: target}, time.Now(), srv.URL).result, "a redirect is an answer")
}

func TestDatabaseHasAFixedNumberOfConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase(2, 1)
		start := time.Now()
		var wg sync.WaitGroup
		const n = 400
		for range n {
			wg.Go(func() { db.query(t.Context(), 50*time.Millisecond) })
		}
		wg.Wait()
		require.InDelta(t, n*0.050/2, time.Since(start).Seconds(), 1, "the mean is what it says, two at a time")

		start = time.Now()
		db.setSlow(5)
		for range n {
			wg.Go(func() { db.query(t.Context(), 50*time.Millisecond) })
		}
		wg.Wait()
		require.InDelta(t, 5*n*0.050/2, time.Since(start).Seconds(), 5)
	})
}

func TestWaitingForTheDatabaseEndsWithTheClientAndAQueryDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase(1, 1)
		db.setSlow(100) // seconds
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		start := time.Now()
		var running, waiting error
		var ran, waited time.Duration
		wg.Go(func() { running = db.query(ctx, 50*time.Millisecond); ran = time.Since(start) })
		synctest.Wait()
		wg.Go(func() { waiting = db.query(ctx, 50*time.Millisecond); waited = time.Since(start) })
		wg.Wait()
		require.NoError(t, running)
		require.Greater(t, ran, time.Second)
		require.ErrorIs(t, waiting, context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, waited)
	})
}

func TestClosedLoopMeasuresWhatTheModelPromises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase(backendCount*connections, 1)
		page := func(r *http.Request) (*http.Response, error) {
			mean := productQuery + recommendQuery
			if r.Method == http.MethodPost {
				mean = orderQuery
			}
			if err := db.query(r.Context(), mean); err != nil {
				return nil, err
			}
			return answer(200), nil
		}
		got := generatorFor(page).closedLoop(t.Context(), 3*backendCount*connections, 60*time.Second, arrivals(1, []span{{to: time.Hour, rate: 1000}}, nil), "http://shop")
		require.InEpsilon(t, nominalCapacity(), got, 0.03)
	})
}

func TestBackendsAreRealProcesses(t *testing.T) {
	for _, protected := range []bool{false, true} {
		t.Run(fmt.Sprintf("protected=%v", protected), func(t *testing.T) {
			b, err := startChild(childSpec{Role: "backend", Name: "b", Addr: "127.0.0.1:0", Protected: protected, Connections: 2, Version: "v1"})
			require.NoError(t, err)
			defer func() { b.end() }()
			get := func(patience time.Duration) string {
				c := &http.Client{Timeout: patience}
				defer c.CloseIdleConnections()
				resp, err := c.Get(b.url + "/products/1")
				if err != nil {
					return "no answer"
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				return resp.Status + " " + string(body)
			}
			require.Contains(t, get(10*time.Second), "200 OK product 1:")

			require.NoError(t, b.freeze())
			require.Equal(t, "no answer", get(200*time.Millisecond), "it hangs")
			require.NoError(t, b.thaw())
			require.Contains(t, get(10*time.Second), "200 OK")

			// Whatever becomes of this process, the freezer lets go.
			require.NoError(t, b.freeze())
			require.NoError(t, b.freezer.stdin.Close())
			require.Contains(t, get(10*time.Second), "200 OK")

			// A request in flight at SIGTERM is answered.
			slower := func() {
				req, err := http.NewRequest(http.MethodPut, b.url+"/-/database?slower=20", nil)
				require.NoError(t, err)
				resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, 200, resp.StatusCode)
			}
			slower()
			last, sent := make(chan string, 1), make(chan struct{})
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) }})
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/products/1", nil)
			require.NoError(t, err)
			go func() {
				resp, err := (&http.Transport{}).RoundTrip(req)
				if err != nil {
					last <- err.Error()
					return
				}
				resp.Body.Close()
				last <- resp.Status
			}()
			<-sent
			slower() // a connection that was made later has been answered on: the other is in
			require.NoError(t, b.term())
			require.Equal(t, "200 OK", <-last)

			addr := b.url
			b, err = b.restart(func(s *childSpec) { s.Version = "v2" })
			require.NoError(t, err)
			require.Equal(t, addr, b.url, "its successor has its address")
			require.Contains(t, get(10*time.Second), "500 Internal Server Error")
			b.kill()
			require.Equal(t, "no answer", get(10*time.Second))
		})
	}
}

func TestRoundRobinTakesTurns(t *testing.T) {
	rr := newRoundRobin([]string{"http://one:1", "http://two:2", "http://three:3"})
	seen := map[string]int{}
	rr.RoundTripper = fakeService(func(r *http.Request) (*http.Response, error) { seen[r.URL.Host]++; return answer(200), nil })
	req := httptest.NewRequest("GET", "http://catalogue/products/1", nil)
	for range 6 {
		_, err := rr.RoundTrip(req)
		require.NoError(t, err)
	}
	require.Equal(t, map[string]int{"one:1": 2, "two:2": 2, "three:3": 2}, seen)
	require.Equal(t, "catalogue", req.URL.Host, "the request itself is not changed")
}

func TestBothShopsMakeThePageWithoutRecommendationsWhenTheyFail(t *testing.T) {
	shopWith := func(f fakeService) http.Handler {
		c := &http.Client{Transport: f}
		return (&shop{client: c, recommendations: c, recommend: func(context.Context) bool { return true }, retryIn: retryIn}).handler()
	}
	get := func(h http.Handler, authorization string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/products/7", nil)
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	half := shopWith(func(r *http.Request) (*http.Response, error) {
		if strings.HasPrefix(r.URL.Path, "/recommendations/") {
			return answer(500), nil
		}
		return answer(200), nil
	})
	w := get(half, "")
	require.Equal(t, 200, w.Code)
	require.Equal(t, "body", w.Body.String())
	require.Contains(t, w.Header().Get("Cache-Control"), "max-age")
	require.Equal(t, "Authorization", w.Header().Get("Vary"))
	require.Equal(t, "private, no-store", get(half, "Bearer x").Header().Get("Cache-Control"))

	w = get(shopWith(func(*http.Request) (*http.Response, error) { return answer(500), nil }), "")
	require.Equal(t, 502, w.Code)
	require.Empty(t, w.Header().Get("Retry-After"))
}

func TestMetricsAreReadByPart(t *testing.T) {
	got, err := parseMetrics(strings.NewReader(`# HELP spillway_degrade_limit Requests that may run at once.
# TYPE spillway_degrade_limit gauge
spillway_degrade_limit{shedder="shop"} 12
spillway_degrade_level{switch="shop"} 1
spillway_ratelimit_requests_total{policy="a } b",outcome="allowed"} 5
spillway_ratelimit_requests_total{policy="a } b",outcome="denied"} 7
spillway_degrade_requests_total{shedder="shop",priority="normal",outcome="shed"} 3
spillway_degrade_requests_total{shedder="shop",priority="sheddable",outcome="shed"} 4
spillway_degrade_requests_total{shedder="shop",priority="normal",outcome="admitted"} 100
spillway_breaker_requests_total{breaker="catalogue",outcome="rejected"} 2
spillway_breaker_requests_total{breaker="recommendations",outcome="rejected"} 50
spillway_balancer_unavailable_total{pool="catalogue"} 1
garbage
go_goroutines 7
`))
	require.NoError(t, err)
	require.Equal(t, sample{Limit: 12, Level: 1, Refused: map[string]float64{"ratelimit": 7, "degrade": 7, "breaker": 2, "balancer": 1}}, got)
}

func TestWordsForFigures(t *testing.T) {
	ms := func(x float64) *float64 { return &x }
	require.Equal(t, "at most 0.4 ms", atMost(ms(0.42)))
	require.Equal(t, "more than 1000 ms", atMost(ms(999)))
	require.Equal(t, "no time that was measured", atMost(nil))
	require.Equal(t, "1,234,567", thousands(1234567))
	require.Equal(t, "999", thousands(999))
	require.Equal(t, "all", share(3, 3))
	require.Equal(t, "none", share(0, 3))
	require.Equal(t, "99.9 %", share(99_999, 100_000), "not rounded up to all")
	require.Equal(t, "a, b and c", list([]string{"a", "b", "c"}))
	require.Equal(t, "one two\nthree", wrap("one two three", 8))
	require.Equal(t, 200.0, nice(150))
}

// aRun has been played without a network: bare answers half, the other all.
func aRun(t *testing.T, played time.Duration) *run {
	r := &run{options: options{length: 49 * time.Second, seed: 1}, acts: script(), capacity: 100, gen: generatorFor(nil), start: time.Now(), end: played}
	r.lay()
	r.direct("bare", "")
	r.direct("spillway", "")
	for a := range arrivals(1, r.spans, nil) {
		if a.due >= played {
			break
		}
		for i, rec := range r.recorders {
			rec.offered(a, 0)
			o := outcome{took: 30 * time.Millisecond}
			if i == 0 && a.id%2 == 0 {
				o = outcome{result: late, took: deadline}
			}
			rec.answered(a, o)
		}
	}
	r.note("script", "<script>alert(1)</script>")
	return r
}

func TestReportOfAnyLengthCanBeWritten(t *testing.T) {
	for _, played := range []time.Duration{0, time.Millisecond, 700 * time.Millisecond, 5 * time.Second, 20 * time.Second, 49 * time.Second} {
		rep := aRun(t, played).report(played < 49*time.Second)
		requireVerdict := rep.Verdict
		require.NotEmpty(t, requireVerdict)
		for _, s := range requireVerdict {
			require.NotContains(t, s, "NaN")
			require.NotContains(t, s, "Inf")
		}
		var page, data bytes.Buffer
		require.NoError(t, rep.writeJSON(&data))
		require.NoError(t, rep.writeHTML(&page))
		require.NotContains(t, page.String(), "NaN", played)
		require.NotContains(t, page.String(), "<script>alert", "what is said is text")
		require.Equal(t, 1, strings.Count(page.String(), "</script>"), "the data can't end its element")

		var picture bytes.Buffer
		if played < 500*time.Millisecond {
			require.ErrorContains(t, rep.writeSVG(&picture), "too little was measured")
			continue
		}
		require.NoError(t, rep.writeSVG(&picture))
		require.NotContains(t, picture.String(), "NaN", played)
		require.NoError(t, xml.Unmarshal(picture.Bytes(), new(struct{})), "it is well-formed")
	}
	rep := aRun(t, 49*time.Second).report(false)
	require.Len(t, rep.Verdict, 3)
	require.Contains(t, rep.Verdict[0], "At 10 times its capacity of 100 requests a second")
}

func TestTableFitsATerminalAndSaysWhatIsMeasured(t *testing.T) {
	r := aRun(t, 49*time.Second)
	r.start = time.Now().Add(-20 * time.Second)
	var out bytes.Buffer
	v := newView(&out, r)
	require.False(t, v.live, "a buffer is no terminal")
	v.draw()
	v.draw()
	text := strings.NewReplacer("\x1b[2K", "", "\x1b[7A", "").Replace(out.String())
	require.NotContains(t, text, "\x1b")
	for line := range strings.Lines(text) {
		require.LessOrEqual(t, len(strings.TrimRight(line, "\n")), 79, line)
	}
	require.Contains(t, text, "spillway")

	out.Reset()
	v.lines(true)
	require.Equal(t, 4, strings.Count(out.String(), "times what it can carry"), "the acts that have begun")
	require.Contains(t, out.String(), "100 %")
}
