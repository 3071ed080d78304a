package balancer_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

func TestABodyIsSentAgainAfterAnAnswerThatIsRetried(t *testing.T) {
	for _, code := range []int{502, 503, 504} {
		bad := server(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "not now")
		})
		echo := server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
		b := pool(t, balancer.Config{Backends: balancer.URLs(bad, echo), Policy: first{}})
		w := httptest.NewRecorder()
		b.Proxy().ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/", strings.NewReader("body")))
		require.Equal(t, 200, w.Code, "after %d", code)
		require.Equal(t, "body", w.Body.String())
		require.EqualValues(t, 1, b.Stats().Retries)
	}
}

func TestARequestEndsInTimeAlthoughItsBodyIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &stuck{goesOn: make(chan struct{}), lock: make(chan struct{}, 1)}
		time.AfterFunc(time.Minute, func() { close(body.goesOn) })
		b := must(t, balancer.Config{Backends: many(1)})
		rt := b.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			go func() { _, _ = io.Copy(io.Discard, r.Body); _ = r.Body.Close() }()
			<-r.Context().Done()
			return nil, r.Context().Err()
		}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://x/", body)
		begin := time.Now()
		_, err := rt.RoundTrip(req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin))
		time.Sleep(2 * time.Minute)
		require.EqualValues(t, 1, body.closed.Load())
	})
}

// stuck is a body like that of a server's request: Read waits for the client,
// and Close for Read.
type stuck struct {
	goesOn chan struct{}
	lock   chan struct{} // one place: who is in it has the lock
	closed atomic.Int32
}

func (s *stuck) Read([]byte) (int, error) {
	s.lock <- struct{}{}
	defer func() { <-s.lock }()
	<-s.goesOn
	return 0, io.EOF
}

func (s *stuck) Close() error {
	s.lock <- struct{}{}
	defer func() { <-s.lock }()
	s.closed.Add(1)
	return nil
}

func TestWhoClosesAResponseThatIsBeingReadBlamesNoBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := must(t, balancer.Config{Backends: many(2), Policy: first{}})
		rt := b.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: endless{make(chan struct{})}}, nil
		}))
		for range 10 {
			req, _ := http.NewRequest(http.MethodGet, "http://x/", nil)
			resp, err := rt.RoundTrip(req)
			require.NoError(t, err)
			go func() { _, _ = io.ReadAll(resp.Body) }()
			synctest.Wait()
			_ = resp.Body.Close()
		}
		require.Equal(t, balancer.Ready, state(b, 0))
		require.Zero(t, b.Stats().InFlight)
	})
}

// endless is a body that goes on until it is closed. As with a connection, who
// reads it learns of that before who closes it.
type endless struct{ closed chan struct{} }

func (e endless) Read([]byte) (int, error) { <-e.closed; return 0, net.ErrClosed }
func (e endless) Close() error             { close(e.closed); time.Sleep(time.Millisecond); return nil }

func TestAnUploadThatBreaksOffUnderItsResponseBlamesNoBackend(t *testing.T) {
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		_ = c.Flush()
		_, _ = io.Copy(w, r.Body)
	})
	b := pool(t, balancer.Config{Backends: balancer.URLs(url, refuses(t)), Policy: first{}})
	for range 10 {
		pr, pw := io.Pipe()
		req, _ := http.NewRequest(http.MethodPost, "http://x/", pr)
		resp, err := b.Transport(nil).RoundTrip(req)
		require.NoError(t, err)
		_ = pw.CloseWithError(errors.New("the client hung up"))
		_, err = io.ReadAll(resp.Body)
		require.Error(t, err)
		_ = resp.Body.Close()
	}
	require.Equal(t, balancer.Ready, state(b, 0))
}

func TestABodyThatCannotBeHadAgainIsNotTheBackendsFault(t *testing.T) {
	broken := errors.New("the file is gone")
	for name, get := range map[string]func() (io.ReadCloser, error){
		"GetBody": func() (io.ReadCloser, error) { return nil, broken },
		"Read":    func() (io.ReadCloser, error) { return io.NopCloser(failing{broken}), nil },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab()
			b := must(t, balancer.Config{Backends: l.hosts(3), Policy: inOrder{}})
			l.set("b0", 503)
			rt := b.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					_ = r.Body.Close()
					return nil, fmt.Errorf("cannot send: %w", err)
				}
				return l.RoundTrip(r)
			}))
			req, _ := http.NewRequest(http.MethodPut, "http://x/", strings.NewReader("body"))
			req.GetBody = get
			_, err := rt.RoundTrip(req)
			require.ErrorIs(t, err, broken)
			s := b.Stats()
			require.EqualValues(t, 1, s.Failure)
			require.EqualValues(t, 1, s.Ignored)
			require.EqualValues(t, 1, s.Retries)
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestAnUpgradedClientMayHaveSentAllAndStillListen(t *testing.T) {
	url := server(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw := upgrade(w, "sum")
		defer conn.Close()
		all, _ := io.ReadAll(rw)
		fmt.Fprintf(conn, "%d bytes", len(all))
	})
	front := httptest.NewServer(pool(t, balancer.Config{Backends: balancer.URLs(url)}).Proxy())
	t.Cleanup(front.Close)
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: sum\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	_, _ = io.WriteString(conn, "all")
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	answer, err := io.ReadAll(in)
	require.NoError(t, err)
	require.Equal(t, "3 bytes", string(answer))
}

// upgrade switches protocols.
func upgrade(w http.ResponseWriter, to string) (net.Conn, *bufio.ReadWriter) {
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", to)
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	return conn, rw
}
