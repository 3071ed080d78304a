package balancer_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// A lab is a RoundTripper that plays the backends, for bubbles of synctest: by
// host name, each answers with what its func says.
type lab struct {
	mu    sync.Mutex
	plays map[string]play
	calls map[string]int
	order []string
}

// A play answers one request. Code 0 is a broken connection.
type play func(r *http.Request) (code int, header http.Header)

func newLab() *lab { return &lab{plays: map[string]play{}, calls: map[string]int{}} }

// hosts returns n backends, b0 to bn-1, that all answer 200.
func (l *lab) hosts(n int) []balancer.Backend {
	list := make([]balancer.Backend, n)
	for i := range list {
		id := fmt.Sprintf("b%d", i)
		list[i] = balancer.Backend{ID: id, URL: "http://" + id}
		l.set(id, 200)
	}
	return list
}

func (l *lab) set(id string, code int) {
	l.play(id, func(*http.Request) (int, http.Header) { return code, nil })
}

func (l *lab) play(id string, p play) {
	l.mu.Lock()
	l.plays[id] = p
	l.mu.Unlock()
}

// takes makes a backend answer 200 after a time, or not if the request ends.
func (l *lab) takes(id string, d time.Duration) {
	l.play(id, func(r *http.Request) (int, http.Header) {
		select {
		case <-time.After(d):
			return 200, nil
		case <-r.Context().Done():
			return -1, nil
		}
	})
}

func (l *lab) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	p := l.plays[r.URL.Host]
	l.calls[r.URL.Host]++
	l.order = append(l.order, r.URL.Host)
	l.mu.Unlock()
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	code, header := p(r)
	switch code {
	case 0:
		return nil, io.ErrUnexpectedEOF
	case -1:
		return nil, r.Context().Err()
	}
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: code, Header: header, Body: io.NopCloser(strings.NewReader("body"))}, nil
}

// count returns how many requests a backend got, and forgets them.
func (l *lab) count(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.calls[id]
	l.calls[id] = 0
	return n
}

// do sends a request and returns the status, or 0 for an error.
func do(rt http.RoundTripper, method string) int {
	req, _ := http.NewRequest(method, "http://service/", nil)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// send sends n GETs over the time d and returns how many got 200.
func send(rt http.RoundTripper, n int, d time.Duration) (ok int) {
	for range n {
		time.Sleep(d / time.Duration(n))
		if do(rt, http.MethodGet) == 200 {
			ok++
		}
	}
	return ok
}

// state returns the state of the i-th backend.
func state(b *balancer.Balancer, i int) balancer.State { return b.Backends()[i].State }

func must(t testing.TB, cfg balancer.Config) *balancer.Balancer {
	t.Helper()
	b, err := balancer.New(cfg)
	require.NoError(t, err)
	return b
}
