package ratelimit_test

import (
	"bytes"
	"context"
	"errors"
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

func TestWhatAnOutageChargedIsNotGivenBackByTheStore(t *testing.T) {
	for name, outage := range map[string]ratelimit.Outage{"locally": ratelimit.DecideLocally, "let pass": ratelimit.LetPass} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &fakeStore{full: map[string]time.Time{}}
				lim := ratelimit.MustNew(ratelimit.Config{
					Rate: ratelimit.PerHour(100), Store: store, Outage: outage,
					Key:    func(*http.Request) string { return "ann" },
					Cost:   func(*http.Request) int { return 10 },
					Settle: func(*http.Request, ratelimit.Outcome) int { return 0 },
				})
				_, err := lim.Allow(t.Context(), "ann", 50)
				require.NoError(t, err)
				store.breakDown(func() error { return errors.New("down") })
				h := lim.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
					store.repair()
					time.Sleep(time.Second)
					_, _ = lim.Allow(context.Background(), "bob", 1) // has the store asked
					synctest.Wait()
				}))
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
				require.Equal(t, 200, w.Code)
				require.Equal(t, 50, lim.Peek(t.Context(), "ann").Remaining, "the store was not charged, so it gives nothing back")
			})
		})
	}
}

func TestAWaitCutShortIsNotAnsweredAsIfNothingWereSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lim := ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.Rate{Requests: 1, Per: 10 * time.Second, Burst: 5}, MaxWait: time.Minute,
			Key: func(*http.Request) string { return "ann" },
		})
		h := lim.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		for range 5 {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		}
		go h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)) // is first in line
		defer time.Sleep(time.Minute)                                                // it is served
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/", nil))
		require.Equal(t, http.StatusTooManyRequests, w.Code)
		require.Contains(t, w.Header()["Ratelimit"][0], ";r=0;")
		require.Equal(t, "20", w.Header().Get("Retry-After"))
	})
}

func TestALearnedPaceIsKeptNoLongerThanMaxPauseByWhoeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{start: time.Now(), answer: func(call int) (int, http.Header) {
			if call == 1 {
				return 200, http.Header{"Ratelimit": {`"a";r=1;t=100000000`}} // three years for the next
			}
			return 200, http.Header{}
		}}
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(100), MaxPause: time.Minute})
		require.NoError(t, send(ctx, l, u, "http://a.test/"))
		require.NoError(t, send(ctx, l, u, "http://a.test/"), "the one that is left")
		soon, cancel := context.WithTimeout(ctx, 59*time.Second)
		defer cancel()
		require.ErrorIs(t, send(soon, l, u, "http://a.test/"), ratelimit.ErrWait)
		require.Zero(t, time.Since(u.start), "at once")
		later, cancel := context.WithTimeout(ctx, 61*time.Second)
		defer cancel()
		require.NoError(t, send(later, l, u, "http://a.test/"))
		require.InDelta(t, time.Minute, time.Since(u.start), float64(20*time.Millisecond))
	})
}

func TestSetRateHoldsForThoseWhoAreInLineAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{start: time.Now()}
		l := ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.Rate{Requests: 1, Per: time.Hour, Burst: 2},
			Cost: func(r *http.Request) int { n, _ := strconv.Atoi(r.URL.Query().Get("cost")); return n },
		})
		var wg sync.WaitGroup
		for _, cost := range []string{"2", "1", "2", "1", "1"} {
			wg.Go(func() {
				err := send(ctx, l, u, "http://a.test/?cost="+cost)
				require.Equal(t, cost == "2" && time.Since(u.start) > 0, errors.Is(err, ratelimit.ErrWait), err)
			})
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		require.NoError(t, l.SetRate(ratelimit.Rate{Requests: 1, Per: time.Second, Burst: 1}))
		wg.Wait()
		require.Len(t, u.calls, 4, "the one that costs more than the bucket now holds, holds nobody up")
		require.InDelta(t, time.Minute+3*time.Second, time.Since(u.start), float64(100*time.Millisecond))
	})
}

func TestAnAnswerAfterAFlushThatCouldNotBeIsTheOneThatIsSettled(t *testing.T) {
	settled := 0
	l := ratelimit.MustNew(ratelimit.Config{
		Rate:   ratelimit.PerHour(10),
		Settle: func(_ *http.Request, o ratelimit.Outcome) int { settled = o.Status; return 1 },
	})
	h := l.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		require.ErrorIs(t, http.NewResponseController(w).Flush(), http.ErrNotSupported)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	h.ServeHTTP(struct{ http.ResponseWriter }{httptest.NewRecorder()}, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, http.StatusUnauthorized, settled)
}

// A slowFile takes ten seconds for each write.
type slowFile struct{ bytes.Buffer }

func (f *slowFile) Write(p []byte) (int, error) {
	time.Sleep(10 * time.Second)
	return f.Buffer.Write(p)
}

func TestASnapshotThatTakesLongForgivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1)})
		for i := range 2000 {
			allow(t, old, strconv.Itoa(i), 1)
		}
		var f slowFile
		require.NoError(t, old.Snapshot(&f))
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1)})
		require.NoError(t, l.Restore(&f.Buffer))
		for i := range 2000 {
			key := strconv.Itoa(i)
			require.InDelta(t, old.Peek(ctx, key).RetryAfter, l.Peek(ctx, key).RetryAfter, float64(time.Microsecond))
		}
	})
}

func TestTheBucketsOfAKeyAreInOneSlotOfACluster(t *testing.T) {
	var keys []string
	s := ratelimit.NewRedisStore("api:", func(_ context.Context, _ string, k []string, _ ...any) (any, error) {
		keys = append(keys, k...)
		return nil, errors.New("not today")
	})
	// What stands between the first brace and the next chooses the slot, or if
	// that is nothing, the whole key: Redis cluster specification, hash tags.
	tag := func(key string) string {
		if _, rest, ok := strings.Cut(key, "{"); ok {
			if in, _, ok := strings.Cut(rest, "}"); ok && in != "" {
				return in
			}
		}
		return key
	}
	seen := make(map[string]bool)
	for _, key := range []string{"", "a", "}", "}}", "}a", "a}", "{", "{}", "{}}", "{}a", strings.Repeat("}", 65)} {
		keys = nil
		_, err := s.Charge(ctx, []ratelimit.Bucket{
			{Key: key, Policy: "api", Rate: ratelimit.PerSecond(1)}, {Key: key, Policy: "api-day", Rate: ratelimit.PerDay(1)},
		}, 1)
		require.ErrorContains(t, err, "not today")
		require.Equal(t, tag(keys[0]), tag(keys[1]), "%q", key)
		require.False(t, seen[keys[0]], "%q", key)
		seen[keys[0]] = true
	}
}

func TestAWaitOfCenturiesFailsAtOnceToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{start: time.Now()}
		l := ratelimit.MustNew(ratelimit.Config{
			Rate: ratelimit.Rate{Requests: 1, Per: 365 * 24 * time.Hour, Burst: 1},
		})
		waiting, leave := context.WithCancel(ctx)
		for range 400 { // the last will be sent in 399 years, which no Duration holds
			go send(waiting, l, u, "http://a.test/") //nolint:errcheck // they leave
		}
		synctest.Wait()
		hurried, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		require.ErrorIs(t, send(hurried, l, u, "http://a.test/"), ratelimit.ErrWait)
		require.Zero(t, time.Since(u.start))
		leave()
	})
}

type noAnswer struct{}

func (noAnswer) RoundTrip(*http.Request) (*http.Response, error) { return nil, nil }

func TestARoundTripperWithoutAnAnswerDoesNotPanic(t *testing.T) {
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(10)})
	client := &http.Client{Transport: lim.Transport(noAnswer{})}
	_, err := client.Get("http://b.test") //nolint:bodyclose // there is none
	require.ErrorContains(t, err, "nil *Response")
}
