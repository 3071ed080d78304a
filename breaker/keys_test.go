package breaker_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

func TestHostsAreTheSameHoweverTheyAreWritten(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	rt := b.Transport(answer(200, http.NoBody))
	for _, url := range []string{
		"http://example.com/a", "http://EXAMPLE.com/b", "http://example.com:80/",
		"https://example.com/", "https://Example.Com:443/",
		"http://example.com:8080/",
		"http://[::1]:80/", "http://[::1]/",
	} {
		_, err := rt.RoundTrip(get(url))
		require.NoError(t, err)
	}
	require.Equal(t, 4, b.Stats().Keys)
	for _, key := range []string{"http://example.com", "https://example.com", "http://example.com:8080", "http://[::1]"} {
		require.NotZero(t, b.For(key).Stats().Succeeded, key)
	}
	require.Equal(t, 4, b.Stats().Keys, "For found them all")
	require.Equal(t, "https://example.com", breaker.ByHost(get("https://EXAMPLE.com:443/x")))
}

func TestAFloodOfHostsIsBoundedAndForgetsNoOpenCircuit(t *testing.T) {
	for _, maxKeys := range []int{10, 2000} {
		t.Run(fmt.Sprint(maxKeys), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := breaker.MustNew(breaker.Config{MaxKeys: maxKeys, ConsecutiveFailures: 1, OpenFor: time.Hour})
				_ = try(b.For("down"), errDown)
				b.For("forced").ForceClosed(0, "")
				for i := range 20 * maxKeys {
					_ = try(b.For(fmt.Sprintf("host-%d", i)), nil)
				}
				s := b.Stats()
				require.LessOrEqual(t, s.Keys, maxKeys)
				require.NotZero(t, s.Evicted)
				require.ErrorIs(t, try(b.For("down"), nil), breaker.ErrOpen)
				require.Equal(t, breaker.Open, b.State())
				require.Len(t, conditions(b), 2)
				require.EqualValues(t, 20*maxKeys, b.Stats().Succeeded, "what forgotten circuits counted is kept")
			})
		})
	}
}

func TestAFloodOfFailingHostsIsBoundedToo(t *testing.T) {
	b := breaker.MustNew(breaker.Config{MaxKeys: 10, ConsecutiveFailures: 1, OpenFor: time.Hour})
	for i := range 1000 {
		_ = try(b.For(fmt.Sprintf("host-%d", i)), errDown)
	}
	require.LessOrEqual(t, b.Stats().Keys, 10)
	require.Len(t, conditions(b), 10)
	require.EqualValues(t, 1000, b.Stats().Opened)
	require.Equal(t, breaker.Open, b.State())
}

func TestIdleCircuitsAreForgottenWithoutLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, MaxRetryAfter: time.Hour}))
		times(b.For("a"), 3, nil)
		_ = try(b.For("gone for good"), errDown) // nobody asks for it any more
		_ = try(b.For("open for an hour"), quota{time.Hour})
		b.For("forced").ForceOpen(0, "")
		time.Sleep(10*time.Minute - 1)
		require.Equal(t, 4, b.Stats().Keys)
		time.Sleep(time.Nanosecond)
		require.Equal(t, 3, b.Stats().Keys)
		time.Sleep(10 * time.Minute)
		s := b.Stats()
		require.Equal(t, 2, s.Keys)
		require.EqualValues(t, 3, s.Succeeded)
		require.EqualValues(t, 2, s.Failed)
		require.Zero(t, s.Evicted)
		require.Len(t, conditions(b), 2)

		time.Sleep(30 * time.Minute)
		require.Equal(t, 2, b.Stats().Keys)
		require.ErrorIs(t, try(b.For("open for an hour"), nil), breaker.ErrOpen)
		b.For("forced").Release()
		times(b.For("a"), 3, nil)
		time.Sleep(time.Hour)
		require.Empty(t, conditions(b))
		require.Equal(t, breaker.Closed, b.State())
	})
}

func TestACallThatOutlivesItsCircuitIsCounted(t *testing.T) {
	b := breaker.MustNew(breaker.Config{MaxKeys: 1})
	done, err := b.For("a").Allow(t.Context())
	require.NoError(t, err)
	_ = try(b.For("b"), nil) // takes a's place
	done(errDown)
	require.EqualValues(t, 1, b.Stats().Failed)
	require.EqualValues(t, 1, b.Stats().Succeeded)
}

func TestALongKeyIsShortenedAndStillItsOwn(t *testing.T) {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1})
	long := strings.Repeat("€", 1<<20)
	_ = try(b.For(long), errDown)
	require.ErrorIs(t, try(b.For(long), nil), breaker.ErrOpen)
	require.NoError(t, try(b.For(long+"!"), nil))
	require.Less(t, len(b.Stats().LastFailure.Key), 256)
	require.True(t, utf8.ValidString(b.Stats().LastFailure.Key))
	require.NoError(t, try(b.For(b.Stats().LastFailure.Key+"x"), nil))
	require.ErrorIs(t, try(b.For(b.Stats().LastFailure.Key), nil), breaker.ErrOpen, "as a peer announces it")
	require.ErrorIs(t, try(b.For("http://"+strings.Repeat("x", 252)), errDown), errDown)

	_ = try(b.For("http://"+long), errDown)
	require.Contains(t, b.Stats().LastFailure.Key, "http://")
	require.ErrorIs(t, try(b.For(b.Stats().LastFailure.Key), nil), breaker.ErrOpen, "as a peer announces it")
}

func TestAKeyIsNotTakenForAnother(t *testing.T) {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1})
	_ = try(b.For("://a"), errDown)
	require.NoError(t, try(b.For("a"), nil))
	require.Equal(t, "://a", b.Stats().LastFailure.Key)
}

func TestTotalsNeverGoBackWhileCircuitsAreForgotten(t *testing.T) {
	b := breaker.MustNew(breaker.Config{MaxKeys: 50})
	var done atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer done.Store(true)
	for range 2 {
		wg.Go(func() {
			for i := 0; !done.Load(); i++ {
				times(b.For(fmt.Sprint(i%1000)), 100, nil) // every one of them takes another's place
			}
		})
	}
	last := uint64(0)
	for range 60_000 {
		now := b.Stats().Succeeded
		require.GreaterOrEqual(t, now, last)
		last = now
	}
}

func TestForcingACircuitThatWasForgottenForcesTheOneInItsPlace(t *testing.T) {
	b := breaker.MustNew(breaker.Config{MaxKeys: 1, ConsecutiveFailures: 1})
	kept := b.For("a")
	_ = try(kept, errDown)
	_ = b.For("b")
	require.ErrorIs(t, b.Stats().LastFailure.Err, errDown, "its last failure is kept")
	kept.ForceOpen(0, "by hand")
	require.ErrorIs(t, try(b.For("a"), nil), breaker.ErrOpen)
}

func TestACircuitsTransportAndHandlerAreItsOwn(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	_, err := b.For("partner").Transport(answer(200, http.NoBody)).RoundTrip(get("http://a/"))
	require.NoError(t, err)
	serve(b.For("partner").Handler(status(200)), get("/"))
	require.EqualValues(t, 2, b.For("partner").Stats().Succeeded)
	require.Equal(t, 1, b.Stats().Keys)
	require.Same(t, b, b.For("partner").For(""))
}

func TestCollectEmitsEverySeriesFromTheStart(t *testing.T) {
	series := func(b *breaker.Breaker) (names []string, values map[string]float64) {
		values = make(map[string]float64)
		b.Collect(func(name, help, kind string, value float64, labels ...string) {
			require.NotEmpty(t, help)
			require.Contains(t, []string{"counter", "gauge"}, kind)
			require.Zero(t, len(labels)%2)
			require.Equal(t, []string{"breaker", b.Name()}, labels[:2])
			key := name
			for i := 2; i < len(labels); i += 2 {
				key += fmt.Sprintf(" %s=%s", labels[i], labels[i+1])
			}
			require.NotContains(t, values, key)
			names = append(names, key)
			values[key] = value
		})
		return names, values
	}
	b := breaker.MustNew(breaker.Config{Name: "inventory", ConsecutiveFailures: 1})
	before, zero := series(b)
	for key, v := range zero {
		if key == "spillway_breaker_state state=closed" || key == "spillway_breaker_circuits state=closed" {
			require.Equal(t, 1.0, v)
		} else {
			require.Zero(t, v, key)
		}
	}
	_ = try(b.For("a"), errDown)
	_ = try(b.For("a"), nil)
	_ = try(b.For("b"), nil)
	after, v := series(b)
	require.Equal(t, before, after, "the same series in the same order")
	require.Equal(t, 1.0, v["spillway_breaker_state state=open"])
	require.Equal(t, 0.0, v["spillway_breaker_state state=closed"])
	require.Equal(t, 2.0, v["spillway_breaker_circuits state=closed"])
	require.Equal(t, 1.0, v["spillway_breaker_requests_total outcome=failure"])
	require.Equal(t, 1.0, v["spillway_breaker_requests_total outcome=success"])
	require.Equal(t, 1.0, v["spillway_breaker_requests_total outcome=rejected"])
	require.Equal(t, 1.0, v["spillway_breaker_transitions_total from=closed to=open"])
	require.Greater(t, v["spillway_breaker_open_until_timestamp_seconds"], float64(time.Now().Unix()))
}

func TestConditionsNamesTheFirst64(t *testing.T) {
	b := breaker.MustNew(breaker.Config{Name: "mail"})
	for i := range 100 {
		b.For(fmt.Sprint(i)).ForceOpen(0, "")
	}
	lines := conditions(b)
	require.Len(t, lines, 65)
	require.Equal(t, "mail: and 36 circuits more", lines[64])
	for range b.Conditions() {
		break // an early end is fine
	}
}

func TestStatsSaysWhichKeyIsWorst(t *testing.T) {
	b := breaker.MustNew(breaker.Config{ConsecutiveFailures: 1})
	_ = try(b.For("http://a"), errDown)
	require.Equal(t, "http://a: a call failed", b.Stats().Why)
	require.Equal(t, "a call failed", b.For("http://a").Stats().Why)
	require.Equal(t, "http://a", b.Stats().LastFailure.Key)
	require.ErrorIs(t, b.Stats().LastFailure.Err, errDown)
}
