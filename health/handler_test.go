package health_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

const secret = "dial tcp 10.1.2.3:5432: password=hunter2"

// tenChecks has ten checks that pass and counts their calls.
func tenChecks(calls *atomic.Int64) *health.Checker {
	checks := map[string]health.Check{}
	for _, name := range strings.Split("a b c d e f g h i j", " ") {
		checks[name] = health.Check{Probe: func(context.Context) error { calls.Add(1); return nil }}
	}
	return health.MustNew(health.Config{Checks: checks})
}

// Without coalescing, 10 checks of 20 ms are called 10,000 times here by
// alexliesenfeld (cache off), heptiolabs, brpaz and tavsec; nelkinda dies of a
// concurrent map write.
func TestAThousandProbesAtOnceCauseNoCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		h := tenChecks(&calls)
		front := h.Handler(teapot)
		run(t, h)
		before := calls.Load()
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				for _, path := range []string{"/livez", "/readyz", "/startupz"} {
					if code := get(front, path).Code; code != 200 {
						t.Errorf("%s answered %d", path, code)
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, before, calls.Load())
		require.Equal(t, uint64(3000), h.Stats().Probes)
	})
}

// alexliesenfeld/health runs the check with the prober's context, and shows
// everybody the failure of the one who left.
func TestAProberThatGivesUpChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := one(health.Check{Timeout: 500 * time.Millisecond, Probe: func(ctx context.Context) error {
			select {
			case <-time.After(200 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}})
		front := h.Handler(teapot)
		run(t, h)
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			front.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/readyz", nil))
			require.Equal(t, 200, get(front, "/readyz").Code)
			time.Sleep(time.Second)
		}
	})
}

// Probes through a limiter make the platform kill busy pods
// (dragonfly#5015, envoy#23843).
func TestProbesAreAnsweredBeforeTheChain(t *testing.T) {
	h := health.MustNew(health.Config{})
	front := h.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }))
	for _, path := range []string{"/livez", "/readyz", "/startupz"} {
		require.Equal(t, 200, get(front, path).Code)
	}
	for _, path := range []string{"/", "/livezz", "/live", "/readyz2", "/api/readyz", "/healthz"} {
		require.Equal(t, 429, get(front, path).Code, path)
	}
	require.Equal(t, uint64(6), h.Stats().Requests, "probes are not among the requests")
	require.Equal(t, 404, get(h.Handler(nil), "/").Code, "a port of its own")
}

// Six of eight libraries show the driver's error to anybody.
func TestErrorTextsNeverReachThePublic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		check := func(show bool) *health.Checker {
			h := health.MustNew(health.Config{
				ShowErrors: show,
				Authorize:  func(r *http.Request) bool { return r.Header.Get("X-Operator") != "" },
				Checks:     map[string]health.Check{"db": {Probe: func(context.Context) error { return errors.New(secret) }}},
			})
			run(t, h)
			return h
		}
		for _, show := range []bool{false, true} {
			front := check(show).Handler(teapot)
			for _, target := range []string{"/readyz", "/readyz?verbose", "/readyz?verbose=1&exclude=db", "/readyz/db", "/livez?verbose", "/startupz?verbose"} {
				rec := get(front, target)
				require.NotContains(t, rec.Body.String(), "hunter2", target)
				require.NotContains(t, rec.Body.String(), "db", target)
			}
			require.Equal(t, 503, get(front, "/readyz?exclude=db").Code, "a stranger can't make it green")
		}
		operator := func(h *health.Checker) string {
			rec := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "/readyz?verbose", nil)
			r.Header.Set("X-Operator", "yes")
			h.Handler(teapot).ServeHTTP(rec, r)
			return rec.Body.String()
		}
		require.Contains(t, operator(check(false)), `"output": "error"`)
		require.Contains(t, operator(check(true)), secret)

		for _, show := range []bool{false, true} {
			h := check(show)
			var all string
			for _, text := range h.Changes() {
				all += text
			}
			for subject, text := range h.Conditions() {
				all += subject + text
			}
			require.Equal(t, show, strings.Contains(all, "hunter2"), "only with ShowErrors")
		}
	})
}

func TestTheAnswersOfProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var err atomic.Pointer[error]
		set := func(e error) { err.Store(&e) }
		set(nil)
		h := one(health.Check{Fall: 1, Every: time.Second, Probe: func(context.Context) error { return *err.Load() }})
		front := h.Handler(teapot)
		expect := func(target string, code int, body string) {
			for _, method := range []string{"GET", "HEAD"} {
				rec := httptest.NewRecorder()
				front.ServeHTTP(rec, httptest.NewRequest(method, target, nil))
				require.Equal(t, code, rec.Code, target)
				require.Equal(t, "application/health+json", rec.Header().Get("Content-Type"))
				require.Equal(t, "no-store", rec.Header().Get("Cache-Control"))
				require.Equal(t, "nosniff", rec.Header().Get("X-Content-Type-Options"))
				if code == 503 {
					require.Equal(t, "5", rec.Header().Get("Retry-After"))
				} else {
					require.Empty(t, rec.Header().Get("Retry-After"))
				}
				if method == "HEAD" {
					require.Empty(t, rec.Body.String())
				} else {
					require.Equal(t, body+"\n", rec.Body.String())
				}
			}
		}
		expect("/startupz", 503, `{"status":"fail","notes":["starting"]}`)
		expect("/readyz", 503, `{"status":"fail","notes":["starting"]}`)
		expect("/livez", 200, `{"status":"pass"}`)
		run(t, h)
		expect("/startupz", 200, `{"status":"pass"}`)
		expect("/readyz", 200, `{"status":"pass"}`)
		set(health.Degraded(errDown))
		time.Sleep(2 * time.Second)
		expect("/readyz", 200, `{"status":"warn"}`)
		set(errDown)
		time.Sleep(2 * time.Second)
		expect("/readyz", 503, `{"status":"fail"}`)
		set(nil)
		time.Sleep(2 * time.Second)
		h.SetMaintenance(true, "moving the database")
		expect("/readyz", 503, `{"status":"fail","notes":["maintenance"]}`)
		expect("/livez", 200, `{"status":"pass"}`)
		h.SetMaintenance(false, "")
		expect("/readyz", 200, `{"status":"pass"}`)
		h.Drain()
		expect("/readyz", 503, `{"status":"fail","notes":["draining"]}`)
		expect("/livez", 200, `{"status":"pass"}`)
		expect("/startupz", 200, `{"status":"pass"}`)
	})
}

func TestOtherMethodsAreRefused(t *testing.T) {
	front := health.MustNew(health.Config{}).Handler(teapot)
	for _, target := range []string{"/readyz", "/livez", "/startupz", "/readyz/db"} {
		rec := httptest.NewRecorder()
		front.ServeHTTP(rec, httptest.NewRequest("POST", target, strings.NewReader("x")))
		require.Equal(t, 405, rec.Code)
		require.Equal(t, "GET, HEAD", rec.Header().Get("Allow"))
	}
}

func TestTheVerboseFormFollowsTheDraft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.MustNew(health.Config{
			Service: "orders", Version: "1", Release: "2026.11.21-3f2c1ab",
			Authorize: func(*http.Request) bool { return true },
			Checks: map[string]health.Check{
				"postgres": {Probe: pass, Component: "datastore", Jitter: -1},
				"redis": {Probe: func(context.Context) error {
					time.Sleep(1500 * time.Microsecond)
					return errDown
				}, Optional: true, Shared: true, Affects: []string{"/carts/{id}"}, Jitter: -1},
			},
		})
		run(t, h)
		h.SetMaintenance(true, "moving")
		rec := get(h.Handler(teapot), "/readyz?verbose")
		require.Equal(t, 503, rec.Code)
		h.SetMaintenance(false, "")
		rec = get(h.Handler(teapot), "/readyz?verbose")
		require.Equal(t, 200, rec.Code)
		require.Equal(t, "application/health+json", rec.Header().Get("Content-Type"))
		require.JSONEq(t, `{
			"status": "warn", "version": "1", "releaseId": "2026.11.21-3f2c1ab", "serviceId": "orders", "description": "ready",
			"checks": {
				"postgres:responseTime": [{
					"componentId": "postgres", "componentType": "datastore", "status": "pass",
					"time": "2000-01-01T00:00:00.000Z", "impact": "critical", "since": "2000-01-01T00:00:00.000Z", "consecutive": 1
				}],
				"redis:responseTime": [{
					"componentId": "redis", "status": "fail", "output": "error", "observedValue": 1.5, "observedUnit": "ms",
					"affectedEndpoints": ["/carts/{id}"], "shared": true,
					"time": "2000-01-01T00:00:01.003Z", "impact": "degrading", "since": "2000-01-01T00:00:00.001Z", "consecutive": 2
				}]
			},
			"links": {"self": "/readyz?verbose"}
		}`, rec.Body.String())

		rec = get(h.Handler(teapot), "/readyz?exclude=redis&exclude=nothing")
		var doc struct {
			Status string
			Notes  []string
			Checks map[string]any
		}
		require.NoError(t, json.Unmarshal(rec.Body.Bytes(), &doc))
		require.Equal(t, "pass", doc.Status)
		require.Equal(t, []string{`no check "nothing" to exclude`}, doc.Notes)
		require.Len(t, doc.Checks, 1)

		rec = get(h.Handler(teapot), "/readyz/redis")
		require.Equal(t, 503, rec.Code)
		require.Contains(t, rec.Body.String(), `"redis:responseTime"`)
		require.Equal(t, 200, get(h.Handler(teapot), "/readyz/postgres").Code)
		require.Equal(t, 404, get(h.Handler(teapot), "/readyz/nothing").Code)
		require.Equal(t, 404, get(h.Handler(teapot), "/livez/postgres").Code, "it is not in that group")
	})
}

func TestAnAuthorizeThatPanicsSaysNo(t *testing.T) {
	h := health.MustNew(health.Config{Authorize: func(*http.Request) bool { panic("bad token") }})
	require.Equal(t, "{\"status\":\"pass\"}\n", get(h.Handler(teapot), "/readyz?verbose").Body.String())
	require.Equal(t, uint64(1), h.Stats().HookPanics)
}

// bare is a ResponseWriter that allocates nothing.
type bare struct {
	header http.Header
	code   int
}

func (w *bare) Header() http.Header         { return w.header }
func (w *bare) Write(p []byte) (int, error) { return len(p), nil }
func (w *bare) WriteHeader(code int)        { w.code = code }

func TestAProbeDoesNotAllocate(t *testing.T) {
	var calls atomic.Int64
	h := tenChecks(&calls)
	front := h.Handler(teapot)
	w := &bare{header: http.Header{}}
	for _, path := range []string{"/livez", "/readyz", "/startupz"} {
		r := httptest.NewRequest("GET", path, nil)
		require.Zero(t, testing.AllocsPerRun(1000, func() { front.ServeHTTP(w, r) }), path)
	}
}

func TestARequestAllocatesOnceWhateverServerItCameTo(t *testing.T) {
	front := health.MustNew(health.Config{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if health.DrainStarted(r.Context()) == nil {
			t.Error("the request does not know where it came through")
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	w := &bare{header: http.Header{}}
	r := httptest.NewRequest("GET", "/", nil)
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { front.ServeHTTP(w, r) }), 1.0)
}

func TestARequestThatPanicsIsCountedAndThePanicGoesOn(t *testing.T) {
	h := health.MustNew(health.Config{})
	front := h.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { get(front, "/") })
	require.Zero(t, h.Stats().InFlight)
	require.Equal(t, 1.0, value(t, h, "spillway_http_request_duration_seconds_count", "code", "5xx"))
}

func TestAClientThatHangsUpIsNeitherGoodNorBad(t *testing.T) {
	h := health.MustNew(health.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	front := h.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { cancel(); w.WriteHeader(500) }))
	front.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
	require.Equal(t, 1.0, value(t, h, "spillway_http_request_duration_seconds_count", "code", "canceled"))
	require.Zero(t, value(t, h, "spillway_http_request_duration_seconds_count", "code", "5xx"))
}

// value sums the samples of one name that have a label.
func value(t *testing.T, s health.Source, name string, label ...string) (sum float64) {
	found := false
	s.Collect(func(n, _, _ string, v float64, labels ...string) {
		if n != name {
			return
		}
		for i := 0; i < len(label); i += 2 {
			ok := false
			for j := 0; j < len(labels); j += 2 {
				ok = ok || labels[j] == label[i] && labels[j+1] == label[i+1]
			}
			if !ok {
				return
			}
		}
		found = true
		sum += v
	})
	require.True(t, found, "%s%v is not emitted", name, label)
	return sum
}

func TestStatusesAreCountedByClass(t *testing.T) {
	h := health.MustNew(health.Config{})
	for _, code := range []int{200, 204, 304, 404, 500, 503} {
		get(h.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints) // is not the status
			w.WriteHeader(code)
		})), "/")
	}
	get(h.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})), "/") // 200 by silence
	for class, n := range map[string]float64{"2xx": 3, "3xx": 1, "4xx": 1, "5xx": 2, "1xx": 0, "canceled": 0} {
		require.Equal(t, n, value(t, h, "spillway_http_request_duration_seconds_count", "code", class), class)
	}
}

func TestTheWriterPassesEverythingThrough(t *testing.T) {
	h := health.MustNew(health.Config{})
	srv := httptest.NewServer(h.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		switch r.URL.Path {
		case "/flush":
			io.WriteString(w, "first")
			if rc.Flush() != nil || rc.SetWriteDeadline(time.Now().Add(time.Minute)) != nil || rc.EnableFullDuplex() != nil {
				panic("lost on the way")
			}
			<-r.Context().Done()
		case "/hijack":
			conn, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
			rw.Flush()
			line, _ := rw.ReadString('\n')
			rw.WriteString(line)
			rw.Flush()
		case "/trailer":
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "body")
			w.Header().Set("X-Sum", "42")
		case "/file":
			w.(io.ReaderFrom).ReadFrom(strings.NewReader("from a reader"))
		}
	})))
	defer srv.Close()

	resp, err := http.Get(srv.URL + "/flush")
	require.NoError(t, err)
	buf := make([]byte, 5)
	_, err = io.ReadFull(resp.Body, buf)
	require.NoError(t, err, "it comes before the handler returns")
	resp.Body.Close()

	r, err := http.NewRequest("GET", srv.URL+"/hijack", nil)
	require.NoError(t, err)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "echo")
	resp, err = http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	rwc := resp.Body.(io.ReadWriteCloser)
	io.WriteString(rwc, "hello\n")
	echo, err := io.ReadAll(rwc)
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(echo))

	resp, err = http.Get(srv.URL + "/trailer")
	require.NoError(t, err)
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	require.Equal(t, "42", resp.Trailer.Get("X-Sum"))

	resp, err = http.Get(srv.URL + "/file")
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, "from a reader", string(body))
}

func TestTheContextOfARequestThatDidNotComeThroughHandlerBlocks(t *testing.T) {
	require.Nil(t, health.DrainStarted(t.Context()))
}
