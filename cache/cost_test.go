package cache_test

import (
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// plainly answers as if it cost nothing: what is counted is the cache's.
func plainly(cacheControl string) http.Handler {
	cc, length := []string{cacheControl}, []string{"1"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Cache-Control"] = cc
		h["Content-Length"] = length
		io.WriteString(w, "x")
	})
}

func TestRequestsAllocateLittle(t *testing.T) {
	c := cache.MustNew(cache.Config{Bypass: func(r *http.Request) bool { return r.URL.RawQuery == "bypass" }})
	keep, drop := c.Handler(plainly("max-age=3600")), c.Handler(plainly("no-store"))
	for _, k := range []struct {
		name   string
		h      http.Handler
		method string
		path   string
		most   float64
	}{
		{"hit", keep, "GET", page, 0},
		{"hit by HEAD", keep, "HEAD", page, 0},
		{"miss that is not stored", drop, "GET", page + "/no-store", 1},
		{"bypass", keep, "GET", page + "?bypass", 1},
		{"method that is passed on", keep, "OPTIONS", page, 1},
	} {
		r, w := benchRequest(k.path), &nullWriter{http.Header{}}
		k.h.ServeHTTP(w, r)
		r.Method = k.method
		got := testing.AllocsPerRun(1000, func() {
			clear(w.h)
			k.h.ServeHTTP(w, r)
		})
		t.Logf("%-26s %v", k.name, got)
		require.LessOrEqual(t, got, k.most, k.name)
	}
	paths := make([]string, 1100)
	for i := range paths {
		paths[i] = "/" + strconv.Itoa(i)
	}
	r, w := benchRequest(page), &nullWriter{http.Header{}}
	got := testing.AllocsPerRun(1000, func() {
		r.URL.Path, paths = paths[0], paths[1:]
		clear(w.h)
		keep.ServeHTTP(w, r)
	})
	t.Logf("%-26s %v", "miss that is stored", got)
	require.LessOrEqual(t, got, 18.0)
}
