package balancer_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// inOrder is a Policy: the first that was not tried.
type inOrder struct{}

func (inOrder) Picker(ready []*balancer.Endpoint) balancer.Picker {
	return func(c balancer.Call) *balancer.Endpoint { return ready[min(c.Try, len(ready)-1)] }
}

func TestOnlySafeRequestsAreRetried(t *testing.T) {
	key := http.Header{"Idempotency-Key": {"42"}}
	for _, c := range []struct {
		method string
		header http.Header
		code   int // of the first backend
		want   int // what the client gets
	}{
		{"GET", nil, 0, 200}, {"GET", nil, 502, 200}, {"GET", nil, 503, 200}, {"GET", nil, 504, 200},
		{"HEAD", nil, 0, 200}, {"OPTIONS", nil, 0, 200}, {"TRACE", nil, 0, 200}, {"PUT", nil, 0, 200}, {"DELETE", nil, 0, 200},
		{"POST", key, 0, 200}, {"PATCH", key, 503, 200},
		{"POST", nil, 0, 0}, {"POST", nil, 503, 503}, {"PATCH", nil, 0, 0}, {"LOCK", nil, 0, 0},
		{"GET", nil, 500, 500}, {"GET", nil, 404, 404}, {"GET", nil, 429, 429},
	} {
		t.Run(fmt.Sprint(c.method, len(c.header), c.code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab()
				b := must(t, balancer.Config{Backends: l.hosts(2), Policy: first{}})
				l.set("b0", c.code)
				req, _ := http.NewRequest(c.method, "http://service/", nil)
				req.Header = c.header.Clone()
				resp, err := b.Transport(l).RoundTrip(req)
				if c.want == 0 {
					require.Error(t, err)
				} else {
					require.NoError(t, err)
					require.Equal(t, c.want, resp.StatusCode)
					require.Same(t, req, resp.Request)
					_ = resp.Body.Close()
				}
				require.Equal(t, 1, l.count("b0"), "never the same one twice")
				require.Zero(t, b.Stats().InFlight)
			})
		})
	}
}

func TestRetriesStayWithinTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(10), Eject: balancer.Eject{Consecutive: -1}, Retry: balancer.Retry{Max: 5}})
		for i := range 10 {
			l.set(fmt.Sprint("b", i), 503) // everything fails: a storm, if allowed
		}
		rt := b.Transport(l)
		const n = 6000
		begin := time.Now()
		send(rt, n, time.Minute)
		seconds := uint64(time.Since(begin).Seconds() + 1) // a minute, and the backoffs
		s := b.Stats()
		require.EqualValues(t, n+s.Retries, s.Failure)
		require.LessOrEqual(t, s.Retries, n/5+10*seconds+9*10)
		require.Greater(t, s.Retries, n/5+10*seconds-200, "and they are allowed what the budget says")
		require.Positive(t, s.OverBudget)
	})
}

func TestBudgetCanBeSharedAndCanAllowNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		list := l.hosts(2)
		l.set("b0", 503)
		l.set("b1", 503)
		none := balancer.NewBudget(0, 0)
		shared := balancer.NewBudget(0, 1) // nine at once
		count := func(budget *balancer.Budget, n int) uint64 {
			b := must(t, balancer.Config{Backends: list, Retry: balancer.Retry{Budget: budget}})
			send(b.Transport(l), n, time.Millisecond*time.Duration(n))
			return b.Stats().Retries
		}
		require.Zero(t, count(none, 50))
		require.EqualValues(t, 9, count(shared, 50)+count(shared, 50))
	})
}

func TestBackoffIsRandomAndGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(4), Retry: balancer.Retry{Max: 3, Backoff: 100 * time.Millisecond, Budget: balancer.NewBudget(10, 0)}, Eject: balancer.Eject{Consecutive: -1}})
		var at []time.Time
		for i := range 4 {
			l.play(fmt.Sprint("b", i), func(*http.Request) (int, http.Header) { at = append(at, time.Now()); return 503, nil })
		}
		var sum [3]time.Duration
		for range 200 {
			at = nil
			do(b.Transport(l), http.MethodGet)
			require.Len(t, at, 4)
			for k := range sum {
				d := at[k+1].Sub(at[k])
				require.LessOrEqual(t, d, 100*time.Millisecond<<k)
				sum[k] += d
			}
		}
		for k, mean := range []float64{50, 100, 200} {
			require.InEpsilon(t, mean, sum[k].Seconds()*1000/200, 0.2)
		}
	})
}

func TestRefusalIsNotRetriedUntilItSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(3), Policy: inOrder{}, Retry: balancer.Retry{Max: 5}})
		busy := func(*http.Request) (int, http.Header) { return 503, http.Header{"Retry-After": {"20"}} }
		l.play("b0", busy)
		l.play("b1", busy)
		rt := b.Transport(l)
		require.Equal(t, 200, do(rt, http.MethodGet))
		require.Equal(t, 1, l.count("b1"))
		for range 3 {
			require.Equal(t, 200, do(rt, http.MethodGet))
		}
		require.Zero(t, l.count("b1"), "no retry goes there for 20 seconds")
		time.Sleep(20 * time.Second)
		require.Equal(t, 200, do(rt, http.MethodGet))
		require.Equal(t, 1, l.count("b1"))
		require.EqualValues(t, b.Stats().Refused, b.Stats().Retries)
	})
}

func TestARetryAfterOfAgesIsHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(3), Policy: inOrder{}, Retry: balancer.Retry{Max: 5}})
		for _, id := range []string{"b0", "b1"} {
			l.play(id, func(*http.Request) (int, http.Header) { return 503, http.Header{"Retry-After": {"86400000000"}} })
		}
		rt := b.Transport(l)
		for _, c := range []struct {
			pause time.Duration
			asked int
		}{{0, 1}, {29 * time.Second, 0}, {time.Second, 1}} {
			time.Sleep(c.pause)
			require.Equal(t, 200, do(rt, http.MethodGet))
			require.Equal(t, c.asked, l.count("b1"), "after %v", c.pause)
		}
	})
}

func TestPerTryTimeoutRescuesFromABackendThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(2), Policy: first{}, Retry: balancer.Retry{PerTry: 300 * time.Millisecond, Backoff: -1}})
		l.takes("b0", time.Hour)
		begin := time.Now()
		require.Equal(t, 200, do(b.Transport(l), http.MethodGet))
		require.Equal(t, 300*time.Millisecond, time.Since(begin))
		require.EqualValues(t, 1, b.Stats().Failure)

		l.takes("b1", time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		begin = time.Now()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://service/", nil)
		_, err := b.Transport(l).RoundTrip(req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 500*time.Millisecond, time.Since(begin), "within the request's own deadline")
	})
}

func TestPerTryTimeoutDoesNotCutABodyOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := roundTripper(func(r *http.Request) (*http.Response, error) {
			time.Sleep(999 * time.Millisecond)
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(lateReader{r.Context()})}, nil
		})
		b := must(t, balancer.Config{
			Backends: many(1), Retry: balancer.Retry{PerTry: time.Second},
			Wrap: func(balancer.Backend, http.RoundTripper) http.RoundTripper { return late },
		})
		req, _ := http.NewRequest(http.MethodGet, "http://x/", nil)
		resp, err := b.Transport(nil).RoundTrip(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "late", string(body))
		require.NoError(t, resp.Body.Close())

		w := get(t, b.Proxy(), "/")
		require.Equal(t, 200, w.Code)
		require.Equal(t, "late", w.Body.String())
	})
}

// lateReader is a body that takes an hour, or fails when the request ends.
type lateReader struct{ ctx context.Context }

func (r lateReader) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Hour):
		return copy(p, "late"), io.EOF
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	}
}

func TestCancelledCallerIsNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(3), Policy: first{}})
		l.takes("b0", time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://service/", nil)
		_, err := b.Transport(l).RoundTrip(req)
		require.ErrorIs(t, err, context.Canceled)
		s := b.Stats()
		require.EqualValues(t, 1, s.Ignored)
		require.Zero(t, s.Failure+s.Retries)
	})
}

type closer struct {
	io.Reader
	open *atomic.Int64
}

func (c closer) Close() error { c.open.Add(-1); return nil }

func TestPanicOfTheRoundTripperGoesOnUpAndLeavesNothingInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, hedge := range []time.Duration{0, time.Second} {
			b := must(t, balancer.Config{Backends: many(2), Hedge: balancer.Hedge{After: hedge}})
			rt := b.Transport(roundTripper(func(*http.Request) (*http.Response, error) { panic("boom") }))
			require.PanicsWithValue(t, "boom", func() { do(rt, http.MethodGet) })
			require.Zero(t, b.Stats().InFlight)
			require.EqualValues(t, 1, b.Stats().Failure)
		}
	})
}

func TestRequestBodyIsClosedOnceWhateverHappens(t *testing.T) {
	for _, code := range []int{200, 503, 0} {
		for _, method := range []string{http.MethodPost, http.MethodPut} {
			synctest.Test(t, func(t *testing.T) {
				l := newLab()
				b := must(t, balancer.Config{Backends: l.hosts(2)})
				l.set("b0", code)
				l.set("b1", code)
				open := new(atomic.Int64)
				open.Add(1)
				req, _ := http.NewRequest(method, "http://x/", closer{strings.NewReader("body"), open})
				resp, err := b.Transport(l).RoundTrip(req)
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				synctest.Wait()
				require.Zero(t, open.Load(), "%s %d", method, code)
			})
		}
	}
}

func TestHangingBackendIsLeftAloneEvenIfItsCallersJustGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{Backends: l.hosts(3)})
		for i := range 3 {
			l.takes(fmt.Sprint("b", i), 5*time.Millisecond)
		}
		rt := b.Transport(l)
		send(rt, 300, 3*time.Second)
		l.takes("b0", time.Hour)
		l.count("b0")
		for range 500 { // half a second each, if it hangs
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, nil)
			time.AfterFunc(500*time.Millisecond, cancel) // a caller who hangs up: says nothing
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://service/", nil)
			if resp, err := rt.RoundTrip(req); err == nil {
				_ = resp.Body.Close()
			}
			cancel()
		}
		require.Less(t, l.count("b0"), 10, "of 500")
		require.Zero(t, b.Stats().Failure)
	})
}
