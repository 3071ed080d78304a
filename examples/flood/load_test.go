package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
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
