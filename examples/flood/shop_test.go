package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDatabaseHasAFixedNumberOfConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase(2, 1)
		start := time.Now()
		var wg sync.WaitGroup
		const n = 400
		for range n {
			wg.Go(func() { db.query(t.Context(), 50*time.Millisecond) })
		}
		wg.Wait()
		require.InDelta(t, n*0.050/2, time.Since(start).Seconds(), 1, "the mean is what it says, two at a time")

		start = time.Now()
		db.setSlow(5)
		for range n {
			wg.Go(func() { db.query(t.Context(), 50*time.Millisecond) })
		}
		wg.Wait()
		require.InDelta(t, 5*n*0.050/2, time.Since(start).Seconds(), 5)
	})
}

func TestWaitingForTheDatabaseEndsWithTheClientAndAQueryDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase(1, 1)
		db.setSlow(100) // seconds
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		start := time.Now()
		var running, waiting error
		var ran, waited time.Duration
		wg.Go(func() { running = db.query(ctx, 50*time.Millisecond); ran = time.Since(start) })
		synctest.Wait()
		wg.Go(func() { waiting = db.query(ctx, 50*time.Millisecond); waited = time.Since(start) })
		wg.Wait()
		require.NoError(t, running)
		require.Greater(t, ran, time.Second)
		require.ErrorIs(t, waiting, context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, waited)
	})
}

func TestClosedLoopMeasuresWhatTheModelPromises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDatabase(backendCount*connections, 1)
		page := func(r *http.Request) (*http.Response, error) {
			mean := productQuery + recommendQuery
			if r.Method == http.MethodPost {
				mean = orderQuery
			}
			if err := db.query(r.Context(), mean); err != nil {
				return nil, err
			}
			return answer(200), nil
		}
		got := generatorFor(page).closedLoop(t.Context(), 3*backendCount*connections, 60*time.Second, arrivals(1, []span{{to: time.Hour, rate: 1000}}, nil), "http://shop")
		require.InEpsilon(t, nominalCapacity(), got, 0.03)
	})
}

func TestBackendsAreRealProcesses(t *testing.T) {
	for _, protected := range []bool{false, true} {
		t.Run(fmt.Sprintf("protected=%v", protected), func(t *testing.T) {
			b, err := startChild(childSpec{Role: "backend", Name: "b", Addr: "127.0.0.1:0", Protected: protected, Connections: 2, Version: "v1"})
			require.NoError(t, err)
			defer func() { b.end() }()
			get := func(patience time.Duration) string {
				c := &http.Client{Timeout: patience}
				defer c.CloseIdleConnections()
				resp, err := c.Get(b.url + "/products/1")
				if err != nil {
					return "no answer"
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				return resp.Status + " " + string(body)
			}
			require.Contains(t, get(10*time.Second), "200 OK product 1:")

			require.NoError(t, b.freeze())
			require.Equal(t, "no answer", get(200*time.Millisecond), "it hangs")
			require.NoError(t, b.thaw())
			require.Contains(t, get(10*time.Second), "200 OK")

			// Whatever becomes of this process, the freezer lets go.
			require.NoError(t, b.freeze())
			require.NoError(t, b.freezer.stdin.Close())
			require.Contains(t, get(10*time.Second), "200 OK")

			// A request in flight at SIGTERM is answered.
			slower := func() {
				req, err := http.NewRequest(http.MethodPut, b.url+"/-/database?slower=20", nil)
				require.NoError(t, err)
				resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, 200, resp.StatusCode)
			}
			slower()
			last, sent := make(chan string, 1), make(chan struct{})
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) }})
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/products/1", nil)
			require.NoError(t, err)
			go func() {
				resp, err := (&http.Transport{}).RoundTrip(req)
				if err != nil {
					last <- err.Error()
					return
				}
				resp.Body.Close()
				last <- resp.Status
			}()
			<-sent
			slower() // a connection that was made later has been answered on: the other is in
			require.NoError(t, b.term())
			require.Equal(t, "200 OK", <-last)

			addr := b.url
			b, err = b.restart(func(s *childSpec) { s.Version = "v2" })
			require.NoError(t, err)
			require.Equal(t, addr, b.url, "its successor has its address")
			require.Contains(t, get(10*time.Second), "500 Internal Server Error")
			b.kill()
			require.Equal(t, "no answer", get(10*time.Second))
		})
	}
}

func TestRoundRobinTakesTurns(t *testing.T) {
	rr := newRoundRobin([]string{"http://one:1", "http://two:2", "http://three:3"})
	seen := map[string]int{}
	rr.RoundTripper = fakeService(func(r *http.Request) (*http.Response, error) { seen[r.URL.Host]++; return answer(200), nil })
	req := httptest.NewRequest("GET", "http://catalogue/products/1", nil)
	for range 6 {
		_, err := rr.RoundTrip(req)
		require.NoError(t, err)
	}
	require.Equal(t, map[string]int{"one:1": 2, "two:2": 2, "three:3": 2}, seen)
	require.Equal(t, "catalogue", req.URL.Host, "the request itself is not changed")
}

func TestBothShopsMakeThePageWithoutRecommendationsWhenTheyFail(t *testing.T) {
	shopWith := func(f fakeService) http.Handler {
		c := &http.Client{Transport: f}
		return (&shop{client: c, recommendations: c, recommend: func(context.Context) bool { return true }, retryIn: retryIn}).handler()
	}
	get := func(h http.Handler, authorization string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/products/7", nil)
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	half := shopWith(func(r *http.Request) (*http.Response, error) {
		if strings.HasPrefix(r.URL.Path, "/recommendations/") {
			return answer(500), nil
		}
		return answer(200), nil
	})
	w := get(half, "")
	require.Equal(t, 200, w.Code)
	require.Equal(t, "body", w.Body.String())
	require.Contains(t, w.Header().Get("Cache-Control"), "max-age")
	require.Equal(t, "Authorization", w.Header().Get("Vary"))
	require.Equal(t, "private, no-store", get(half, "Bearer x").Header().Get("Cache-Control"))

	w = get(shopWith(func(*http.Request) (*http.Response, error) { return answer(500), nil }), "")
	require.Equal(t, 502, w.Code)
	require.Empty(t, w.Header().Get("Retry-After"))
}
