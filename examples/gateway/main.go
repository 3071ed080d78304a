// Gateway is all six parts of Spillway in one program: a reverse proxy that
// stays up when its traffic doubles.
//
//	go run ./examples/gateway                                        # in front of three demo backends that it starts
//	go run ./examples/gateway -backend http://10.0.0.1:9000 -backend http://10.0.0.2:9000
//
// It prints what to try with curl. The part to copy is the chain, in build.go.
// It has four files instead of 150 lines because it brings its own backends
// (upstream.go) and checks its flags (options.go).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if name := os.Getenv(upstreamEnv); name != "" {
		exit(serveUpstream(name))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	exit(run(ctx, os.Args[1:], os.Stdout))
}

func exit(err error) {
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("gateway: cannot listen on %s: %w; choose another address with -listen", o.listen, err)
	}
	defer ln.Close()

	// What serves requests outlives ctx: it is needed until the last request has ended.
	serving, done := context.WithCancel(context.WithoutCancel(ctx))
	defer done()
	var demo []upstream
	if len(o.backends) == 0 {
		if demo, err = startUpstreams(serving, "alpha", "beta", "gamma"); err != nil {
			return err
		}
		for _, u := range demo {
			o.backends = append(o.backends, u.url)
		}
		o.probe = "/"
	}
	g, err := build(o)
	if err != nil {
		return err
	}
	for _, run := range g.background {
		go run(serving)
	}
	tell(out, ln.Addr().String(), o, demo)

	srv := &http.Server{Handler: g.handler, ReadHeaderTimeout: 10 * time.Second}
	if g.health != nil {
		return g.health.Serve(ctx, srv, ln)
	}
	context.AfterFunc(ctx, func() { srv.Shutdown(serving) })
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
