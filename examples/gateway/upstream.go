package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"
)

// The three backends that the gateway starts when it is given none. Each is a
// process of its own, this same program with upstreamEnv set, so that it can
// be killed and stopped like a real one.

const upstreamEnv = "SPILLWAY_GATEWAY_UPSTREAM"

// upstreamWorkers is how many /slow one backend does at once, as with
// connections to a database: what comes beyond waits.
const upstreamWorkers = 8

type upstream struct {
	name, url string
	pid       int
}

// startUpstreams starts one process per name. They end when ctx ends, or when
// this process does, however it dies: they wait for the end of their stdin.
func startUpstreams(ctx context.Context, names ...string) ([]upstream, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var all []upstream
	for _, name := range names {
		cmd := exec.CommandContext(ctx, exe)
		cmd.Env = append(os.Environ(), upstreamEnv+"="+name)
		cmd.Stderr = os.Stderr
		if _, err := cmd.StdinPipe(); err != nil {
			return nil, err
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		go cmd.Wait() // reaps it, whenever it dies
		url, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("upstream %s did not start: %w", name, err)
		}
		all = append(all, upstream{name, strings.TrimSpace(url), cmd.Process.Pid})
	}
	return all, nil
}

// serveUpstream is the main function of such a process.
func serveUpstream(name string) error {
	signal.Ignore(os.Interrupt) // Ctrl-C is for the gateway, which drains first
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", ln.Addr())
	go http.Serve(ln, upstreamHandler(name))
	io.Copy(io.Discard, os.Stdin)
	return nil
}

func upstreamHandler(name string) http.Handler {
	page := []byte(strings.Repeat("spillway ", 114)[:1023] + "\n") // 1 KiB
	mux := http.NewServeMux()
	mux.HandleFunc("GET /fast", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=60")
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Content-Length", strconv.Itoa(len(page)))
		w.Write(page)
	})
	workers := make(chan struct{}, upstreamWorkers)
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		ms, err := strconv.Atoi(r.FormValue("ms"))
		if err != nil || ms < 0 || ms > 60_000 {
			http.Error(w, "ms must be a number of milliseconds, 0 to 60000", http.StatusBadRequest)
			return
		}
		select {
		case workers <- struct{}{}:
			defer func() { <-workers }()
		case <-r.Context().Done():
			return
		}
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
			fmt.Fprintf(w, "%s worked for %d ms\n", name, ms)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/fail", func(w http.ResponseWriter, r *http.Request) {
		rate, err := strconv.ParseFloat(r.FormValue("rate"), 64)
		if err != nil || rate < 0 || rate > 1 {
			http.Error(w, "rate must be the share of requests that fail, 0 to 1", http.StatusBadRequest)
			return
		}
		if rand.Float64() < rate {
			http.Error(w, name+" failed", http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "%s succeeded\n", name)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.Encode(map[string]any{"upstream": name, "method": r.Method, "host": r.Host, "uri": r.RequestURI, "headers": r.Header, "bodyBytes": n})
	})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			fmt.Fprintf(w, "data: event %d from %s\n\n", i, name)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s: try /fast, /slow?ms=200, /fail?rate=0.5, /echo and /stream\n", name)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Upstream", name)
		mux.ServeHTTP(w, r)
	})
}
