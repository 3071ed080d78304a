package ratelimit_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An upstream answers 200 with the given fields, and notes when it was called.
type upstream struct {
	mu     sync.Mutex
	calls  []time.Duration
	start  time.Time
	answer func(call int) (status int, h http.Header)
}

func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.calls = append(u.calls, time.Since(u.start))
	status, h := 200, http.Header{}
	if u.answer != nil {
		status, h = u.answer(len(u.calls))
	}
	return &http.Response{StatusCode: status, Header: h, Body: http.NoBody, Request: r}, nil
}

func send(ctx context.Context, l *ratelimit.Limiter, u http.RoundTripper, url string) error {
	r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
	res, err := l.Transport(u).RoundTrip(r)
	if err == nil {
		res.Body.Close()
	}
	return err
}

func TestOutboundRequestsArePacedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{start: time.Now()}
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.Rate{Requests: 10, Per: time.Second, Burst: 2}})
		var order []int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				require.NoError(t, send(ctx, l, u, "http://a.test/"))
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
			})
			synctest.Wait()
		}
		require.NoError(t, send(ctx, l, u, "http://b.test/"), "another upstream has a pace of its own")
		wg.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4, 5}, order)
		ms := time.Millisecond
		want := []time.Duration{0, 0, 0, 100 * ms, 200 * ms, 300 * ms, 400 * ms}
		for i, at := range u.calls {
			require.InDelta(t, want[i], at, float64(time.Microsecond), "call %d", i)
		}
	})
}

func TestAWaitThatWouldOutlastTheDeadlineFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{start: time.Now()}
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.Rate{Requests: 1, Per: time.Second, Burst: 1}})
		require.NoError(t, send(ctx, l, u, "http://a.test/"))
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		body := &closed{Reader: strings.NewReader("x")}
		r, _ := http.NewRequestWithContext(short, "POST", "http://a.test/", body)
		before := time.Now()
		_, err := l.Transport(u).RoundTrip(r)
		require.ErrorIs(t, err, ratelimit.ErrWait)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, time.Since(before), "at once")
		require.True(t, body.yes, "the body is closed even so")

		time.Sleep(time.Second)
		require.NoError(t, send(ctx, l, u, "http://a.test/"))
		require.Equal(t, time.Second, time.Since(u.start), "the refusal has taken no turn")

		l = ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(1), MaxWait: time.Second})
		require.NoError(t, send(ctx, l, u, "http://a.test/"))
		require.ErrorIs(t, send(ctx, l, u, "http://a.test/"), ratelimit.ErrWait)
		l = ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(1), Cost: func(*http.Request) int { return 2 }})
		require.ErrorIs(t, send(ctx, l, u, "http://a.test/"), ratelimit.ErrWait, "more than the bucket ever holds")
	})
}

type closed struct {
	io.Reader
	yes bool
}

func (c *closed) Close() error { c.yes = true; return nil }

func TestWhoGivesUpGivesItsTurnBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{start: time.Now()}
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.Rate{Requests: 1, Per: time.Second, Burst: 1}})
		require.NoError(t, send(ctx, l, u, "http://a.test/"))
		var wg sync.WaitGroup
		leaving, leave := context.WithCancel(ctx)
		for range 5 {
			wg.Go(func() { require.ErrorIs(t, send(leaving, l, u, "http://a.test/"), context.Canceled) })
		}
		synctest.Wait()
		wg.Go(func() { require.NoError(t, send(ctx, l, u, "http://a.test/")) })
		synctest.Wait()
		time.Sleep(500 * time.Millisecond)
		leave()
		wg.Wait()
		require.Equal(t, time.Second, time.Since(u.start), "five left, the sixth went first")
	})
}

func TestAnUpstreamThatSaysStopIsLeftAlone(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		h      http.Header
		want   time.Duration
	}{
		"429 with Retry-After":         {429, http.Header{"Retry-After": {"30"}}, 30 * time.Second},
		"503 with Retry-After":         {503, http.Header{"Retry-After": {"30"}}, 30 * time.Second},
		"429 without":                  {429, http.Header{}, time.Second},
		"503 without":                  {503, http.Header{}, 0},
		"200 with Retry-After":         {200, http.Header{"Retry-After": {"30"}}, 0},
		"clamped":                      {429, http.Header{"Retry-After": {"86400"}}, time.Minute},
		"a date":                       {429, http.Header{"Retry-After": {"Sat, 01 Jan 2000 00:00:40 GMT"}}, 40 * time.Second},
		"nothing left":                 {200, http.Header{"Ratelimit": {`"a";r=9;t=60, "b;c,d";r=0;t=20`}}, 20 * time.Second},
		"nothing left, from a cache":   {200, http.Header{"Ratelimit": {`"a";r=0;t=20`}, "Age": {"5"}}, 0},
		"nothing left, X-RateLimit":    {200, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"12"}}, 12 * time.Second},
		"nothing left, in Unix time":   {200, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"946684815"}}, time.Minute},
		"Retry-After before RateLimit": {429, http.Header{"Retry-After": {"30"}, "Ratelimit": {`"a";r=0;t=20`}}, 30 * time.Second},
		"some left":                    {200, http.Header{"Ratelimit": {`"a";r=500;t=1`}}, 0},
		"nonsense":                     {429, http.Header{"Retry-After": {"soon"}, "Ratelimit": {`"a";r=x;t=20`}}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := &upstream{start: time.Now()}
				u.answer = func(call int) (int, http.Header) {
					if call > 1 {
						return 200, http.Header{}
					}
					return c.status, c.h
				}
				l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(100)})
				require.NoError(t, send(ctx, l, u, "http://a.test/"))
				what := 0
				for subject, why := range l.Conditions() {
					require.Equal(t, "a.test", subject)
					require.Contains(t, why, "paused until ")
					what++
				}
				for range l.Changes() {
					what++
				}
				require.Equal(t, c.want > 0, what == 2)
				var wg sync.WaitGroup
				for range 20 { // all of them wait, not one
					wg.Go(func() { require.NoError(t, send(ctx, l, u, "http://a.test/")) })
				}
				wg.Wait()
				for i, at := range u.calls[1:] {
					require.GreaterOrEqual(t, at, c.want)
					if c.want > 0 {
						require.GreaterOrEqual(t, at, c.want+time.Duration(i)*10*time.Millisecond-time.Microsecond, "no burst at the end")
					}
				}
				require.Less(t, u.calls[20], c.want+time.Second)
			})
		})
	}
}

func TestThePaceFollowsASlowerUpstreamForAsLongAsItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{start: time.Now()}
		u.answer = func(call int) (int, http.Header) {
			if call == 1 {
				return 200, http.Header{"Ratelimit": {`"a";r=5;t=10`}}
			}
			return 200, http.Header{}
		}
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(100)})
		for range 8 {
			require.NoError(t, send(ctx, l, u, "http://a.test/"))
		}
		require.InDelta(t, 4*time.Second, time.Since(u.start), float64(time.Millisecond), "five at once, as promised, then one in 2 s")
		time.Sleep(10 * time.Second)
		before := time.Now()
		for range 50 {
			require.NoError(t, send(ctx, l, u, "http://a.test/"))
		}
		require.Less(t, time.Since(before), time.Second, "the promise is over")
	})
}

func TestAnswersCanBeIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{start: time.Now(), answer: func(int) (int, http.Header) { return 429, http.Header{"Retry-After": {"30"}} }}
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(100), MaxPause: -1})
		for range 10 {
			require.NoError(t, send(ctx, l, u, "http://a.test/"))
		}
		require.Zero(t, time.Since(u.start))
	})
}

func TestSetRateChangesThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{start: time.Now()}
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.Rate{Requests: 1, Per: time.Hour, Burst: 1}})
		require.NoError(t, send(ctx, l, u, "http://a.test/"))
		require.NoError(t, l.SetRate(ratelimit.Rate{Requests: 1, Per: time.Second, Burst: 1}))
		require.NoError(t, send(ctx, l, u, "http://a.test/"))
		require.InDelta(t, time.Second, time.Since(u.start), float64(time.Millisecond))
	})
}

func TestUpstreamsAreBoundedAndIdleOnesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{start: time.Now()}
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.Rate{Requests: 1, Per: time.Minute, Burst: 1}, MaxWait: time.Second})
		for i := range 4096 {
			require.NoError(t, send(ctx, l, u, "http://"+strconv.Itoa(i)+".test/"))
		}
		require.NoError(t, send(ctx, l, u, "http://x.test/"), "the first of those who share")
		require.ErrorIs(t, send(ctx, l, u, "http://y.test/"), ratelimit.ErrWait, "they share")
		require.ErrorIs(t, send(ctx, l, u, "http://7.test/"), ratelimit.ErrWait, "nobody was forgotten")
		time.Sleep(time.Hour)
		require.NoError(t, send(ctx, l, u, "http://x.test/"))
		require.NoError(t, send(ctx, l, u, "http://y.test/"))
	})
}

func TestTransportPassesOnCloseIdleConnections(t *testing.T) {
	s := httptest.NewServer(ok)
	defer s.Close()
	c := &idler{}
	client := &http.Client{Transport: ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1)}).Transport(c)}
	client.CloseIdleConnections()
	require.True(t, c.closed)
}

type idler struct {
	http.Transport
	closed bool
}

func (i *idler) CloseIdleConnections() { i.closed = true }
