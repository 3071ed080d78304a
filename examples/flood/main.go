// Flood shows what Spillway is for: the same shop twice, bare and protected,
// under the same flood at the same time.
//
//	go run -C examples/flood .            # from the root of the repository; takes less than a minute
//
// Half load, double, ten times; then a backend is killed, one hangs, the
// database becomes five times slower, a deploy is bad, and all backends are
// restarted. A table shows it live, three sentences say what came of it, and
// flood.html and flood.json hold everything that was measured.
//
//	go run -C examples/flood . -for 20s   # shorter; -for 10m is longer
//	go run -C examples/flood . -svg flood.svg   # the picture in the README, too
//	go run -C examples/flood . -target http://127.0.0.1:8080/fast -rate 200   # flood a service of yours
//
// It needs a Unix, because a backend hangs by SIGSTOP. It is longer than an
// example should be because it brings the shop, its backends, the flood and
// the report. The part to copy is chain.go: the shop with all six parts before
// and behind it. shop.go and backend.go are the service and its model,
// script.go what happens to it, load.go the load generator, measure.go and
// scrape.go what is measured, view.go the table, report.go, page.go, plot.go
// and svg.go the report.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if env := os.Getenv(childEnv); env != "" {
		exit(runChild(env))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	exit(flood(ctx, os.Args[1:], os.Stdout))
}

func exit(err error) {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
