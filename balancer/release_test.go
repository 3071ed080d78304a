package balancer_test

import (
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// answers is a RoundTripper that reads the request's body and answers with a
// status, and counts the bodies of its answers that were closed.
func answers(code int, closed *atomic.Int32) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
		}
		return &http.Response{StatusCode: code, Body: &counted{Reader: strings.NewReader("x"), closed: closed}}, nil
	})
}

// picks is a Policy: a func.
type picks func(ready []*balancer.Endpoint, c balancer.Call) *balancer.Endpoint

func (p picks) Picker(ready []*balancer.Endpoint) balancer.Picker {
	return func(c balancer.Call) *balancer.Endpoint { return p(ready, c) }
}

// panics is a request's body.
type panics struct{}

func (panics) Read([]byte) (int, error) { panic("boom") }

func TestWhateverPanicsNothingIsKept(t *testing.T) {
	var n atomic.Int32
	for name, c := range map[string]struct {
		cfg     balancer.Config
		code    int
		body    io.Reader
		answers int32 // how many
	}{
		"Picker": {code: 200, cfg: balancer.Config{Policy: picks(func([]*balancer.Endpoint, balancer.Call) *balancer.Endpoint { panic("boom") })}},
		"Picker at a retry": {code: 503, answers: 1, cfg: balancer.Config{Policy: picks(func(ready []*balancer.Endpoint, _ balancer.Call) *balancer.Endpoint {
			if n.Add(1) == 1 {
				return ready[0]
			}
			panic("boom")
		})}},
		"Verdict":    {code: 200, answers: 1, cfg: balancer.Config{Verdict: func(*http.Response, error) balancer.Verdict { panic("boom") }}},
		"Retry.When": {code: 503, answers: 1, cfg: balancer.Config{Retry: balancer.Retry{When: func(*http.Response, error) bool { panic("boom") }}}},
		"Wrap":       {code: 200, cfg: balancer.Config{Wrap: func(balancer.Backend, http.RoundTripper) http.RoundTripper { panic("boom") }}},
		"the body":   {code: 200, body: panics{}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var requests, responses atomic.Int32
				c.cfg.Backends = many(2)
				b := must(t, c.cfg)
				if c.body == nil {
					c.body = strings.NewReader("x")
				}
				req, _ := http.NewRequest(http.MethodPut, "http://x/", &counted{Reader: c.body, closed: &requests})
				require.PanicsWithValue(t, "boom", func() { _, _ = b.Transport(answers(c.code, &responses)).RoundTrip(req) })
				require.EqualValues(t, 1, requests.Load(), "the request's body is closed")
				require.Equal(t, c.answers, responses.Load(), "and the answer's")
				require.Zero(t, b.Stats().InFlight)
			})
		})
	}
}

func TestARuleThatPanicsLeavesNoBodyOpen(t *testing.T) {
	var closed atomic.Int32
	b := must(t, balancer.Config{Backends: many(1)})
	s, err := balancer.NewSplit(balancer.SplitConfig{
		Shares: []balancer.Share{{Pool: b, Weight: 1}},
		Rules:  []balancer.Rule{{When: func(*http.Request) bool { panic("boom") }, To: b}},
	})
	require.NoError(t, err)
	req, _ := http.NewRequest(http.MethodPut, "http://x/", &counted{Reader: strings.NewReader("x"), closed: &closed})
	require.PanicsWithValue(t, "boom", func() { _, _ = s.Transport().RoundTrip(req) })
	require.EqualValues(t, 1, closed.Load())
}

func TestAHookThatEndsTheGoroutineOfARequestGivesItBack(t *testing.T) {
	var told, closed atomic.Int32
	b := must(t, balancer.Config{Backends: many(2), Policy: first{}, OnChange: func(balancer.Change) {
		told.Add(1)
		runtime.Goexit()
	}})
	inGoroutine := func(f func()) {
		done := make(chan struct{})
		go func() { defer close(done); f() }()
		<-done
	}
	for range 5 {
		inGoroutine(func() { do(b.Transport(answers(500, &closed)), http.MethodGet) })
	}
	require.EqualValues(t, 1, told.Load())
	require.EqualValues(t, 5, closed.Load())
	require.EqualValues(t, 5, b.Stats().Failure)
	require.Zero(t, b.Stats().InFlight)

	require.NoError(t, b.SetBackends(many(4)[2:]...))
	for range 5 {
		inGoroutine(func() {
			l, _ := b.Acquire(nil)
			l.Done(balancer.Failure)
		})
	}
	require.EqualValues(t, 2, told.Load())
	require.Zero(t, b.Stats().InFlight)
}

func TestAVerdictBeyondTheConstantsSaysNothing(t *testing.T) {
	var closed atomic.Int32
	b := must(t, balancer.Config{Backends: many(1), Verdict: func(*http.Response, error) balancer.Verdict { return 77 }})
	require.Equal(t, 200, do(b.Transport(answers(200, &closed)), http.MethodGet))
	l, err := b.Acquire(nil)
	require.NoError(t, err)
	l.Done(99)
	require.EqualValues(t, 2, b.Stats().Ignored)
	require.Zero(t, b.Stats().InFlight)
}

func TestDoneCountsOnce(t *testing.T) {
	b := must(t, balancer.Config{Backends: many(1)})
	l, err := b.Acquire(nil)
	require.NoError(t, err)
	l.Done(balancer.Success)
	l.Done(balancer.Failure)
	s := b.Stats()
	require.EqualValues(t, 1, s.Success)
	require.Zero(t, s.Failure)
	require.Zero(t, s.InFlight)
	require.Zero(t, l.Endpoint().Waiting())
}

func TestAResponseBesideAnErrorIsClosedAndNotJudged(t *testing.T) {
	var closed atomic.Int32
	odd := errors.New("odd")
	b := must(t, balancer.Config{Backends: many(1), Verdict: func(resp *http.Response, err error) balancer.Verdict {
		require.Nil(t, resp)
		require.ErrorIs(t, err, odd)
		return balancer.Failure
	}})
	rt := b.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, _ := answers(200, &closed).RoundTrip(r)
		return resp, odd
	}))
	require.Zero(t, do(rt, http.MethodGet))
	require.EqualValues(t, 1, closed.Load())
}
