package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"runtime"
	"time"
)

// This file has probes for what many services need. A database has one of its
// own: the method value db.PingContext of database/sql and others.

// HTTPGet returns a Probe that passes if url answers with a status below 400.
// Redirects are not followed. A nil client means one that keeps no
// connections, so that each run also finds out whether new ones can be made.
func HTTPGet(client *http.Client, url string) func(context.Context) error {
	if client == nil {
		client = &http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // to use the connection again
		if resp.StatusCode >= 400 {
			return Public(fmt.Sprintf("answered %d", resp.StatusCode), nil)
		}
		return nil
	}
}

// TCP returns a Probe that passes if addr, a host and a port, accepts a
// connection.
func TCP(addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// DNS returns a Probe that passes if host resolves to an address. A nil
// resolver means [net.DefaultResolver].
func DNS(resolver *net.Resolver, host string) func(context.Context) error {
	return func(ctx context.Context) error {
		r := resolver
		if r == nil {
			r = net.DefaultResolver
		}
		addrs, err := r.LookupHost(ctx, host)
		if err == nil && len(addrs) == 0 {
			err = errors.New("no address")
		}
		return err
	}
}

// Certificate returns a Probe that connects to addr, a host and a port, with
// TLS, and fails if the certificate there is not valid, by config; nil means
// the system's roots and the host's name. It is degraded if the certificate
// expires within left.
func Certificate(addr string, config *tls.Config, left time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
		end := chain[0].NotAfter
		for _, c := range chain {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		rest := time.Until(end)
		Measure(ctx, rest.Hours()/24, "d")
		switch {
		case rest <= 0:
			return Public("the certificate expired on "+end.UTC().Format(time.DateOnly), nil)
		case rest < left:
			return Degraded(Public("the certificate expires on "+end.UTC().Format(time.DateOnly), nil))
		}
		return nil
	}
}

// Goroutines returns a Probe that fails while there are more than most.
func Goroutines(most int) func(context.Context) error {
	return func(ctx context.Context) error {
		n := runtime.NumGoroutine()
		Measure(ctx, float64(n), "goroutines")
		if n > most {
			return Public(fmt.Sprintf("%d goroutines, at most %d are expected", n, most), nil)
		}
		return nil
	}
}

// AtLeast returns a Probe that fails while value is below least, or is not a
// number. It takes what other parts know about themselves, such as the share
// of a balancer's backends that are up:
//
//	"backends": {Probe: health.AtLeast(available, 0.5)}
//
// AtLeast panics if value is nil, or least is not a number.
func AtLeast(value func() float64, least float64) func(context.Context) error {
	if value == nil {
		panic("health: AtLeast: value is nil, must return the value")
	}
	if math.IsNaN(least) {
		panic("health: AtLeast: least is NaN, must be a number")
	}
	return func(ctx context.Context) error {
		v := value()
		Measure(ctx, v, "1")
		if !(v >= least) {
			return Public(fmt.Sprintf("%.4g, at least %.4g is expected", v, least), nil)
		}
		return nil
	}
}

// DiskFree returns a Probe that fails while less than the share least, from 0
// to 1, of the file system of path is free for this process, or of its inodes.
// It always fails where the platform is not Linux, macOS or a BSD. DiskFree
// panics if least is not a share.
func DiskFree(path string, least float64) func(context.Context) error {
	if !(least >= 0 && least <= 1) {
		panic(fmt.Sprintf("health: DiskFree: least is %v, must be from 0 to 1", least))
	}
	return func(ctx context.Context) error {
		blocks, inodes, err := freeShare(path)
		if err != nil {
			return err
		}
		Measure(ctx, 100*blocks, "%")
		switch {
		case !(blocks >= least):
			return Public(fmt.Sprintf("%.1f %% of the disk is free, at least %.4g %% is expected", 100*blocks, 100*least), nil)
		case !(inodes >= least):
			return Public(fmt.Sprintf("%.1f %% of the inodes are free, at least %.4g %% is expected", 100*inodes, 100*least), nil)
		}
		return nil
	}
}
