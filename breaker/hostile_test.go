package breaker_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/breaker"
)

type answers func(*http.Request) (*http.Response, error)

func (f answers) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestARoundTripperWithoutAnAnswerIsAFailure(t *testing.T) {
	b := breaker.MustNew(breaker.Config{})
	client := &http.Client{Transport: b.Transport(answers(func(*http.Request) (*http.Response, error) { return nil, nil }))}
	_, err := client.Get("http://b.test") //nolint:bodyclose // there is none
	require.ErrorContains(t, err, "nil *Response")
	require.EqualValues(t, 1, b.Stats().Failed)
}

// A crackedBody fails to be read.
type crackedBody struct{ closed bool }

func (*crackedBody) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
func (b *crackedBody) Close() error           { b.closed = true; return nil }

func TestAJudgeThatPanicsLeavesNothingOpen(t *testing.T) {
	for name, when := range map[string]func(breaker.Outcome) bool{
		"about the header": func(o breaker.Outcome) bool { return o.Status != 0 },
		"about the body":   func(o breaker.Outcome) bool { return errors.Is(o.Err, io.ErrUnexpectedEOF) },
	} {
		t.Run(name, func(t *testing.T) {
			b := breaker.MustNew(breaker.Config{SlowCall: time.Second, Judge: func(o breaker.Outcome) breaker.Verdict {
				if when(o) {
					panic("odd outcome")
				}
				return breaker.DefaultJudge(o)
			}})
			body := new(crackedBody)
			rt := b.Transport(answers(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Body: body}, nil
			}))
			require.PanicsWithValue(t, "odd outcome", func() {
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://b.test", nil)
				resp, err := rt.RoundTrip(req)
				require.NoError(t, err)
				defer resp.Body.Close()
				_, _ = io.ReadAll(resp.Body)
			})
			require.True(t, body.closed)
			require.EqualValues(t, 1, b.Stats().Failed)
		})
	}
}

func TestAJudgeThatPanicsInDoneFreesTheProbesPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		odd := errors.New("odd")
		b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, Judge: func(o breaker.Outcome) breaker.Verdict {
			if o.Err == odd {
				panic("odd outcome")
			}
			return breaker.DefaultJudge(o)
		}}))
		_ = try(b, errDown)
		time.Sleep(5 * time.Second)
		done, err := b.Allow(t.Context())
		require.NoError(t, err)
		require.PanicsWithValue(t, "odd outcome", func() { done(odd) })
		require.EqualValues(t, 2, b.Stats().Failed)
		require.Equal(t, breaker.Open, b.State(), "the probe has failed, at once")
		time.Sleep(10 * time.Second)
		done, err = b.Allow(t.Context())
		require.NoError(t, err, "and the next may go")
		done(nil)
		require.EqualValues(t, 1, b.Stats().Succeeded)
	})
}

// A treacherousBody panics when it is read.
type treacherousBody struct{}

func (treacherousBody) Read([]byte) (int, error) { panic("torn") }
func (treacherousBody) Close() error             { return nil }

func TestABodyThatPanicsIsAFailureEvenIfItIsClosedAfter(t *testing.T) {
	judged := 0
	b := breaker.MustNew(breaker.Config{Judge: func(o breaker.Outcome) breaker.Verdict { judged++; return breaker.DefaultJudge(o) }})
	require.PanicsWithValue(t, "torn", func() {
		resp, err := b.Transport(answer(200, treacherousBody{})).RoundTrip(get("http://a/"))
		require.NoError(t, err)
		defer resp.Body.Close()
		_, _ = io.ReadAll(resp.Body)
	})
	require.EqualValues(t, 1, b.Stats().Failed)
	require.Equal(t, 1, judged, "about the header alone: a panic is a failure unasked")
}

func TestAJudgeIsToldWhoseBodyBrokeOff(t *testing.T) {
	var told []breaker.Outcome
	b := breaker.MustNew(breaker.Config{Judge: func(o breaker.Outcome) breaker.Verdict {
		told = append(told, o)
		return breaker.DefaultJudge(o)
	}})
	resp, err := b.Transport(answer(206, new(crackedBody), "Etag", "7")).RoundTrip(get("http://a/"))
	require.NoError(t, err)
	_, _ = io.ReadAll(resp.Body)
	require.Len(t, told, 2)
	require.Equal(t, 206, told[1].Status)
	require.Equal(t, "7", told[1].Header.Get("Etag"))
	require.Equal(t, io.ErrUnexpectedEOF, told[1].Err)
	require.Equal(t, 206, b.Stats().LastFailure.Status)
}

func TestAnAnswerAfterAFlushOrHijackThatCouldNotBeIsTheOneThatCounts(t *testing.T) {
	for name, refused := range map[string]func(*http.ResponseController) error{
		"flush":  (*http.ResponseController).Flush,
		"hijack": func(c *http.ResponseController) error { _, _, err := c.Hijack(); return err },
	} {
		t.Run(name, func(t *testing.T) {
			b := breaker.MustNew(breaker.Config{})
			h := b.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				require.ErrorIs(t, refused(http.NewResponseController(w)), http.ErrNotSupported)
				w.WriteHeader(http.StatusInternalServerError)
			}))
			h.ServeHTTP(struct{ http.ResponseWriter }{httptest.NewRecorder()}, get("/"))
			require.EqualValues(t, 1, b.Stats().Failed)
		})
	}
}
