package cache_test

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-spillway/spillway/cache"
)

// nullWriter is a ResponseWriter that costs nothing.
type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) WriteHeader(int)             {}
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }

// WriteString is there because the ResponseWriter of net/http has it.
func (w *nullWriter) WriteString(s string) (int, error) { return len(s), nil }

func benchHandler(size int) http.Handler {
	body := strings.Repeat("x", size)
	return cache.MustNew(cache.Config{MaxBytes: 256 << 20}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "public, max-age=3600")
		h.Set("Etag", `"v1"`)
		h.Set("Vary", "Accept-Encoding")
		h.Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		io.WriteString(w, body)
	}))
}

func benchRequest(path string) *http.Request {
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("Accept", "text/html")
	r.Header.Set("Accept-Encoding", "gzip, br")
	r.Header.Set("User-Agent", "bench")
	return r
}

func BenchmarkHit(b *testing.B) {
	for _, size := range []int{1 << 10, 100 << 10} {
		h := benchHandler(size)
		b.Run(fmt.Sprintf("%dKiB/serial", size>>10), func(b *testing.B) {
			r, w := benchRequest(page+"?q=1"), &nullWriter{http.Header{}}
			h.ServeHTTP(w, r)
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				h.ServeHTTP(w, r)
			}
		})
		b.Run(fmt.Sprintf("%dKiB/parallel", size>>10), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				r, w := benchRequest(page+"?q=1"), &nullWriter{http.Header{}}
				for pb.Next() {
					clear(w.h)
					h.ServeHTTP(w, r)
				}
			})
		})
	}
}

// BenchmarkHitAmong hits stored responses of 1 KiB at random. The requests are
// put together from two thousand strings, so that the only memory that is far
// away is the cache's own. "loop" is what remains without a cache; "map" is the
// least that could be done instead: a map from strings to bodies behind locks,
// and the same nine fields for all. "-copied" reads the body, as a connection
// does.
func BenchmarkHitAmong(b *testing.B) {
	var parts [1000]string
	for i := range parts {
		parts[i] = strconv.Itoa(i)
	}
	body := strings.Repeat("x", 1<<10)
	length := []string{strconv.Itoa(len(body))}
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Content-Type"] = []string{"text/html; charset=utf-8"}
		h["Cache-Control"] = []string{"public, max-age=3600"}
		h["Etag"] = []string{`"v1"`}
		h["Last-Modified"] = []string{"Mon, 02 Jan 2006 15:04:05 GMT"}
		h["Vary"] = []string{"Accept-Encoding"}
		h["Content-Length"] = length
		io.WriteString(w, body)
	})
	loop := func(int) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	}
	plain := func(int) http.Handler { return newPlainMap(origin) }
	whole := func(n int) http.Handler {
		return cache.MustNew(cache.Config{MaxBytes: int64(max(n, 10_000)) << 12}).Handler(origin)
	}
	for _, k := range []struct {
		name string
		n    int
		make func(n int) http.Handler
	}{
		{"loop", 1_000_000, loop},
		{"map", 1000, plain}, {"map", 10_000, plain}, {"map", 100_000, plain}, {"map", 1_000_000, plain},
		{"cache", 1000, whole}, {"cache", 10_000, whole}, {"cache", 100_000, whole}, {"cache", 1_000_000, whole},
	} {
		var h http.Handler // made by the first that needs it
		r := benchRequest(page)
		ask := func(w http.ResponseWriter, i int) {
			r.URL.Path, r.URL.RawQuery = parts[i/1000], parts[i%1000]
			clear(w.Header())
			h.ServeHTTP(w, r)
		}
		for _, w := range []http.ResponseWriter{&nullWriter{http.Header{}}, &copyWriter{nullWriter: nullWriter{http.Header{}}}} {
			name := fmt.Sprint(k.name, "/", k.n)
			if _, copies := w.(*copyWriter); copies {
				name += "-copied"
			}
			b.Run(name, func(b *testing.B) {
				if h == nil {
					h = k.make(k.n)
					for i := range k.n {
						ask(w, i)
					}
				}
				b.ReportAllocs()
				for x := uint64(1); b.Loop(); {
					x = x*6364136223846793005 + 1442695040888963407
					ask(w, int(x>>33%uint64(k.n)))
				}
			})
		}
	}
}

// A copyWriter copies what is written, as a connection does.
type copyWriter struct {
	nullWriter
	buf [4 << 10]byte
}

func (w *copyWriter) Write(p []byte) (int, error) { return copy(w.buf[:], p), nil }

// A plainMap is what a cache comes down to if nothing may go wrong: it knows
// neither freshness nor Vary, nor ever forgets.
type plainMap struct {
	next   http.Handler
	seed   maphash.Seed
	fields http.Header
	shards [64]struct {
		mu    sync.RWMutex
		pages map[string]*plainPage
	}
}

type plainPage struct{ body []byte }

func newPlainMap(next http.Handler) *plainMap {
	m := &plainMap{next: next, seed: maphash.MakeSeed(), fields: http.Header{}}
	next.ServeHTTP(&nullWriter{m.fields}, nil)
	for _, name := range []string{"Date", "Age", "Cache-Status"} {
		m.fields[name] = []string{"x"}
	}
	for i := range m.shards {
		m.shards[i].pages = map[string]*plainPage{}
	}
	return m
}

func (m *plainMap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := append(make([]byte, 0, 256), r.Host...)
	key = append(key, r.URL.Path...)
	key = append(append(key, '?'), r.URL.RawQuery...)
	s := &m.shards[maphash.Bytes(m.seed, key)%64]
	s.mu.RLock()
	p := s.pages[string(key)]
	s.mu.RUnlock()
	if p == nil {
		rec := httptest.NewRecorder()
		m.next.ServeHTTP(rec, r)
		s.mu.Lock()
		s.pages[string(key)] = &plainPage{bytes.Clone(rec.Body.Bytes())}
		s.mu.Unlock()
		return
	}
	h := w.Header()
	for name, values := range m.fields {
		h[name] = values
	}
	w.WriteHeader(http.StatusOK)
	w.Write(p.body)
}

func BenchmarkNotModified(b *testing.B) {
	h := benchHandler(1 << 10)
	r, w := benchRequest(page), &nullWriter{http.Header{}}
	h.ServeHTTP(w, r)
	r.Header.Set("If-None-Match", `"v1"`)
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		h.ServeHTTP(w, r)
	}
}

func BenchmarkMiss(b *testing.B) {
	h := benchHandler(1 << 10)
	r, w := benchRequest(page), &nullWriter{http.Header{}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		clear(w.h)
		r.URL.RawQuery = fmt.Sprint(i)
		h.ServeHTTP(w, r)
	}
}

func BenchmarkMissThatEvicts(b *testing.B) {
	h := cache.MustNew(cache.Config{MaxBytes: 8 << 20}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		io.WriteString(w, "x")
	}))
	r, w := benchRequest(page), &nullWriter{http.Header{}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		clear(w.h)
		r.URL.RawQuery = fmt.Sprint(i)
		h.ServeHTTP(w, r)
	}
}

func BenchmarkUncacheable(b *testing.B) {
	h := cache.MustNew(cache.Config{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		io.WriteString(w, "x")
	}))
	r, w := benchRequest(page), &nullWriter{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		h.ServeHTTP(w, r)
	}
}
