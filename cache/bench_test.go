package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
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

// BenchmarkHitAmong hits stored responses at random. The requests are put
// together from two thousand strings, so that the only memory that is far away
// is the cache's own. "loop" is what remains without a cache.
func BenchmarkHitAmong(b *testing.B) {
	var parts [1000]string
	for i := range parts {
		parts[i] = strconv.Itoa(i)
	}
	length := []string{"16"}
	for _, k := range []struct {
		name string
		n    int
		wrap func(http.Handler) http.Handler
	}{
		{"loop", 1_000_000, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		}},
		{"1000", 1000, cache.MustNew(cache.Config{}).Handler},
		{"1000000", 1_000_000, cache.MustNew(cache.Config{MaxBytes: 4 << 30}).Handler},
	} {
		h := k.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h["Content-Type"] = []string{"text/html; charset=utf-8"}
			h["Cache-Control"] = []string{"public, max-age=3600"}
			h["Etag"] = []string{`"v1"`}
			h["Content-Length"] = length
			io.WriteString(w, "0123456789abcdef")
		}))
		r, w := benchRequest(page), &nullWriter{http.Header{}}
		ask := func(i int) {
			r.URL.Path, r.URL.RawQuery = parts[i/1000], parts[i%1000]
			clear(w.h)
			h.ServeHTTP(w, r)
		}
		b.Run(k.name, func(b *testing.B) {
			for i := range k.n {
				ask(i)
			}
			b.ReportAllocs()
			for x := uint64(1); b.Loop(); {
				x = x*6364136223846793005 + 1442695040888963407
				ask(int(x >> 33 % uint64(k.n)))
			}
		})
	}
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
