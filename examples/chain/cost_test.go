package chain

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

// blank is a ResponseWriter that costs nothing, so that what is measured is
// the chain.
type blank struct{ header http.Header }

func (w *blank) Header() http.Header         { return w.header }
func (w *blank) Write(p []byte) (int, error) { return len(p), nil }
func (w *blank) WriteHeader(int)             {}

var kilobyte = []byte(strings.Repeat("x", 1024))

// reply is the handler of the field guides' measurements: 1 KiB.
func reply(cacheControl string) http.Handler {
	cc, length := []string{cacheControl}, []string{"1024"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Cache-Control"] = cc
		h["Content-Length"] = length
		w.Write(kilobyte)
	})
}

// A layer is a part in front of a handler, or all of them.
type layer struct {
	name string
	h    http.Handler
	r    func() *http.Request
}

func layers(tb testing.TB) []layer {
	next := reply("no-store")
	keep := reply("max-age=3600")
	of := func(name string, wrap func(p *parts) http.Handler) layer {
		p := newParts()
		return layer{name, wrap(p), requests(tb)}
	}
	return []layer{
		of("bare", func(p *parts) http.Handler { return next }),
		of("health", func(p *parts) http.Handler { return p.health.Handler(next) }),
		of("ratelimit", func(p *parts) http.Handler { return p.lim.Handler(next) }),
		of("cache-miss", func(p *parts) http.Handler { return p.pages.Handler(next) }),
		of("cache-hit", func(p *parts) http.Handler { return p.pages.Handler(keep) }),
		of("shedder", func(p *parts) http.Handler { return p.shed.Handler(next) }),
		of("switch", func(p *parts) http.Handler { return p.sw.Handler(next) }),
		of("breaker", func(p *parts) http.Handler { return p.b.Handler(next) }),
		of("all-miss", func(p *parts) http.Handler { return p.six(next) }),
		of("all-hit", func(p *parts) http.Handler { return p.six(keep) }),
	}
}

// six is the chain without the switch, which is for those who have features
// to turn off: one noun of each package.
func (p *parts) six(next http.Handler) http.Handler {
	return p.health.Handler(p.lim.Handler(p.pages.Handler(p.shed.Handler(p.b.Handler(next)))))
}

// requests returns a func that makes requests with a context as Serve gives
// it to all the requests of a server.
func requests(tb testing.TB) func() *http.Request {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	base := make(chan context.Context, 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { base <- context.WithoutCancel(r.Context()) })}
	served := make(chan error, 1)
	go func() { served <- health.MustNew(health.Config{}).Serve(tb.Context(), srv, ln) }()
	resp, err := http.Get("http://" + ln.Addr().String())
	require.NoError(tb, err)
	resp.Body.Close()
	require.NoError(tb, srv.Close())
	ctx := <-base
	<-served
	ctx, cancel := context.WithCancel(ctx) // as that of each request: a lookup through the bare one allocates
	tb.Cleanup(cancel)
	return func() *http.Request { return request().WithContext(ctx) }
}

func request() *http.Request {
	r := httptest.NewRequest("GET", "http://api.example/product/42", nil)
	r.Header.Set("User-Agent", "bench")
	r.Header.Set("Accept", "*/*")
	return r
}

func BenchmarkHandler(b *testing.B) {
	for _, l := range layers(b) {
		l.h.ServeHTTP(&blank{http.Header{}}, l.r()) // what is kept is kept
		b.Run(l.name+"/serial", func(b *testing.B) {
			b.ReportAllocs()
			w, r := &blank{http.Header{}}, l.r()
			for b.Loop() {
				clear(w.header)
				l.h.ServeHTTP(w, r)
			}
		})
		b.Run(l.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				w, r := &blank{http.Header{}}, l.r()
				for pb.Next() {
					clear(w.header)
					l.h.ServeHTTP(w, r)
				}
			})
		})
	}
}

// BenchmarkLoopback is the bare handler and the chain over a real socket, one
// after the other in small steps, so that the machine's noise hits both.
func BenchmarkLoopback(b *testing.B) {
	for _, l := range []struct {
		name string
		h    http.Handler
	}{{"bare", reply("no-store")}, {"all-miss", newParts().handler(reply("no-store"))}, {"all-hit", newParts().handler(reply("max-age=3600"))}} {
		b.Run(l.name, func(b *testing.B) {
			s := serve(b, "http1", l.h)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					resp, err := s.client.Get(s.url + "/product/42")
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		})
	}
}

// TestChainAllocatesLittle: allocations do not depend on the machine's mood.
func TestChainAllocatesLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates too")
	}
	type cost struct{ allocs, bytes float64 }
	most := map[string]cost{
		"health": {1, 48}, "ratelimit": {0, 64}, "cache-miss": {1, 288}, "cache-hit": {0, 16}, "shedder": {0, 16},
		"switch": {1, 416}, "breaker": {1, 96}, "all-miss": {4, 512}, "all-hit": {1, 112},
	}
	for _, l := range layers(t) {
		w, r := &blank{http.Header{}}, l.r()
		call := func() {
			clear(w.header)
			l.h.ServeHTTP(w, r)
		}
		got := cost{allocs: testing.AllocsPerRun(1000, call)}
		const calls = 10_000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range calls {
			call()
		}
		runtime.ReadMemStats(&after)
		got.bytes = float64(after.TotalAlloc-before.TotalAlloc) / calls
		t.Logf("%-11s %v allocations, %.0f bytes", l.name, got.allocs, got.bytes)
		if n, ok := most[l.name]; ok {
			require.LessOrEqual(t, got.allocs, n.allocs, l.name)
			require.LessOrEqual(t, got.bytes, n.bytes, l.name)
		}
	}
}
