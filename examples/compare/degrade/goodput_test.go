package degrade

import (
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// backend is a pool of workers, first come first served, that works on for
// clients who have left, as a database does.
type backend struct {
	workers chan struct{}
	mean    time.Duration
}

func newBackend(workers int, mean time.Duration) *backend {
	return &backend{make(chan struct{}, workers), mean}
}

func (b *backend) capacity() float64 { return float64(cap(b.workers)) / b.mean.Seconds() }

func (b *backend) ServeHTTP(http.ResponseWriter, *http.Request) {
	b.workers <- struct{}{}
	defer func() { <-b.workers }()
	time.Sleep(time.Duration(rand.ExpFloat64() * float64(b.mean)))
}

// result of one phase of load.
type result struct {
	mu                      sync.Mutex
	good, critical, offered int
	latencies               []time.Duration
}

func (r *result) row(name string, load, capacity, seconds float64) string {
	slices.Sort(r.latencies)
	q := func(p float64) time.Duration {
		if len(r.latencies) == 0 {
			return 0
		}
		return r.latencies[int(p*float64(len(r.latencies)))].Round(time.Millisecond)
	}
	return fmt.Sprintf("| %-30s | %3gx | %4.0f %% | %4.0f %% | %6v | %6v |", name, load,
		100*float64(r.good)/(capacity*seconds), 100*float64(r.critical)/(0.2*float64(r.offered)), q(.5), q(.99))
}

const patience = time.Second // of a client

// offer sends requests to do, load times capacity, for d. One in five is
// critical. do reports whether it was answered.
func offer(rate float64, d time.Duration, do func(ctx context.Context, critical bool) bool) *result {
	var r result
	var wg sync.WaitGroup
	for end, next := time.Now().Add(d), time.Now(); next.Before(end); next = next.Add(time.Duration(rand.ExpFloat64() / rate * 1e9)) {
		time.Sleep(time.Until(next))
		critical := r.offered%5 == 0
		r.offered++
		wg.Go(func() {
			// Nobody is told how long the client will wait.
			ctx, cancel := context.WithCancel(context.Background())
			defer time.AfterFunc(patience, cancel).Stop()
			defer cancel()
			began := time.Now()
			ok := do(ctx, critical)
			if took := time.Since(began); ok && took <= patience {
				r.mu.Lock()
				r.good++
				if critical {
					r.critical++
				}
				r.latencies = append(r.latencies, took)
				r.mu.Unlock()
			}
		})
	}
	wg.Wait()
	return &r
}

var order = []string{"none", "aegis BBR", "failsafe adaptive", "failsafe adaptive, queueing", "failsafe adaptive, prioritizer", "spillway"}

// TestGoodputInVirtualTime runs the limiters unchanged, in a bubble of virtual
// time, in front of 64 workers whose service times are exponential.
func TestGoodputInVirtualTime(t *testing.T) {
	for _, load := range []float64{2, 5} {
		for _, name := range order {
			if name == "aegis BBR" || name == "none" {
				continue // it polls the real processor; and without a limit goroutines pile up
			}
			synctest.Test(t, func(t *testing.T) {
				b := newBackend(64, 100*time.Millisecond)
				l := rivals()[name]()
				do := func(ctx context.Context, critical bool) bool {
					release := l(ctx, critical)
					if release == nil {
						return false
					}
					defer release()
					b.ServeHTTP(nil, nil)
					return true
				}
				offer(0.5*b.capacity(), 20*time.Second, do)
				r := offer(load*b.capacity(), 10*time.Second, do)
				fmt.Println(r.row(name, load, b.capacity(), 10))
				if name == "spillway" {
					require.GreaterOrEqual(t, float64(r.good), 0.95*10*b.capacity())
				}
			})
		}
	}
}

// TestGoodputOverSockets does the same over loopback, in three regimes. It takes
// fifteen minutes of an idle machine, because its clock must be the real one: in
// a bubble time does not pass while a socket is waited for.
func TestGoodputOverSockets(t *testing.T) {
	which := os.Getenv("SPILLWAY_SOCKETS")
	if which == "" {
		t.Skip("set SPILLWAY_SOCKETS=all, or to the name of a limiter")
	}
	for _, regime := range []struct {
		workers          int
		mean             time.Duration
		warmUp, load     time.Duration
		oneAfterTheOther bool // where there is work for the processors
	}{
		{10, 25 * time.Millisecond, 5 * time.Second, 8 * time.Second, true},
		{64, 100 * time.Millisecond, 5 * time.Second, 8 * time.Second, true},
		{4, 250 * time.Millisecond, 20 * time.Second, 30 * time.Second, false},
	} {
		t.Run(fmt.Sprintf("%dx%v", regime.workers, regime.mean), func(t *testing.T) {
			for _, load := range []float64{0.8, 1, 2, 5, 10} {
				rows := make([]string, len(order))
				var wg sync.WaitGroup
				for i, name := range order {
					if which != "all" && which != name {
						continue
					}
					wg.Go(func() {
						b := newBackend(regime.workers, regime.mean)
						r := overSockets(t, name, b, load, regime.warmUp, regime.load)
						rows[i] = r.row(name, load, b.capacity(), regime.load.Seconds())
					})
					if regime.oneAfterTheOther {
						wg.Wait()
					}
				}
				wg.Wait()
				for _, row := range rows {
					if row != "" {
						fmt.Printf("| %2d x %-5v %s\n", regime.workers, regime.mean, row)
					}
				}
			}
		})
	}
}

// overSockets puts load on b, behind the limiter of that name and net/http.
func overSockets(t *testing.T, name string, b *backend, load float64, warmUp, d time.Duration) *result {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: handler(rivals()[name](), b), ErrorLog: log.New(io.Discard, "", 0)}
	go srv.Serve(lis)
	defer srv.Close()
	url := "http://" + lis.Addr().String()
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 10000,
		DialContext:         (&net.Dialer{}).DialContext,
	}}
	defer client.CloseIdleConnections()
	do := func(ctx context.Context, critical bool) bool {
		r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
		if critical {
			r.Header.Set("Critical", "1")
		}
		resp, err := client.Do(r)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode == 200
	}
	offer(0.5*b.capacity(), warmUp, do)
	return offer(load*b.capacity(), d, do)
}

func BenchmarkAdmission(b *testing.B) {
	for _, name := range order {
		b.Run(name, func(b *testing.B) {
			l, ctx := rivals()[name](), context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if release := l(ctx, false); release != nil {
					release()
				}
			}
		})
	}
}
