package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

// answer is a RoundTripper that always answers the same.
func answer(code int, body io.ReadCloser, header ...string) roundTrip {
	return func(r *http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: code, Header: h, Body: body, Request: r}, nil
	}
}

type brokenBody struct{ err error }

func (b brokenBody) Read([]byte) (int, error) { return 0, b.err }
func (brokenBody) Close() error               { return nil }

func TestTransportDecidesAtTheEndOfTheBody(t *testing.T) {
	type ends func(io.ReadCloser)
	read := func(b io.ReadCloser) { _, _ = io.ReadAll(b); _ = b.Close() }
	for _, c := range []struct {
		name        string
		body        io.ReadCloser
		use         ends
		headersOnly bool
		failed      uint64
		succeeded   uint64
	}{
		{"read to the end", io.NopCloser(strings.NewReader("x")), read, false, 0, 1},
		{"closed early", io.NopCloser(strings.NewReader("x")), func(b io.ReadCloser) { _ = b.Close() }, false, 0, 1},
		{"closed twice", io.NopCloser(strings.NewReader("x")), func(b io.ReadCloser) { _ = b.Close(); _ = b.Close() }, false, 0, 1},
		{"broken off", brokenBody{io.ErrUnexpectedEOF}, read, false, 1, 0},
		{"too late", brokenBody{context.DeadlineExceeded}, read, false, 1, 0},
		{"not yet over", io.NopCloser(strings.NewReader("x")), func(io.ReadCloser) {}, false, 0, 0},
		{"none", http.NoBody, func(io.ReadCloser) {}, false, 0, 1},
		{"broken off, headers only", brokenBody{io.ErrUnexpectedEOF}, read, true, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := breaker.MustNew(breaker.Config{HeadersOnly: c.headersOnly})
			resp, err := b.Transport(answer(200, c.body)).RoundTrip(get("http://a/"))
			require.NoError(t, err)
			c.use(resp.Body)
			require.Equal(t, c.failed, b.Stats().Failed)
			require.Equal(t, c.succeeded, b.Stats().Succeeded)
		})
	}
}

func TestTransportOpensOnBodiesThatBreakOff(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer srv.Close()
	client := &http.Client{Transport: b.Transport(nil)}
	for range 20 {
		resp, err := client.Get(srv.URL)
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		resp.Body.Close()
	}
	_, err := client.Get(srv.URL)
	require.ErrorIs(t, err, breaker.ErrOpen, "through the url.Error of the client")
	require.ErrorIs(t, b.Stats().LastFailure.Err, io.ErrUnexpectedEOF)
}

func TestTransportCountsTheCallersCancelAsNothing(t *testing.T) {
	hang := roundTrip(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, fmt.Errorf("read tcp: %w", r.Context().Err())
	})
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(breaker.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := b.Transport(hang).RoundTrip(get("http://a/").WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 1, b.Stats().Ignored)

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = b.Transport(hang).RoundTrip(get("http://a/").WithContext(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualValues(t, 1, b.Stats().Failed, "a deadline counts")

		ctx, cancel = context.WithCancel(t.Context())
		resp, err := b.Transport(answer(200, brokenBody{context.Canceled})).RoundTrip(get("http://a/").WithContext(ctx))
		require.NoError(t, err)
		cancel()
		_, _ = io.ReadAll(resp.Body)
		require.EqualValues(t, 2, b.Stats().Ignored, "and so in the middle of the body")
	})
}

func TestTransportMeasuresSlowToTheHeaderOrToTheEnd(t *testing.T) {
	for _, toEnd := range []bool{false, true} {
		t.Run(fmt.Sprintf("SlowToEnd=%v", toEnd), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := breaker.MustNew(breaker.Config{SlowCall: time.Second, SlowToEnd: toEnd})
				resp, err := b.Transport(answer(200, io.NopCloser(strings.NewReader("x")))).RoundTrip(get("http://a/"))
				require.NoError(t, err)
				time.Sleep(time.Minute)
				_, _ = io.ReadAll(resp.Body)
				if toEnd {
					require.EqualValues(t, 1, b.Stats().Slow)
				} else {
					require.EqualValues(t, 1, b.Stats().Succeeded)
				}
			})
		})
	}
}

func TestTransportProbeThatStreamsForLongIsNotAFailure(t *testing.T) {
	for _, mark := range []time.Duration{0, -1} { // with a slow mark, and without
		synctest.Test(t, func(t *testing.T) {
			b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, Probes: 1, Key: breaker.AllTogether, SlowCall: mark}))
			_ = try(b, errDown)
			time.Sleep(5 * time.Second)
			resp, err := b.Transport(answer(200, io.NopCloser(strings.NewReader("x")))).RoundTrip(get("http://a/"))
			require.NoError(t, err)
			time.Sleep(time.Hour)
			require.NoError(t, try(b, nil), "its header came in time: the lease's end is a success")
			require.Equal(t, breaker.Closed, b.State())
			_, _ = io.ReadAll(resp.Body)
		})
	}
}

type closeSpy struct {
	io.Reader
	closed int
}

func (c *closeSpy) Close() error { c.closed++; return nil }

func TestTransportClosesTheRequestBodyOnRefusalAndKeepsTheRequest(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	b.For("http://a").ForceOpen(0, "")
	body := &closeSpy{Reader: strings.NewReader("x")}
	r := httptest.NewRequest(http.MethodPost, "http://a/", body)
	r.Body = body
	before := r.Header.Clone()
	_, err := b.Transport(answer(200, http.NoBody)).RoundTrip(r)
	var e *breaker.OpenError
	require.ErrorAs(t, err, &e)
	require.Equal(t, "http://a", e.Key)
	require.Equal(t, 1, body.closed)
	require.Equal(t, before, r.Header)
}

func TestTransportLeavesAnUpgradedBodyAlone(t *testing.T) {
	pipe := struct{ io.ReadWriteCloser }{}
	b := breaker.MustNew(breaker.Config{})
	resp, err := b.Transport(answer(101, pipe)).RoundTrip(get("http://a/"))
	require.NoError(t, err)
	_, ok := resp.Body.(io.ReadWriteCloser)
	require.True(t, ok)
	require.EqualValues(t, 1, b.Stats().Succeeded)
}

type idle struct {
	roundTrip
	closed bool
}

func (i *idle) CloseIdleConnections() { i.closed = true }

func TestTransportPassesCloseIdleConnectionsOn(t *testing.T) {
	next := &idle{roundTrip: answer(200, http.NoBody)}
	(&http.Client{Transport: breaker.MustNew(breaker.Config{}).Transport(next)}).CloseIdleConnections()
	require.True(t, next.closed)
}

func TestTransportThatPanicsFails(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	rt := b.Transport(roundTrip(func(*http.Request) (*http.Response, error) { panic("boom") }))
	require.PanicsWithValue(t, "boom", func() { _, _ = rt.RoundTrip(get("http://a/")) })
	require.EqualValues(t, 1, b.Stats().Failed)
}

func TestRefusalOfAnInnerBreakerIsNoFailureOfTheOuter(t *testing.T) {
	inner, outer := breaker.MustNew(breaker.Config{}), breaker.MustNew(breaker.Config{ConsecutiveFailures: 1})
	inner.ForceOpen(0, "")
	client := &http.Client{Transport: inner.Transport(nil)}
	_, err := breaker.Do(t.Context(), outer, func(ctx context.Context) (*http.Response, error) {
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://a/", nil)
		return client.Do(r)
	})
	require.ErrorIs(t, err, breaker.ErrOpen)
	require.EqualValues(t, 1, outer.Stats().Ignored)
	require.Equal(t, breaker.Closed, outer.State())
}

func TestRetryAfterIsTheEarliestProbe(t *testing.T) {
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, c := range []struct {
		name   string
		code   int
		header func() string
		max    time.Duration
		want   time.Duration
	}{
		{"seconds", 503, func() string { return "30" }, 0, 30 * time.Second},
		{"a date", 503, func() string { return date(40 * time.Second) }, 0, 40 * time.Second},
		{"a date that is over", 503, func() string { return date(-time.Hour) }, 0, 5 * time.Second},
		{"shorter than the open time", 503, func() string { return "1" }, 0, 5 * time.Second},
		{"a day, capped", 503, func() string { return "86400" }, 0, 5 * time.Minute},
		{"a day, capped by the user", 503, func() string { return "86400" }, time.Minute, time.Minute},
		{"ignored", 503, func() string { return "30" }, -1, 5 * time.Second},
		{"not of a 500", 500, func() string { return "30" }, 0, 5 * time.Second},
		{"nonsense", 503, func() string { return "soon" }, 0, 5 * time.Second},
		{"negative", 503, func() string { return "-30" }, 0, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := breaker.MustNew(steady(breaker.Config{MaxRetryAfter: c.max}))
				rt := b.Transport(answer(c.code, http.NoBody, "Retry-After", c.header()))
				for range 20 {
					_, err := rt.RoundTrip(get("http://a/"))
					require.NoError(t, err)
				}
				_, err := rt.RoundTrip(get("http://a/"))
				var e *breaker.OpenError
				require.ErrorAs(t, err, &e)
				require.Equal(t, c.want, e.RetryAfter())

				time.Sleep(c.want - 1)
				_, err = rt.RoundTrip(get("http://a/"))
				require.ErrorIs(t, err, breaker.ErrOpen, "one nanosecond early")
				time.Sleep(time.Nanosecond)
				_, err = rt.RoundTrip(get("http://a/"))
				require.NoError(t, err)
			})
		})
	}
}

func TestRetryAfterOfALateAnswerProlongsTheOpenTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, Key: breaker.AllTogether}))
		late := b.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return answer(503, http.NoBody, "Retry-After", "60")(r)
		}))
		go func() { _, _ = late.RoundTrip(get("http://a/")) }()
		synctest.Wait()
		_ = try(b, errDown)
		time.Sleep(2 * time.Second)
		require.Equal(t, 59*time.Second, time.Until(b.Stats().Until))
	})
}

func TestProbeAnswered429WithRetryAfterWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, Key: breaker.AllTogether}))
		_ = try(b, errDown)
		time.Sleep(5 * time.Second)
		_, err := b.Transport(answer(429, http.NoBody, "Retry-After", "30")).RoundTrip(get("http://a/"))
		require.NoError(t, err)
		require.Equal(t, breaker.Open, b.State())
		require.Equal(t, 30*time.Second, time.Until(b.Stats().Until))
	})
}

type quota struct{ wait time.Duration }

func (q quota) Error() string             { return "quota" }
func (q quota) RetryAfter() time.Duration { return q.wait }

func TestDoObeysAnErrorThatSaysWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1}))
		_ = try(b, fmt.Errorf("wrapped: %w", quota{time.Minute}))
		require.Equal(t, time.Minute, time.Until(b.Stats().Until))
	})
}

func TestJudgeMayOpenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{
			Judge: func(o breaker.Outcome) breaker.Verdict {
				if o.Status == http.StatusTooManyRequests && o.Header.Get("Retry-After") != "" {
					return breaker.Trip
				}
				return breaker.DefaultJudge(o)
			},
		}))
		rt := b.Transport(answer(429, http.NoBody, "Retry-After", "120"))
		_, err := rt.RoundTrip(get("http://a/"))
		require.NoError(t, err)
		_, err = rt.RoundTrip(get("http://a/"))
		var e *breaker.OpenError
		require.True(t, errors.As(err, &e))
		require.Equal(t, 2*time.Minute, e.RetryAfter())
	})
}
