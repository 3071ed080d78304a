package chain

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/degrade"
)

// TestEventsArriveAtOnceForTenMinutes: what is slow, long and quiet at times is
// neither held back nor cut off by any part, and holds up nobody.
func TestEventsArriveAtOnceForTenMinutes(t *testing.T) {
	for _, target := range targets {
		for _, protocol := range []string{"http1", "h2c"} {
			t.Run(target.name+"/"+protocol, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { eventsArrive(t, target, protocol) })
			})
		}
	}
}

func eventsArrive(t *testing.T, target target, protocol string) {
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
	k := &books{parts: newParts()}
	var h http.Handler = mux
	if target.proxied {
		up, stop := overPipes("http1", h)
		defer stop()
		k.pool = balancer.MustNew(balancer.Config{Backends: balancer.URLs("http://backend")})
		rp := k.pool.Proxy()
		rp.Transport = k.pool.Transport(up)
		defer rp.Transport.(interface{ CloseIdleConnections() }).CloseIdleConnections()
		h = k.proxied.tap(rp)
	}
	if target.handler != nil {
		h = target.handler(k, h)
	}
	tr, stop := overPipes(protocol, h)
	defer stop()
	client := &http.Client{Transport: tr}
	if target.transport != nil {
		k.clients = true
		client.Transport = target.transport(k, tr)
	}
	inFlight := func() int {
		n := k.parts.shed.Stats().Streams + k.parts.shed.Stats().InFlight + int(k.parts.health.Stats().InFlight)
		if k.pool != nil {
			n += k.pool.Stats().InFlight
		}
		return n
	}

	held := -1
	for _, events := range []int{1, 120} { // the second time the cache knows that it need not look
		req, _ := http.NewRequest("GET", "http://shop/events", nil)
		req.Header.Set("Accept", "text/event-stream")
		resp, err := client.Do(req)
		require.NoError(t, err)
		lines := bufio.NewScanner(resp.Body)
		for i := range events {
			require.True(t, lines.Scan(), "event %d: %v", i, lines.Err())
			require.Equal(t, fmt.Sprintf("data: %d %d", i, time.Now().UnixNano()), lines.Text(), "at the instant it was sent")
			require.True(t, lines.Scan()) // the empty line
			require.Empty(t, notOK(client, "http://shop/ok"))
			if synctest.Wait(); held < 0 {
				held = inFlight()
			}
			require.Equal(t, held, inFlight(), "all along")
		}
		if events == 120 {
			require.False(t, lines.Scan())
			require.NoError(t, lines.Err())
		}
		resp.Body.Close()
		time.Sleep(6 * time.Second) // until the handler finds out that its client has left
		synctest.Wait()
		require.Zero(t, inFlight())
		require.Empty(t, k.lies())
	}
	if target.name == "chain and balancer" {
		require.Equal(t, 3, held, "in health, the shedder and the balancer")
	}
}

// overPipes serves h without sockets, until stop.
func overPipes(protocol string, h http.Handler) (tr *http.Transport, stop func()) {
	ln := newPipes()
	srv := &http.Server{Handler: h, ErrorLog: quiet}
	tr = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return ln.dial(), nil }}
	if protocol == "h2c" {
		p := new(http.Protocols)
		p.SetUnencryptedHTTP2(true)
		srv.Protocols, tr.Protocols = p, p
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	return tr, func() {
		tr.CloseIdleConnections()
		srv.Close()
		<-served
	}
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

// TestTenThousandStreams holds server-sent events open through the whole chain,
// by the bare handler and by the chain, and compares what each stream takes.
// Every stream gets every event, a normal request passes meanwhile, and nothing
// is left when the clients have gone.
func TestTenThousandStreams(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has a heap of its own")
	}
	n := 300
	if *scale {
		n = 10_000
	}
	each, stack := map[string]float64{}, map[string]float64{}
	var took [2]time.Duration
	for i, name := range []string{"bare", "chain"} {
		tick := make(chan struct{})
		events := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/events" {
				io.WriteString(w, "ok")
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-store")
			rc := http.NewResponseController(w)
			for {
				io.WriteString(w, "data: event\n\n")
				if rc.Flush() != nil {
					return
				}
				select {
				case <-tick:
				case <-r.Context().Done():
					return
				}
			}
		})
		p := newParts()
		p.shed = degrade.MustNew(degrade.Config{}) // streams give their slot back
		h := http.Handler(events)
		if name == "chain" {
			h = p.handler(h)
		}
		ln := newPipes()
		srv := &http.Server{Handler: h, ErrorLog: quiet}
		served := make(chan error)
		go func() { served <- srv.Serve(ln) }()

		goroutinesBefore, before, stacksBefore := runtime.NumGoroutine(), heap(), stacks()
		conns := make([]net.Conn, n)
		readers := make([]*bufio.Reader, n)
		for i := range conns {
			conns[i] = ln.dial()
			_, err := io.WriteString(conns[i], "GET /events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
			require.NoError(t, err)
			readers[i] = bufio.NewReaderSize(conns[i], 1024)
			requireEvent(t, readers[i])
		}
		each[name] = (heap() - before) / float64(n)
		stack[name] = (stacks() - stacksBefore) / float64(n)
		if name == "chain" {
			require.Equal(t, n, p.shed.Stats().Streams)
			require.Zero(t, p.shed.Stats().InFlight)
			require.Equal(t, 200, get(h, "/normal").Code)
		}
		began := time.Now()
		go func() { // one more event for everybody
			for range n {
				tick <- struct{}{}
			}
		}()
		var wg sync.WaitGroup
		missing := make(chan error, n)
		for _, r := range readers {
			wg.Go(func() {
				if err := readEvent(r); err != nil {
					missing <- err
				}
			})
		}
		wg.Wait()
		took[i] = time.Since(began)
		require.Empty(t, missing)
		for _, c := range conns {
			c.Close()
		}
		settles(t, "nothing is in flight", func() bool { return p.shed.Stats().Streams == 0 && p.health.Stats().InFlight == 0 })
		settles(t, "goroutines return", func() bool { return runtime.NumGoroutine() <= goroutinesBefore+2 }) // with the one that asks
		if name == "chain" {
			require.EqualValues(t, n, p.b.Stats().Ignored)
			require.Zero(t, p.b.Stats().Failed, "a client that hangs up is no failure")
		}
		srv.Close()
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	}
	t.Logf("| %d streams of server-sent events | %.1f KB each and %.1f KB of stack, without the chain %.1f and %.1f | an event to all in %v; without the chain %v |",
		n, each["chain"]/1e3, stack["chain"]/1e3, each["bare"]/1e3, stack["bare"]/1e3, took[1].Round(time.Millisecond), took[0].Round(time.Millisecond))
	require.Less(t, each["chain"]-each["bare"], 3e3, "bytes of heap that the chain takes for a stream")
}

// readEvent reads to the end of the next event. The header of the response
// comes with the first.
func readEvent(r *bufio.Reader) error {
	for {
		line, err := r.ReadString('\n')
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(line, "HTTP/1.1 ") && !strings.HasPrefix(line, "HTTP/1.1 200"):
			return errors.New(line)
		case strings.HasPrefix(line, "data: event"):
			return nil
		}
	}
}

func requireEvent(t *testing.T, r *bufio.Reader) {
	t.Helper()
	require.NoError(t, readEvent(r))
}

// stacks is what the goroutines' stacks take.
func stacks() float64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.StackInuse)
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
