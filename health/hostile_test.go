package health_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

func TestSeveralServersStopTogetherWhenTheLastRequestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{Drain: health.Drain{Delay: -1}})
		release := make(chan struct{})
		handler := h.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
		go handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))

		ctx, cancel := context.WithCancel(t.Context())
		var servers sync.WaitGroup
		for range 3 {
			servers.Go(func() {
				ln := newSilent()
				require.NoError(t, h.Serve(ctx, &http.Server{Handler: handler}, &onceSilent{silent: ln}))
			})
		}
		synctest.Wait()
		start := time.Now()
		cancel()
		time.Sleep(time.Second)
		close(release)
		servers.Wait()
		require.Less(t, time.Since(start), 2*time.Second, "nobody waits for the whole Timeout")
	})
}

// onceSilent may be closed more than once, as a server does.
type onceSilent struct {
	*silent
	once sync.Once
}

func (l *onceSilent) Close() error {
	l.once.Do(func() { _ = l.silent.Close() })
	return nil
}

// dying is a listener that fails after a while.
type dying struct {
	*onceSilent
	after time.Duration
}

func (l dying) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	case <-time.After(l.after):
		return nil, errors.New("the network is gone")
	}
}

func TestAServerThatFailsWhileItDrainsIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ln := dying{&onceSilent{silent: newSilent()}, 2 * time.Second}
		err := h.Serve(ctx, &http.Server{Handler: h.Handler(nil)}, ln)
		require.ErrorContains(t, err, "the network is gone")
	})
}

type noAnswer struct{}

func (noAnswer) RoundTrip(*http.Request) (*http.Response, error) { return nil, nil }

func TestObservingARoundTripperWithoutAnAnswerDoesNotPanic(t *testing.T) {
	h := health.MustNew(health.Config{Checks: map[string]health.Check{"b": {Probe: func(context.Context) error { return nil }}}})
	client := &http.Client{Transport: h.Observe("b", noAnswer{})}
	_, err := client.Get("http://b.test") //nolint:bodyclose // there is none
	require.ErrorContains(t, err, "nil *Response")
	require.False(t, h.Ready())
}

func TestWhatWaitsForAHookThatHangsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free, told := make(chan struct{}), 0
		h := health.MustNew(health.Config{OnChange: func(health.Change) { <-free; told++ }})
		go h.SetMaintenance(true, "") // waits for the hook
		synctest.Wait()
		for range 2100 {
			h.SetMaintenance(false, "")
			h.SetMaintenance(true, "")
		}
		require.Equal(t, uint64(104), h.Stats().HookMissed, "beyond 4096")
		require.Equal(t, 104.0, value(t, h, "spillway_health_hook_missed_total"))
		close(free)
		synctest.Wait()
		require.Equal(t, 1+4096, told)
		h.SetMaintenance(false, "")
		require.Equal(t, 1+4096+1, told, "told again")
	})
}

func TestAHookThatEndsItsGoroutineEndsNoCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		h := health.MustNew(health.Config{
			Checks:   map[string]health.Check{"db": {Probe: fail, FailEvery: time.Second, Jitter: -1}},
			OnChange: func(health.Change) { told++; runtime.Goexit() },
		})
		run(t, h)
		time.Sleep(time.Minute)
		require.Greater(t, h.Stats().Runs, uint64(50), "once a second")
		require.Equal(t, 2, told, "the check, and the startup that waited for its first result")
	})
}

func TestAHookOfTheDrainThatEndsItsGoroutineIsReportedAndTheNextOneRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ran := false
		h := health.MustNew(health.Config{Drain: health.Drain{Delay: -1, Hooks: []func(context.Context) error{
			func(context.Context) error { runtime.Goexit(); return nil },
			func(context.Context) error { ran = true; return nil },
		}}})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		err := h.Serve(ctx, &http.Server{}, newSilent())
		require.EqualError(t, err, "health: Config.Drain.Hooks[0]: ended its goroutine")
		require.Zero(t, time.Since(start), "without waiting for HookTimeout")
		require.True(t, ran)
	})
}

func TestAnAnswerAfterAFlushThatCouldNotBeIsTheOneThatCounts(t *testing.T) {
	h := health.MustNew(health.Config{})
	front := h.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		require.ErrorIs(t, http.NewResponseController(w).Flush(), http.ErrNotSupported)
		w.WriteHeader(http.StatusInternalServerError)
	}))
	front.ServeHTTP(struct{ http.ResponseWriter }{httptest.NewRecorder()}, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 1.0, value(t, h, "spillway_http_request_duration_seconds_count", "code", "5xx"))
	require.Zero(t, value(t, h, "spillway_http_request_duration_seconds_count", "code", "2xx"))
}

func TestARequestThatSeveralServersCutOffCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{Drain: health.Drain{Delay: -1, Timeout: time.Second}})
		release := make(chan struct{})
		handler := h.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
		go get(handler, "/")
		ctx, cancel := context.WithCancel(t.Context())
		var servers sync.WaitGroup
		for range 2 { // such as one for the public and one for operators
			servers.Go(func() {
				err := h.Serve(ctx, &http.Server{Handler: handler}, newSilent())
				require.EqualError(t, err, "health: 1 request still ran 1s after the listener closed and was cut off")
			})
		}
		synctest.Wait()
		cancel()
		servers.Wait()
		require.Equal(t, uint64(1), h.Stats().Aborted)
		close(release)
	})
}

// The proxy finds that its client is gone when it can't write any more, and panics
// with http.ErrAbortHandler.
func TestAClientThatLeavesAProxyInTheMiddleIsNoFailure(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}))
	defer backend.Close()
	target, err := url.Parse(backend.URL)
	require.NoError(t, err)
	h := health.MustNew(health.Config{})
	front := h.Handler(httputil.NewSingleHostReverseProxy(target))
	panicked := make(chan any)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { panicked <- recover() }()
		front.ServeHTTP(w, r)
	}))
	defer proxy.Close()

	resp, err := http.Get(proxy.URL)
	require.NoError(t, err)
	_, err = io.ReadFull(resp.Body, make([]byte, 1000))
	require.NoError(t, err)
	resp.Body.Close() // which closes the connection, since there is more to come
	require.Equal(t, http.ErrAbortHandler, <-panicked)
	require.Equal(t, 1.0, value(t, h, "spillway_http_request_duration_seconds_count", "code", "canceled"))
	require.Zero(t, value(t, h, "spillway_http_request_duration_seconds_count", "code", "5xx"))
}

func TestTheNumbersOfACheckStayItsOwnWhileOthersComeAndGo(t *testing.T) {
	h := health.MustNew(health.Config{Checks: map[string]health.Check{"it": {Probe: pass}}})
	rt := h.Observe("it", roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	_, err := rt.RoundTrip(httptest.NewRequest("GET", "http://x/", nil))
	require.NoError(t, err)

	stop := make(chan struct{})
	var others sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} { // before it in the order
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = h.Register(name, health.Check{Probe: pass})
					h.Unregister(name)
				}
			}
		})
	}
	wrong := 0
	for range 2000 {
		if value(t, h, "spillway_health_check_runs_total", "check", "it") != 1 {
			wrong++
		}
	}
	close(stop)
	others.Wait()
	require.Zero(t, wrong, "of 2000 scrapes")
}

// AtLeast fails for a value that is not a number, which JSON can't say.
func TestACheckThatMeasuresNoNumberLeavesTheVerboseFormWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{
			Checks:    map[string]health.Check{"pool": {Probe: health.AtLeast(math.NaN, 0.5)}, "db": {Probe: pass}},
			Authorize: func(*http.Request) bool { return true },
		})
		run(t, h)
		for _, path := range []string{"/readyz?verbose", "/readyz/pool"} {
			body := get(h.Handler(nil), path).Body.String()
			require.Contains(t, body, `"componentId": "pool"`, path)
			require.Contains(t, body, `"output": "NaN, at least 0.5 is expected"`, path)
		}
	})
}

// net/http removes the files of a form from the request that it made, and a
// handler reads the form into the copy that it was given.
func TestTheFilesOfAFormAreRemoved(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("TMP", dir) // on Windows
	files := func() int {
		all, err := os.ReadDir(dir)
		require.NoError(t, err)
		return len(all)
	}
	srv := httptest.NewServer(health.MustNew(health.Config{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ParseMultipartForm(0) != nil || files() != 1 {
			w.WriteHeader(500)
		}
	})))
	defer srv.Close()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("photo", "photo.jpg")
	require.NoError(t, err)
	_, err = part.Write(make([]byte, 20<<20)) // more than is kept in memory
	require.NoError(t, err)
	form.Close()
	resp, err := http.Post(srv.URL, form.FormDataContentType(), &body)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	require.Zero(t, files(), "left in the directory for temporary files")
}
