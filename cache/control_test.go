package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

func TestACookieIsNotStored(t *testing.T) {
	for policy, want := range map[cache.CookiePolicy]struct {
		calls   int64
		cookies []string
	}{cache.CookieRefuse: {2, []string{"id=1"}}, cache.CookieStrip: {1, nil}, cache.CookieKeep: {1, []string{"id=1"}}} {
		o := newOrigin("Cache-Control", "max-age=60", "Set-Cookie", "id=1")
		h := cache.MustNew(cache.Config{SetCookie: policy}).Handler(o)
		require.Equal(t, []string{"id=1"}, get(h, page).Header()["Set-Cookie"], "its own client gets it")
		require.Equal(t, want.cookies, get(h, page).Header()["Set-Cookie"])
		require.Equal(t, want.calls, o.calls.Load())
	}
}

func TestTheCookieOfA304GoesToItsClientAlone(t *testing.T) {
	for policy, stored := range map[cache.CookiePolicy][]string{cache.CookieRefuse: nil, cache.CookieStrip: nil, cache.CookieKeep: {"id=1"}} {
		o := newOrigin("Cache-Control", "max-age=0", "Etag", `"a"`)
		h := cache.MustNew(cache.Config{SetCookie: policy}).Handler(o)
		get(h, page)
		o.set("Cache-Control", "max-age=60", "Set-Cookie", "id=1")
		o.status, o.body = 304, ""
		require.Equal(t, []string{"id=1"}, get(h, page).Header()["Set-Cookie"])
		w := get(h, page)
		require.Contains(t, status(w), "hit")
		require.Equal(t, stored, w.Header()["Set-Cookie"])
	}
}

func TestKeys(t *testing.T) {
	for _, c := range []struct {
		name string
		key  cache.KeyConfig
		a, b []string // path and fields
		same bool
	}{
		{"ignored", cache.KeyConfig{IgnoreQuery: []string{"utm_*", "ref"}}, []string{"?a=1"}, []string{"?utm_source=x&a=1&ref=2"}, true},
		{"ignored when escaped", cache.KeyConfig{IgnoreQuery: []string{"utm_*"}}, []string{"?a=1"}, []string{"?a=1&%75tm_x=2"}, true},
		{"not ignored", cache.KeyConfig{IgnoreQuery: []string{"ref"}}, []string{"?a=1"}, []string{"?a=1&refs=2"}, false},
		{"whole query ignored", cache.KeyConfig{IgnoreQuery: []string{"*"}}, []string{""}, []string{"?a=1"}, true},
		{"sorted", cache.KeyConfig{SortQuery: true}, []string{"?a=1&b=2"}, []string{"?b=2&a=1"}, true},
		{"one name keeps its order", cache.KeyConfig{SortQuery: true}, []string{"?a=1&a=2"}, []string{"?a=2&a=1"}, false},
		{"header", cache.KeyConfig{Headers: []string{"x-tenant"}}, []string{"", "X-Tenant", "1"}, []string{"", "X-Tenant", "2"}, false},
		{"same header", cache.KeyConfig{Headers: []string{"x-tenant"}}, []string{"", "X-Tenant", "1"}, []string{"", "X-Tenant", "1"}, true},
		{"cookie", cache.KeyConfig{Cookies: []string{"lang"}}, []string{"", "Cookie", "lang=de; s=1"}, []string{"", "Cookie", "lang=en; s=1"}, false},
		{"same cookie", cache.KeyConfig{Cookies: []string{"lang"}}, []string{"", "Cookie", "lang=de; s=1"}, []string{"", "Cookie", "lang=de; s=2"}, true},
		{"partition", cache.KeyConfig{Partition: func(r *http.Request) string { return r.Header.Get("P") }}, []string{"", "P", "1"}, []string{"", "P", "2"}, false},
		{"no piece passes for another", cache.KeyConfig{Headers: []string{"A", "B"}}, []string{"", "A", "1", "B", "2"}, []string{"", "A", "1\x01B\x012"}, false},
		{"no line passes for a partition", cache.KeyConfig{Partition: func(r *http.Request) string { return r.Header.Get("P") }},
			[]string{"", "X-Forwarded-Proto", "https", "P", "1"}, []string{"", "X-Forwarded-Proto", "https", "X-Forwarded-Proto", "1"}, false},
		{"no lines pass for a field", cache.KeyConfig{Headers: []string{"A"}},
			[]string{"", "X-Host", "h", "A", "1"}, []string{"", "X-Host", "h", "X-Host", "A", "X-Host", "1"}, false},
		{"no cookie passes for a field", cache.KeyConfig{Headers: []string{"A"}, Cookies: []string{"A"}}, []string{"", "A", "1"}, []string{"", "Cookie", "A=1"}, false},
	} {
		o := newOrigin("Cache-Control", "max-age=60, public")
		ca := cache.MustNew(cache.Config{Key: c.key})
		h := ca.Handler(o)
		get(h, page+c.a[0], c.a[1:]...)
		w := get(h, page+c.b[0], c.b[1:]...)
		require.Equal(t, c.same, strings.Contains(status(w), "hit"), c.name)
		require.NoError(t, ca.Purge(t.Context(), cache.URL(page+c.b[0])))
		require.NotContains(t, status(get(h, page+c.b[0], c.b[1:]...)), "hit", "%s: a purge finds all partitions", c.name)
	}
}

func TestPurges(t *testing.T) {
	for _, c := range []struct {
		target cache.Target
		gone   string // paths that are gone, of a, ab, b
	}{
		{cache.URL("http://example.com/a"), "a"},
		{cache.URL("https://EXAMPLE.com:443/a"), "a"},
		{cache.Prefix("http://example.com/a"), "a ab"},
		{cache.Prefix("HTTP://Example.com:80/a"), "a ab"},
		{cache.Prefix("http://example.com:80"), ""}, // :8080 perhaps
		{cache.Prefix("http://EXAMPLE.c"), "a ab b"},
		{cache.Prefix("https://example.com/a"), ""},
		{cache.Tag("t-a"), "a"},
		{cache.Tag("t"), ""},
		{cache.Tag("all"), "a ab b"},
		{cache.All(), "a ab b"},
	} {
		for _, soft := range []bool{false, true} {
			o := newOrigin()
			o.serve = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				w.Header().Set("Surrogate-Key", "t-"+r.URL.Path[1:]+" all")
				w.Header().Set("Etag", `"a"`)
				if r.Header.Get("If-None-Match") != "" {
					w.WriteHeader(304)
				}
			}
			ca := cache.MustNew(cache.Config{})
			h := ca.Handler(o)
			for _, p := range []string{"a", "ab", "b"} {
				get(h, "http://example.com/"+p)
			}
			target := c.target
			if soft {
				target = target.Soft()
			}
			require.NoError(t, ca.Purge(t.Context(), target))
			var gone []string
			for _, p := range []string{"a", "ab", "b"} {
				s := status(get(h, "http://example.com/"+p))
				if !strings.Contains(s, "hit") {
					gone = append(gone, p)
					require.Equal(t, soft, strings.Contains(s, "fwd=stale"), "what is softly purged is validated")
				}
			}
			require.Equal(t, c.gone, strings.Join(gone, " "), "%v", target)
		}
	}
	require.ErrorContains(t, cache.MustNew(cache.Config{}).Purge(t.Context(), cache.URL("/a"), cache.Target{}), "not absolute")
}

func TestAPrefixThatNoURLHasIsAnError(t *testing.T) {
	c := cache.MustNew(cache.Config{})
	h := c.Handler(newOrigin("Cache-Control", "max-age=60"))
	get(h, page)
	for _, prefix := range []string{"", "/", "/products/", "/go?to=http://example.com/", "example.com/page", "//example.com/page", "http:/page", "http://", "http:///page", "://example.com/"} {
		require.EqualError(t, c.Purge(t.Context(), cache.Prefix(prefix)), fmt.Sprintf("cache: Purge: Prefix %q is not absolute", prefix))
		require.EqualError(t, c.Purge(t.Context(), cache.Prefix(prefix).Soft(), cache.Tag("a")), fmt.Sprintf("cache: Purge: Prefix %q is not absolute", prefix))
	}
	require.Contains(t, status(get(h, page)), "hit", "nothing else was purged for it")
}

func TestAnUnsafeRequestWinsOverAFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			if r.Method == "GET" {
				n := o.calls.Load()
				time.Sleep(100 * time.Millisecond)
				fmt.Fprint(w, n)
			}
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		go get(h, page)
		time.Sleep(50 * time.Millisecond)
		do(h, "POST", page)
		require.Equal(t, "3", get(h, page).Body.String(), "not the answer of before the POST")
		require.Equal(t, "3", get(h, page).Body.String())
	})
}

func TestTTLs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin("Age", "5")
		h := cache.MustNew(cache.Config{TTL: time.Minute}).Handler(o)
		get(h, page)
		time.Sleep(59 * time.Second)
		require.Contains(t, status(get(h, page)), "hit")
		time.Sleep(2 * time.Second)
		require.NotContains(t, status(get(h, page)), "hit")
		o.set("Cache-Control", "max-age=0")
		time.Sleep(time.Hour)
		get(h, page)
		require.NotContains(t, status(get(h, page)), "hit", "what says so itself goes first")
		o.set()
		o.status = 403
		h = cache.MustNew(cache.Config{TTLOf: func(status int, _ http.Header) time.Duration { return time.Duration(status) * time.Second }}).Handler(o)
		get(h, page)
		time.Sleep(402 * time.Second)
		require.Contains(t, status(get(h, page)), "hit")
	})
}

func TestBypassAndHook(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60")
	var results []cache.Result
	c := cache.MustNew(cache.Config{
		Bypass:   func(r *http.Request) bool { return r.URL.Query().Has("preview") },
		OnResult: func(_ *http.Request, r cache.Result) { results = append(results, r); panic("hook") },
	})
	h := c.Handler(o)
	get(h, page)
	get(h, page)
	require.Equal(t, "Spillway; fwd=bypass; detail=rule", status(get(h, page+"?preview")))
	do(h, "POST", page)
	require.Equal(t, []cache.Result{cache.Miss, cache.Hit, cache.Bypass, cache.Bypass}, results)
	s := c.Stats()
	require.EqualValues(t, 4, s.Panics, "a panicking hook does no harm")
	require.Equal(t, map[string]uint64{"rule": 1, "method": 1}, s.Reasons)
}

func TestDirectivesOfRequestsCanBeIgnored(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60")
	h := cache.MustNew(cache.Config{IgnoreRequestDirectives: true}).Handler(o)
	get(h, page)
	for _, cc := range []string{"no-cache", "no-store", "max-age=0", "only-if-cached"} {
		require.Contains(t, status(get(h, page, "Cache-Control", cc)), "hit", cc)
	}
	require.Contains(t, status(get(h, page, "Pragma", "no-cache")), "hit")
}

func TestAPostThatIsAlsoTheAnswerToGet(t *testing.T) { // RFC 9110 §9.3.3
	for _, c := range []struct {
		location, cc string
		hit          bool
	}{{"/page", "max-age=60", true}, {"http://example.com/page", "max-age=60", true}, {"/other", "max-age=60", false}, {"/page", "public", false}, {"", "max-age=60", false}} {
		o := newOrigin("Content-Location", c.location, "Cache-Control", c.cc)
		h := cache.MustNew(cache.Config{}).Handler(o)
		require.Equal(t, "body", do(h, "POST", page).Body.String())
		w := get(h, page)
		require.Equal(t, c.hit, strings.Contains(status(w), "hit"), "%v", c)
		require.Equal(t, "body", w.Body.String())
	}
}

func TestAPostOfAClientThatIsAlsoTheAnswerToGet(t *testing.T) { // RFC 9110 §9.3.3
	for _, c := range []struct {
		location, cc string
		read         int
		hit          bool
	}{
		{"/page", "max-age=60", 9, true}, {"/page", "private, max-age=60", 9, true},
		{"http://EXAMPLE.com:80/page", "max-age=60", 9, true},
		{"/other", "max-age=60", 9, false}, {"/page", "public", 9, false}, {"", "max-age=60", 9, false},
		{"/page", "max-age=60", 2, false}, // not read to the end
	} {
		o := newOrigin("Content-Location", c.location, "Cache-Control", c.cc)
		rt := cache.MustNew(cache.Config{}).Transport(roundTrip(func(r *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			o.ServeHTTP(w, r)
			return w.Result(), nil
		}))
		resp, err := rt.RoundTrip(newRequest(t, "POST", page))
		require.NoError(t, err)
		b, err := io.ReadAll(io.LimitReader(resp.Body, int64(c.read)))
		require.NoError(t, err)
		require.Equal(t, "body"[:min(4, c.read)], string(b))
		require.NoError(t, resp.Body.Close())
		resp, err = rt.RoundTrip(newRequest(t, "GET", page))
		require.NoError(t, err)
		require.Equal(t, c.hit, strings.Contains(resp.Header.Get("Cache-Status"), "hit"), "%v", c)
		b, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "body", string(b))
		require.NoError(t, resp.Body.Close())
	}
}

func TestHitForMissDecays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			w.Header().Set("Cache-Control", "max-age=60")
			if o.calls.Load() == 1 {
				w.Header().Set("Cache-Control", "private")
			}
		}
		h := cache.MustNew(cache.Config{HitForMiss: 5 * time.Second}).Handler(o)
		get(h, page)
		time.Sleep(10 * time.Second)
		for range 5 {
			go get(h, page)
		}
		time.Sleep(2 * time.Second)
		require.EqualValues(t, 2, o.calls.Load(), "they wait for one another again")
	})
}

func TestASlowHandlerIsCutOffForThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin("Cache-Control", "max-age=1, stale-if-error=60")
		h := cache.MustNew(cache.Config{FillTimeout: 3 * time.Second}).Handler(o)
		get(h, page)
		time.Sleep(2 * time.Second)
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			w.WriteHeader(504)
		}
		start := time.Now()
		require.Equal(t, 200, get(h, page).Code)
		require.Equal(t, 3*time.Second, time.Since(start))
	})
}

func TestAPurgeByURLWinsOverAFillOfAnyPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			n := o.calls.Load()
			time.Sleep(100 * time.Millisecond)
			w.Header().Set("Cache-Control", "max-age=60")
			fmt.Fprint(w, n)
		}
		c := cache.MustNew(cache.Config{})
		h := c.Handler(o)
		go get(h, page, "X-Forwarded-Proto", "https")
		time.Sleep(50 * time.Millisecond)
		require.NoError(t, c.Purge(t.Context(), cache.URL(page)))
		time.Sleep(time.Second)
		require.Equal(t, "2", get(h, page, "X-Forwarded-Proto", "https").Body.String())
		require.Equal(t, "2", get(h, page, "X-Forwarded-Proto", "https").Body.String())
	})
}

func TestAPurgeWinsOverTheAnswerToAPost(t *testing.T) {
	for name, purge := range map[string]func(*cache.Cache, http.Handler){
		"purge": func(c *cache.Cache, _ http.Handler) { require.NoError(t, c.Purge(t.Context(), cache.URL(page))) },
		"tag":   func(c *cache.Cache, _ http.Handler) { require.NoError(t, c.Purge(t.Context(), cache.Tag("a"))) },
		"post":  func(_ *cache.Cache, h http.Handler) { do(h, "POST", page, "Quick", "1") },
		"":      func(*cache.Cache, http.Handler) {},
	} {
		for _, early := range []bool{true, false} { // before its header, or after
			synctest.Test(t, func(t *testing.T) {
				o := newOrigin()
				o.serve = func(w http.ResponseWriter, r *http.Request) {
					quick := r.Header.Get("Quick") != "" || r.Method == "GET"
					if early && !quick {
						time.Sleep(100 * time.Millisecond)
					}
					w.Header().Set("Content-Location", "/page")
					w.Header().Set("Cache-Tag", "a")
					w.Header().Set("Cache-Control", "max-age=60")
					io.WriteString(w, map[bool]string{true: "new", false: "old"}[quick])
					if !early && !quick {
						time.Sleep(100 * time.Millisecond)
					}
				}
				c := cache.MustNew(cache.Config{})
				h := c.Handler(o)
				go do(h, "POST", page)
				time.Sleep(50 * time.Millisecond)
				purge(c, h)
				time.Sleep(time.Second)
				want := "new"
				if name == "" {
					want = "old"
				}
				require.Equal(t, want, get(h, page).Body.String(), "%s, early %v", name, early)
			})
		}
	}
}

func TestAnUnsafeRequestInvalidatesWhatWasAskedFor(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60")
	h := cache.MustNew(cache.Config{}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path, r.Host = "/", "localhost" // as some routers do
		o.ServeHTTP(w, r)
	}))
	for _, method := range []string{"POST", "DELETE"} {
		get(h, page)
		require.Contains(t, status(get(h, page)), "hit")
		do(h, method, page)
		require.NotContains(t, status(get(h, page)), "hit", method)
	}
}

func TestWhatIsSoftlyPurgedIsSaidToBeStale(t *testing.T) { // RFC 9211 §2.4
	synctest.Test(t, func(t *testing.T) {
		c := cache.MustNew(cache.Config{})
		h := c.Handler(newOrigin("Cache-Control", "max-age=600"))
		get(h, page)
		time.Sleep(10 * time.Second)
		require.Equal(t, "Spillway; hit; ttl=590", status(get(h, page)))
		require.NoError(t, c.Purge(t.Context(), cache.URL(page).Soft()))
		time.Sleep(5 * time.Second)
		require.Equal(t, "Spillway; hit; ttl=-5", status(get(h, page, "Cache-Control", "max-stale")))
	})
}
