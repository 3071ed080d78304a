package balancer_test

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestAPolicyThatPanicsLocksNobodyOut(t *testing.T) {
	l := newLab()
	p := new(brittle)
	b := must(t, balancer.Config{Backends: l.hosts(3), Policy: p, SlowStart: -1})
	p.broken.Store(true)
	require.NoError(t, b.SetBackends(l.hosts(2)...))
	require.Equal(t, 200, do(b.Transport(l), http.MethodGet))
	require.Equal(t, 2, b.Stats().Backends)
	require.EqualValues(t, 1, b.Stats().HookPanics)
	require.Panics(t, func() { _, _ = balancer.New(balancer.Config{Backends: l.hosts(1), Policy: p}) })
}

// brittle is a Policy that panics when it is told to.
type brittle struct{ broken atomic.Bool }

func (p *brittle) Picker(ready []*balancer.Endpoint) balancer.Picker {
	if p.broken.Load() {
		panic("no table")
	}
	return balancer.Random().Picker(ready)
}

func TestAPanicInHealthyMeansNoAndLosesNoTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		var broken atomic.Bool
		b := must(t, balancer.Config{Backends: l.hosts(3), Policy: balancer.RoundRobin(), SlowStart: -1, Healthy: func(d balancer.Backend) bool {
			if d.ID == "b0" && broken.Load() {
				panic("no answer")
			}
			return true
		}})
		rt := b.Transport(l)
		l.set("b0", 500)
		send(rt, 100, time.Second)
		require.Equal(t, balancer.Ejected, state(b, 0))

		l.set("b0", 200)
		time.Sleep(10 * time.Second)
		broken.Store(true)
		require.Equal(t, 10, send(rt, 10, time.Second))
		require.NotZero(t, b.Stats().HookPanics)
		broken.Store(false)
		send(rt, 200, 10*time.Second)
		require.Equal(t, balancer.Ready, state(b, 0), "its trial was still to be had")
	})
}

func TestAHookThatEndsItsGoroutineHarmsNobody(t *testing.T) {
	l := newLab()
	var calls atomic.Int32
	b := must(t, balancer.Config{Backends: l.hosts(2), OnChange: func(balancer.Change) {
		calls.Add(1)
		runtime.Goexit()
	}})
	for _, drain := range []bool{true, false} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			list := l.hosts(2)
			list[0].Drain = drain
			_ = b.SetBackends(list...)
		}()
		<-done
	}
	require.EqualValues(t, 2, calls.Load())
}

func TestAHookThatDoesNotReturnKeepsAndHoldsUpLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const changes, kept = 5000, 4096
		list, returns := newLab().hosts(2), make(chan struct{})
		var told atomic.Int32
		b := must(t, balancer.Config{Backends: list, SlowStart: -1, OnChange: func(balancer.Change) {
			if told.Add(1) == 1 {
				<-returns
			}
		}})
		for i := range changes {
			next := slices.Clone(list)
			next[0].Drain = i%2 == 0
			go func() { _ = b.SetBackends(next...) }()
			synctest.Wait()
		}
		require.EqualValues(t, 1, told.Load())
		require.EqualValues(t, changes-1-kept, b.Stats().HookMissed)
		close(returns)
		synctest.Wait()
		require.EqualValues(t, 1+kept, told.Load())
	})
}

func TestWhileAHookRunsBackendsComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		returns := make(chan struct{})
		b := must(t, balancer.Config{Backends: l.hosts(5), Policy: balancer.RoundRobin(), SlowStart: -1, OnChange: func(c balancer.Change) {
			if c.To == balancer.Probation {
				<-returns
			}
		}})
		defer close(returns)
		rt := b.Transport(l)
		l.set("b0", 500)
		send(rt, 100, time.Second)
		time.Sleep(7 * time.Second)
		go do(rt, http.MethodGet)
		synctest.Wait() // the hook has been told of b0's probation

		l.set("b1", 500)
		send(rt, 100, time.Second)
		require.Equal(t, balancer.Ejected, state(b, 1))
		l.set("b1", 200)
		send(rt, 1000, 20*time.Second)
		require.Equal(t, balancer.Ready, state(b, 1))
	})
}

func TestAPanicInRetryWhenGivesTheRequestBack(t *testing.T) {
	for name, hedge := range map[string]balancer.Hedge{"alone": {}, "hedged": {After: time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var closed atomic.Int32
				slow := roundTripper(func(r *http.Request) (*http.Response, error) {
					if r.URL.Host == "b0" {
						time.Sleep(time.Second)
					} else {
						time.Sleep(100 * time.Millisecond)
					}
					return &http.Response{StatusCode: 200, Body: &counted{Reader: strings.NewReader("x"), closed: &closed}}, nil
				})
				b := must(t, balancer.Config{Backends: newLab().hosts(2), Hedge: hedge, Retry: balancer.Retry{
					When: func(*http.Response, error) bool { panic("odd answer") },
				}})
				require.PanicsWithValue(t, "odd answer", func() { do(b.Transport(slow), http.MethodGet) })
				time.Sleep(2 * time.Second)
				require.Zero(t, b.Stats().InFlight)
				require.NotZero(t, closed.Load())
			})
		})
	}
}

type counted struct {
	io.Reader
	closed *atomic.Int32
}

func (c *counted) Close() error { c.closed.Add(1); return nil }

func TestTheLastBackendIsNeverEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		b := must(t, balancer.Config{
			Backends: l.hosts(3), Policy: balancer.RoundRobin(), SlowStart: -1, PanicShare: -1, Retry: balancer.Retry{Max: -1},
			Eject: balancer.Eject{MaxShare: 1, Base: time.Hour, Max: time.Hour},
		})
		rt := b.Transport(l)
		for _, id := range []string{"b0", "b1", "b2"} { // one after the other, so that each stands out
			l.set(id, 500)
			send(rt, 200, 20*time.Second)
		}
		require.Equal(t, 1, b.Stats().Available)
	})
}

func TestAStickyResponseMayComeWithoutAHeader(t *testing.T) {
	bare := roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})
	b := must(t, balancer.Config{Backends: newLab().hosts(1), Sticky: balancer.Sticky{Cookie: "at", Secret: make([]byte, 16)}})
	req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://service/", nil)
	resp, err := b.Transport(bare).RoundTrip(req)
	require.NoError(t, err)
	require.NotEmpty(t, resp.Header["Set-Cookie"])
	require.NoError(t, resp.Body.Close())
}

func TestACheckThatEndsItsGoroutineFailsAndIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		b := must(t, balancer.Config{Backends: newLab().hosts(1), Probe: balancer.Probe{Check: func(context.Context, balancer.Backend) error {
			if calls.Add(1) == 1 {
				runtime.Goexit()
			}
			return nil
		}}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = b.Run(ctx)
		require.Greater(t, calls.Load(), int32(5))
	})
}
