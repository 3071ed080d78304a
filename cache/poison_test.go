package cache_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// echo answers with what the request's fields say, as applications do that
// build links from them.
func echo(names ...string) *origin {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, r.Host, r.URL)
		for _, name := range names {
			fmt.Fprint(w, " ", r.Header.Values(name))
		}
	}
	return o
}

func TestNobodyPoisonsTheCacheWithAHeader(t *testing.T) {
	for _, name := range []string{
		"X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Scheme", "X-Forwarded-Port", "X-Forwarded-Prefix",
		"X-Forwarded-Path", "X-Forwarded-Server", "X-Host", "X-Original-URL", "X-Rewrite-URL", "X-Original-Host",
		"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Forwarded-Ssl",
		"X-Forwarded-Protocol", "X-HTTP-Host-Override", "X-URL-Scheme",
	} {
		o := echo(name)
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page, name, "evil")
		w := get(h, page)
		require.NotContains(t, w.Body.String(), "evil", name)
		require.NotContains(t, get(h, page, name, "other").Body.String(), "evil", name)
		require.Contains(t, status(get(h, page)), "hit", "%s: the honest have their own", name)
	}
	o := echo("Forwarded")
	h := cache.MustNew(cache.Config{}).Handler(o)
	get(h, page, "Forwarded", "for=1.2.3.4;host=evil")
	require.NotContains(t, get(h, page).Body.String(), "evil")
}

func TestAllHostileHeadersAtOnceCount(t *testing.T) {
	names := []string{"X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Scheme", "X-Forwarded-Port", "X-Forwarded-Prefix",
		"X-Forwarded-Path", "X-Forwarded-Server", "X-Host", "X-Original-Url", "X-Rewrite-Url", "X-Original-Host", "X-Forwarded-Ssl", "Forwarded",
		"X-Forwarded-Protocol", "X-Http-Host-Override", "X-Url-Scheme"}
	o := newOrigin("Cache-Control", "max-age=60")
	h := cache.MustNew(cache.Config{}).Handler(o)
	ask := func(changed string) string {
		var fields []string
		for _, name := range names {
			value := "host=a"
			if name == changed {
				value = "host=b"
			}
			fields = append(fields, name, value)
		}
		return status(get(h, page, fields...))
	}
	require.NotContains(t, ask(""), "hit")
	for _, name := range names {
		require.NotContains(t, ask(name), "hit", name)
	}
	for range 20 { // in whatever order they are read
		require.Contains(t, ask(""), "hit")
	}
}

func TestAClientsAddressIsNotInTheKey(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60")
	h := cache.MustNew(cache.Config{}).Handler(o)
	get(h, page, "X-Forwarded-For", "1.1.1.1", "Forwarded", "for=1.1.1.1", "X-Forwarded-Proto", "https")
	w := get(h, page, "X-Forwarded-For", "2.2.2.2", "Forwarded", "for=2.2.2.2", "X-Forwarded-Proto", "https")
	require.Contains(t, status(w), "hit")
}

func TestHostAndSchemeAreInTheKey(t *testing.T) {
	o := echo()
	h := cache.MustNew(cache.Config{}).Handler(o)
	require.Contains(t, get(h, "http://a.example/x").Body.String(), "a.example")
	require.Contains(t, get(h, "http://b.example/x").Body.String(), "b.example")
	require.Contains(t, get(h, "http://a.example:8080/x").Body.String(), "8080")
	r := httptest.NewRequest("GET", "http://a.example/x", nil)
	r.TLS = &tls.ConnectionState{}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.NotContains(t, status(w), "hit", "a redirect to https must not answer https")
	for _, same := range []string{"http://A.Example/x", "http://a.example:80/x"} {
		require.Contains(t, status(get(h, same)), "hit", same)
	}
}

func TestAMalformedHostDoesNotTouchTheCache(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60")
	c := cache.MustNew(cache.Config{})
	h := c.Handler(o)
	for _, host := range []string{"a/b", "a?b", "a#b", "a b", `a\b`, "user@a", "a\x00b", strings.Repeat("a", 300)} {
		r := httptest.NewRequest("GET", page, nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Contains(t, status(w), "detail=malformed", "%q", host)
	}
	require.Zero(t, c.Stats().Entries)
}

func TestATargetWithoutAPathDoesNotTouchTheCache(t *testing.T) {
	// net/http takes "GET a:b HTTP/1.1", a proxy sends b on, and the key would
	// be that of "/".
	origin := httptest.NewServer(echo())
	defer origin.Close()
	u, err := url.Parse(origin.URL)
	require.NoError(t, err)
	c := cache.MustNew(cache.Config{})
	front := httptest.NewServer(c.Handler(httputil.NewSingleHostReverseProxy(u)))
	defer front.Close()
	for _, target := range []string{"a:b", "http:evil?x", "a:*"} {
		conn, err := net.Dial("tcp", front.Listener.Addr().String())
		require.NoError(t, err)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n", target)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.NotContains(t, string(answer), "stored", target)
		require.Zero(t, c.Stats().Entries, target)
	}
}

func TestPathsThatDifferAreDifferent(t *testing.T) {
	// What they mean only the origin knows; that the cache thinks them equal
	// is how one is served for another.
	paths := []string{"/a", "/a/", "/A", "//a", "/./a", "/b/../a", "/%61", "/a%2f", "/a%00", "/a;b", "/a%3Fb", "/a?", "/a?b", "/a?b=", "/a?b&c", "/a?c&b", "/a%20b", "/a+b", "/a%0D%0Ab"}
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, r.URL.Opaque, r.URL.RawPath, "|", r.URL.Path, "|", r.URL.ForceQuery, r.URL.RawQuery)
	}
	h := cache.MustNew(cache.Config{}).Handler(o)
	seen := map[string]string{}
	for range 2 {
		for _, p := range paths {
			r := httptest.NewRequest("GET", "http://example.com/", nil)
			u, err := url.ParseRequestURI(p)
			require.NoError(t, err)
			r.URL = u
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if seen[p] == "" {
				seen[p] = w.Body.String()
			}
			require.Equal(t, seen[p], w.Body.String(), p)
		}
	}
	require.EqualValues(t, len(paths), o.calls.Load())
}

func TestAPathThatALayerHasChangedIsInTheKey(t *testing.T) {
	// It has left RawPath as it was, which then says nothing (see URL.EscapedPath).
	o := echo()
	inner := cache.MustNew(cache.Config{}).Handler(o)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/" + r.Header.Get("User") + r.URL.Path
		inner.ServeHTTP(w, r)
	})
	require.Contains(t, get(h, page+"/a%2fb", "User", "alice").Body.String(), "/alice/page/a/b")
	require.Contains(t, get(h, page+"/a%2fb", "User", "bob").Body.String(), "/bob/page/a/b")
}

func TestARequestWithABodyDoesNotTouchTheCache(t *testing.T) { // RFC 9110 §9.3.1
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		io.Copy(w, r.Body)
	}
	c := cache.MustNew(cache.Config{Shared: true})
	h := c.Handler(o)
	r := httptest.NewRequest("GET", page, strings.NewReader("evil"))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, "evil", w.Body.String())
	require.Contains(t, status(w), "request-body")
	require.Empty(t, get(h, page).Body.String())
	rt := c.Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
		b, _ := io.ReadAll(r.Body)
		return &http.Response{StatusCode: 200, Header: http.Header{"Cache-Control": {"max-age=60"}}, Body: io.NopCloser(bytes.NewReader(b))}, nil
	}))
	for _, body := range []string{"one", "two"} {
		r := httptest.NewRequest("GET", page, io.MultiReader(strings.NewReader(body)))
		r.ContentLength = 0 // unknown, to a client
		resp, err := rt.RoundTrip(r)
		require.NoError(t, err)
		b, _ := io.ReadAll(resp.Body)
		require.Equal(t, body, string(b))
	}
}

func TestAFieldThatConnectionNamesPoisonsNothing(t *testing.T) { // RFC 9110 §7.6.1
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "Accept-Language")
		io.WriteString(w, "in "+r.Header.Get("Accept-Language"))
	}))
	defer origin.Close()
	u, err := url.Parse(origin.URL)
	require.NoError(t, err)
	h := cache.MustNew(cache.Config{}).Handler(httputil.NewSingleHostReverseProxy(u))
	w := get(h, page, "Accept-Language", "de", "Connection", "close, Accept-Language")
	require.Equal(t, "in ", w.Body.String(), "the proxy has dropped it")
	require.Contains(t, status(w), "detail=malformed")
	require.Equal(t, "in de", get(h, page, "Accept-Language", "de").Body.String())
	for _, harmless := range []string{"keep-alive", "close", "Keep-Alive, TE", "TE, close", "Upgrade, HTTP2-Settings", ""} {
		require.Contains(t, status(get(h, page, "Accept-Language", "de", "Connection", harmless)), "hit", harmless)
	}
}

func TestAForgedLengthDoesNotTouchTheCache(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60")
	h := cache.MustNew(cache.Config{}).Handler(o)
	for _, name := range []string{"Content-Length", "Transfer-Encoding"} {
		require.Contains(t, status(get(h, page, name, "5")), "request-body")
	}
}

func TestAnErrorThatOneRequestCausedIsNotForAll(t *testing.T) {
	// An origin that refuses an oversized header must not take the page down
	// for everybody: 400 and 431 are not stored unless they say so.
	for _, code := range []int{400, 413, 431, 500, 502, 503, 504} {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			if len(r.Header.Get("X-Big")) > 100 {
				w.WriteHeader(code)
				return
			}
			w.Header().Set("Cache-Control", "max-age=60")
			io.WriteString(w, "good")
		}
		h := cache.MustNew(cache.Config{TTL: time.Hour}).Handler(o)
		require.Equal(t, code, get(h, page, "X-Big", strings.Repeat("x", 200)).Code)
		require.Equal(t, "good", get(h, page).Body.String())
	}
}
