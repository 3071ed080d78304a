package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/go-spillway/spillway/cache"
)

// get asks h for a path and returns the recorded answer.
func get(h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	return do(h, "GET", path, header...)
}

func do(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// A handler says how long its answers are fresh; the cache does the rest.
func Example() {
	calls := 0
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprintf(w, "hello %d", calls)
	})

	pages := cache.MustNew(cache.Config{MaxBytes: 256 << 20})
	h := pages.Handler(page)

	for range 3 {
		w := get(h, "http://example.com/")
		fmt.Println(w.Body, "|", w.Header().Get("Cache-Status"))
	}
	// Output:
	// hello 1 | Spillway; fwd=uri-miss; stored
	// hello 1 | Spillway; hit; ttl=59
	// hello 1 | Spillway; hit; ttl=59
}

// Every field that is wrong is named at once.
func ExampleNew_invalid() {
	_, err := cache.New(cache.Config{MaxBytes: -1, TTL: -time.Second})
	fmt.Println(err)
	// Output:
	// cache: Config.MaxBytes is -1, must be 0 or at least 65536
	// cache: Config.TTL is -1s, must not be negative
}

// Behind a client the cache is a private one.
func ExampleCache_Transport() {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private, max-age=60")
		io.WriteString(w, "for you")
	}))
	defer origin.Close()

	pages := cache.MustNew(cache.Config{})
	client := &http.Client{Transport: pages.Transport(nil)}
	for range 2 {
		resp, err := client.Get(origin.URL)
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Printf("%s, %v\n", body, strings.Contains(resp.Header.Get("Cache-Status"), "hit"))
	}
	// Output:
	// for you, false
	// for you, true
}

// A response names the tags by which it can be purged.
func ExampleCache_Purge() {
	price := "10"
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("Cache-Tag", "product-42, catalogue")
		io.WriteString(w, price)
	})
	pages := cache.MustNew(cache.Config{})
	front := pages.Handler(h)

	fmt.Println(get(front, "http://shop.example/42").Body)
	price = "12"
	fmt.Println(get(front, "http://shop.example/42").Body)
	pages.Purge(context.Background(), cache.Tag("product-42"))
	fmt.Println(get(front, "http://shop.example/42").Body)
	// Output:
	// 10
	// 10
	// 12
}

// A handler that fails is answered for with what is stored.
func ExampleConfig_staleIfError() {
	broken := false
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Cache-Control", "max-age=0, stale-if-error=600")
		io.WriteString(w, "the news")
	})
	pages := cache.MustNew(cache.Config{})
	front := pages.Handler(h)

	get(front, "http://example.com/news")
	broken = true
	w := get(front, "http://example.com/news")
	fmt.Println(w.Code, w.Body)
	fmt.Println(w.Header().Get("Cache-Status"))
	// Output:
	// 200 the news
	// Spillway; fwd=stale; fwd-status=503; detail=stale-if-error
}

// A snapshot gives the next process a warm start.
func ExampleCache_Snapshot() {
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, "rendered with care")
	})
	before := cache.MustNew(cache.Config{})
	get(before.Handler(page), "http://example.com/")
	var file strings.Builder
	fmt.Println(before.Snapshot(&file))

	after := cache.MustNew(cache.Config{})
	fmt.Println(after.Restore(strings.NewReader(file.String())))
	w := get(after.Handler(http.NotFoundHandler()), "http://example.com/")
	fmt.Println(w.Code, w.Body)
	// Output:
	// <nil>
	// <nil>
	// 200 rendered with care
}

// A request's tenant, language cookie and tracking parameters: what makes a
// difference and what does not.
func ExampleKeyConfig() {
	pages := cache.MustNew(cache.Config{Key: cache.KeyConfig{
		IgnoreQuery: []string{"utm_*"},
		Cookies:     []string{"lang"},
		Partition:   func(r *http.Request) string { return r.Header.Get("X-Tenant") },
	}})
	front := pages.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
	}))
	show := func(path string, header ...string) {
		s := get(front, path, header...).Header().Get("Cache-Status")
		fmt.Println(strings.Contains(s, "hit"))
	}
	show("http://example.com/?a=1", "Cookie", "lang=de; session=1")
	show("http://example.com/?utm_source=mail&a=1", "Cookie", "lang=de; session=2")
	show("http://example.com/?a=1", "Cookie", "lang=en")
	show("http://example.com/?a=1", "Cookie", "lang=de", "X-Tenant", "acme")
	// Output:
	// false
	// true
	// false
	// false
}
