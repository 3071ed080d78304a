package chain

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-spillway/spillway/examples/compare/chain/rivals"
	"github.com/go-spillway/spillway/examples/compare/chain/spillway"
)

// Loopback is what a case does over a real socket, beside the bare handler.
type Loopback struct {
	Name, Kind string
	PerSecond  float64 // requests, of the median slice
	ToBare     float64 // median of the ratios to the slice of the bare handler next to it
	Refused    float64 // share that was answered 503, and is not in the other figures
}

const connections = 16

// A server and the connections to it.
type server struct {
	c     *Case
	conns []*conn
	close func()

	asked, refused atomic.Int64
}

// A conn is a client that costs little: it writes the same bytes each time,
// and reads a header and a body of 1 KiB.
type conn struct {
	net.Conn
	r *bufio.Reader
	n int
}

func newServer(c *Case, connections int) (*server, error) {
	srv := httptest.NewServer(c.h)
	s := &server{c: c}
	s.close = func() {
		for _, c := range s.conns {
			c.Close()
		}
		srv.Close()
	}
	for i := range connections {
		nc, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			s.close()
			return nil, err
		}
		s.conns = append(s.conns, &conn{nc, bufio.NewReader(nc), i << 40})
	}
	return s, nil
}

// get reports whether the answer was 200, and not a refusal.
func (s *server) get(c *conn) (bool, error) {
	path := s.c.Path
	if s.c.Fresh {
		c.n++
		path += strconv.Itoa(c.n)
	}
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: api.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"); err != nil {
		return false, err
	}
	first, err := c.r.ReadSlice('\n')
	if err != nil {
		return false, err
	}
	ok := string(first) == "HTTP/1.1 200 OK\r\n"
	if !ok && !bytes.HasPrefix(first, []byte("HTTP/1.1 503 ")) {
		return false, fmt.Errorf("%s %s: %q", s.c.Name, s.c.Kind, first)
	}
	length := 0
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		if n, found := bytes.CutPrefix(line, []byte("Content-Length: ")); found {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(n))); err != nil {
				return false, err
			}
		}
		if len(line) == 2 {
			_, err := c.r.Discard(length)
			return ok, err
		}
	}
}

// perSecond asks on all connections for a while, and counts what isn't refused.
func (s *server) perSecond(slice time.Duration) (float64, error) {
	var wg sync.WaitGroup
	done := make([]int, len(s.conns))
	errs := make([]error, len(s.conns))
	began := time.Now()
	for i, c := range s.conns {
		wg.Go(func() {
			for time.Since(began) < slice && errs[i] == nil {
				ok, err := s.get(c)
				if errs[i] = err; ok {
					done[i]++
				} else {
					s.refused.Add(1)
				}
				s.asked.Add(1)
			}
		})
	}
	wg.Wait()
	n := 0
	for _, d := range done {
		n += d
	}
	return float64(n) / time.Since(began).Seconds(), errors.Join(errs...)
}

// MeasureLoopback runs each case in turn with the bare handler, slice by slice,
// both with 16 connections to a server of their own.
func MeasureLoopback(cases []*Case, rounds int, slice time.Duration) ([]*Loopback, error) {
	bare, err := newServer(&Case{Name: "bare", Path: "/user/42", h: reply("no-store")}, connections)
	if err != nil {
		return nil, err
	}
	defer bare.close()
	return besides(bare, cases, rounds, slice)
}

// MeasureProxy is MeasureLoopback of the chains in front of a backend over a
// socket of its own, beside httputil.ReverseProxy alone.
func MeasureProxy(rounds int, slice time.Duration) ([]*Loopback, error) {
	backend := httptest.NewServer(reply("no-store"))
	defer backend.Close()
	idle := http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = connections // the rivals' proxy has no pool of its own
	defer func() { http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = idle }()
	one, err := newServer(&Case{Name: "bare", Path: "/user/42", h: plainProxy(backend.URL)}, connections)
	if err != nil {
		return nil, err
	}
	defer one.close()
	return besides(one, []*Case{
		{Name: "bare", Kind: "proxied", Path: "/user/42", h: plainProxy(backend.URL)},
		{Name: "spillway", Kind: "proxied", Path: "/user/42", h: spillway.Chain(spillway.Proxy(backend.URL))},
		{Name: "rivals", Kind: "proxied", Path: "/user/42", h: rivals.Chain(rivals.Proxy(backend.URL))},
	}, rounds, slice)
}

func besides(bare *server, cases []*Case, rounds int, slice time.Duration) ([]*Loopback, error) {
	var all []*Loopback
	var servers []*server
	rates, ratios := make([][]float64, len(cases)), make([][]float64, len(cases))
	for _, c := range cases {
		s, err := newServer(c, connections)
		if err != nil {
			return nil, err
		}
		defer s.close()
		servers = append(servers, s)
		all = append(all, &Loopback{Name: c.Name, Kind: c.Kind})
	}
	for range rounds {
		for i, s := range servers {
			b, err := bare.perSecond(slice)
			if err != nil {
				return nil, err
			}
			x, err := s.perSecond(slice)
			if err != nil {
				return nil, err
			}
			rates[i] = append(rates[i], x)
			ratios[i] = append(ratios[i], x/b)
		}
	}
	for i, l := range all {
		l.PerSecond, l.ToBare = median(rates[i]), median(ratios[i])
		l.Refused = float64(servers[i].refused.Load()) / float64(servers[i].asked.Load())
	}
	return all, nil
}

func plainProxy(to string) http.Handler {
	u, err := url.Parse(to)
	if err != nil {
		panic(err)
	}
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}
}
