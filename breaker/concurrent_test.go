package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

// Everything at once, in real time, with a hook that calls back: for -race, and
// for the sums.
func TestNothingIsLostWhenEverythingHappensAtOnce(t *testing.T) {
	var b *breaker.Breaker
	var inHook, hooks atomic.Int64
	var last sync.Map // key: the state that the hook heard of last
	b = breaker.MustNew(breaker.Config{
		MinCalls: 5, Window: 20 * time.Millisecond, SlowCall: 2 * time.Millisecond, OpenFor: time.Millisecond,
		MaxOpen: 2 * time.Millisecond, Ramp: time.Millisecond, MaxKeys: 4,
		OnChange: func(c breaker.Change) {
			if inHook.Add(1) != 1 {
				t.Error("two hooks at once")
			}
			defer inHook.Add(-1)
			hooks.Add(1)
			if from, ok := last.Swap(c.Key, c.To); ok && c.Key == "" && from != c.From {
				t.Errorf("out of order: %v after %v", c, from)
			}
			b.State()
			b.Stats()
			_ = try(b.For(c.Key), nil)
		},
	})
	var began, refused atomic.Int64
	rt := b.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
		began.Add(1)
		switch rand.IntN(4) {
		case 0:
			return nil, errDown
		case 1:
			return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"0"}}, Body: http.NoBody}, nil
		}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("x"))}, nil
	}))
	var wg sync.WaitGroup
	deadline := time.Now().Add(300 * time.Millisecond)
	for w := range 8 {
		wg.Go(func() {
			for i := 0; time.Now().Before(deadline) || i < 100; i++ {
				switch n := rand.IntN(100); {
				case n < 40:
					_, err := breaker.Do(context.Background(), b, func(context.Context) (int, error) {
						began.Add(1)
						if rand.IntN(100) == 0 {
							runtime.Gosched()
						}
						if rand.IntN(3) == 0 {
							return 0, errDown
						}
						return 1, nil
					})
					if errors.Is(err, breaker.ErrOpen) {
						refused.Add(1)
					}
				case n < 90:
					resp, err := rt.RoundTrip(get(fmt.Sprintf("http://host%d/", rand.IntN(8))))
					switch {
					case errors.Is(err, breaker.ErrOpen):
						refused.Add(1)
					case err == nil:
						_, _ = io.ReadAll(resp.Body)
						resp.Body.Close()
					}
				case n < 95:
					func() {
						defer func() { _ = recover() }()
						_, err := breaker.Do(context.Background(), b, func(context.Context) (int, error) {
							began.Add(1)
							panic("boom")
						})
						if err != nil {
							refused.Add(1)
						}
					}()
				case n == 95 && w == 0:
					b.ForceOpen(time.Microsecond, "")
				case n == 96 && w == 0:
					b.ForceClosed(time.Microsecond, "")
				case n == 97 && w == 0:
					b.Reset()
				case n == 98:
					for range b.Conditions() {
					}
					for range b.Changes() {
					}
				default:
					b.Collect(func(string, string, string, float64, ...string) {})
				}
			}
		})
	}
	wg.Wait()
	b.Reset()
	s := b.Stats()
	ours := s.Succeeded + s.Slow + s.Failed + s.Ignored
	require.GreaterOrEqual(t, int64(ours), began.Load(), "the hook's calls come on top")
	require.LessOrEqual(t, int64(ours+s.Refused), began.Load()+refused.Load()+hooks.Load())
	require.GreaterOrEqual(t, int64(ours+s.Refused), began.Load()+refused.Load())
	require.NotZero(t, hooks.Load())
	require.LessOrEqual(t, s.Keys, 4)
	require.Equal(t, breaker.Closed, b.State(), "the circuits are counted right")
}
