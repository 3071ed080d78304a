package chain

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestEventsArriveAtOnceForTenMinutes: what is slow, long and quiet at times is
// neither held back nor cut off by any part, and holds up nobody.
func TestEventsArriveAtOnceForTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newParts()
		mux := http.NewServeMux()
		mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 120 {
				fmt.Fprintf(w, "data: %d %d\n\n", i, time.Now().UnixNano())
				if http.NewResponseController(w).Flush() != nil {
					return
				}
				time.Sleep(5 * time.Second)
			}
		})
		mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
		ln := newPipes()
		srv := &http.Server{Handler: p.handler(mux)}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return ln.dial(), nil }}
		client := &http.Client{Transport: tr}

		resp, err := client.Get("http://shop/events")
		require.NoError(t, err)
		lines := bufio.NewScanner(resp.Body)
		for i := range 120 {
			require.True(t, lines.Scan(), "event %d: %v", i, lines.Err())
			require.Equal(t, fmt.Sprintf("data: %d %d", i, time.Now().UnixNano()), lines.Text(), "at the instant it was sent")
			require.True(t, lines.Scan()) // the empty line
			require.Equal(t, 1, p.shed.Stats().Streams+p.shed.Stats().InFlight)
			require.Empty(t, notOK(client, "http://shop/ok"))
		}
		require.False(t, lines.Scan())
		require.NoError(t, lines.Err())
		resp.Body.Close()
		synctest.Wait()
		require.Zero(t, p.shed.Stats().Streams+p.shed.Stats().InFlight)
		require.Zero(t, p.health.Stats().InFlight)
		tr.CloseIdleConnections()
		ln.Close()
		require.ErrorIs(t, <-served, net.ErrClosed)
		srv.Close()
	})
}

// notOK returns what is wrong with an answer that should be "ok".
func notOK(c *http.Client, url string) string {
	resp, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || string(b) != "ok" {
		return fmt.Sprintf("%s %q %v", resp.Status, b, err)
	}
	return ""
}

// pipes is a net.Listener without sockets: so many connections at once would
// need more descriptors than a process may have.
type pipes struct {
	accept chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{accept: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.accept <- theirs
	return ours
}
