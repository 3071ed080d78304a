package cache_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// A step is one request, after a wait, and what must become of it. Fields are
// written "Name: value", separated by "|". {-5s} stands for the date five
// seconds ago.
type step struct {
	wait   time.Duration
	method string // default GET
	path   string // default page
	ask    string // fields of the request
	say    string // fields that the origin answers with
	status int    // that it answers with, default 200

	want   string // origin: it answered. cache: it wasn't asked. 304: the client got that.
	conf   bool   // the origin confirmed with 304 (it does when asked conditionally)
	anew   string // fields of its answer to a second request, without conditions
	has    string // fields the client gets
	hasNot string // names of fields it does not get
	sent   string // fields the origin got
	code   int    // status the client gets, if not the origin's
}

// A rule is a sentence of an RFC, and steps that show it.
type rule struct {
	section, says string
	steps         []step
	private       bool // for a private cache
	cfg           cache.Config
}

const (
	sec  = time.Second
	mid  = time.Minute
	hour = time.Hour
)

func fieldsOf(t *testing.T, list string) http.Header {
	h := http.Header{}
	if list == "" {
		return h
	}
	for f := range strings.SplitSeq(list, "|") {
		name, value, ok := strings.Cut(f, ":")
		require.True(t, ok, f)
		value = strings.TrimPrefix(value, " ")
		for strings.Contains(value, "{") {
			a, rest, _ := strings.Cut(value, "{")
			d, b, _ := strings.Cut(rest, "}")
			ago, err := time.ParseDuration(d)
			require.NoError(t, err)
			value = a + time.Now().Add(ago).UTC().Format(http.TimeFormat) + b
		}
		h.Add(name, value)
	}
	return h
}

// run plays the steps of r against a handler or a transport.
func (r *rule) run(t *testing.T, transport bool) {
	var calls int
	var saw *http.Request
	var now step
	origin := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		calls++
		saw = req
		conditional := req.Header.Get("If-None-Match") != "" || req.Header.Get("If-Modified-Since") != ""
		say := now.say
		if now.anew != "" && !conditional {
			say, now.conf = now.anew, false
		}
		for name, v := range fieldsOf(t, say) {
			w.Header()[name] = v
		}
		switch {
		case now.conf:
			require.True(t, conditional, "the request must be conditional")
			w.WriteHeader(304)
			return
		case now.status != 0:
			w.WriteHeader(now.status)
		}
		if now.status != 204 && now.status != 304 {
			io.WriteString(w, "body "+string(rune('0'+calls)))
		}
	})
	cfg := r.cfg
	cfg.Shared = !r.private
	c := cache.MustNew(cfg)
	defer c.Close()
	h := c.Handler(origin)
	rt := c.Transport(roundTrip(func(req *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		origin.ServeHTTP(w, req)
		return w.Result(), nil
	}))
	body := ""
	for i, s := range r.steps {
		time.Sleep(s.wait)
		now = s
		before := calls
		method, target := s.method, page+s.path
		if method == "" {
			method = "GET"
		}
		req := httptest.NewRequest(method, target, nil)
		req.Header = fieldsOf(t, s.ask)
		w := httptest.NewRecorder()
		if transport {
			req.RequestURI = ""
			resp, err := rt.RoundTrip(req)
			require.NoError(t, err)
			w.Code = resp.StatusCode
			for k, v := range resp.Header {
				w.Header()[k] = v
			}
			_, err = io.Copy(w.Body, resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		} else {
			h.ServeHTTP(w, req)
		}
		synctest.Wait()
		switch s.want {
		case "origin":
			asked := 1
			if s.anew != "" {
				asked = 2
			}
			require.Equal(t, before+asked, calls, "step %d must ask the origin; %v", i, w.Header())
			if s.anew != "" || !s.conf && s.code == 0 && method == "GET" {
				require.False(t, s.anew != "" && w.Body.String() == body, "step %d must not be what was stored", i)
				body = w.Body.String()
			}
		case "cache":
			require.Equal(t, before, calls, "step %d must not ask the origin", i)
			if s.code == 0 && method == "GET" {
				require.Equal(t, body, w.Body.String(), "step %d", i)
			}
		case "304":
			require.Equal(t, before, calls, "step %d must not ask the origin", i)
			require.Equal(t, 304, w.Code, "step %d", i)
			require.Empty(t, w.Body.String())
		default:
			t.Fatalf("step %d wants nothing", i)
		}
		if s.code != 0 {
			require.Equal(t, s.code, w.Code, "step %d", i)
		}
		for name, v := range fieldsOf(t, s.has) {
			require.Equal(t, v, w.Header()[name], "step %d: %s", i, name)
		}
		for name := range strings.SplitSeq(s.hasNot, "|") {
			require.Empty(t, w.Header()[http.CanonicalHeaderKey(name)], "step %d: %s", i, name)
		}
		for name, v := range fieldsOf(t, s.sent) {
			require.Equal(t, v, saw.Header[name], "step %d: %s", i, name)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// two returns the steps of the commonest rule: whether a response with these
// fields answers a second request.
func two(say, want string) []step {
	return []step{{say: say, want: "origin"}, {wait: sec, want: want}}
}

func TestRFC(t *testing.T) {
	for _, r := range slices.Concat(rules, moreRules) {
		t.Run(r.section+" "+r.says, func(t *testing.T) {
			if !r.private {
				synctest.Test(t, func(t *testing.T) { r.run(t, false) })
			}
			synctest.Test(t, func(t *testing.T) { r.run(t, true) })
		})
	}
}

var rules = []rule{
	{section: "9111 §3", says: "no-store forbids storing", steps: two("Cache-Control: no-store, max-age=60", "origin")},
	{section: "9111 §3", says: "private forbids a shared cache to store", steps: two("Cache-Control: private, max-age=60", "origin")},
	{section: "9111 §3", says: "private lets a private cache store", private: true, steps: two("Cache-Control: private, max-age=60", "cache")},
	{section: "9111 §3", says: "nothing said is nothing stored", steps: two("", "origin")},
	{section: "9111 §3", says: "public alone does not make it fresh", steps: two("Cache-Control: public", "origin")},
	{section: "9111 §3", says: "a status that is not heuristically cacheable needs to say so", steps: []step{
		{status: 403, say: "Last-Modified: {-24h}", want: "origin"}, {want: "origin"}}},
	{section: "9111 §3", says: "any final status may be stored that says how long it is fresh", steps: []step{
		{status: 599, say: "Cache-Control: max-age=60", want: "origin"}, {want: "cache"}}},
	{section: "9111 §3", says: "public makes any status heuristically cacheable", steps: []step{
		{status: 599, say: "Cache-Control: public|Last-Modified: {-24h}", want: "origin"}, {want: "cache"}}},
	{section: "9111 §3", says: "204 is stored with no body", steps: []step{
		{status: 204, say: "Cache-Control: max-age=60", want: "origin"}, {want: "cache", code: 204, hasNot: "Content-Length"}}},
	{section: "9111 §3.1", says: "Connection and what it names are not stored", steps: []step{
		{say: "Cache-Control: max-age=60|Connection: a, B|A: 1|B: 2|C: 3", want: "origin"},
		{want: "cache", has: "C: 3", hasNot: "Connection|A|B"}}},
	{section: "9111 §3.1", says: "hop-by-hop fields are not stored", steps: []step{
		{say: "Cache-Control: max-age=60|Keep-Alive: 1|Proxy-Connection: x|Proxy-Authenticate: x|Proxy-Authentication-Info: x|Proxy-Authorization: x|Te: x|Upgrade: x", want: "origin"},
		{want: "cache", hasNot: "Keep-Alive|Proxy-Connection|Proxy-Authenticate|Proxy-Authentication-Info|Proxy-Authorization|Te|Upgrade"}}},
	{section: "9111 §3.1", says: "fields nobody knows are stored", steps: []step{
		{say: "Cache-Control: max-age=60|Foo: 1|Foo: 2|Content-Foo: x|Clear-Site-Data: x", want: "origin"},
		{want: "cache", has: "Foo: 1|Foo: 2|Content-Foo: x|Clear-Site-Data: x"}}},
	{section: "9111 §3.2", says: "a 304 updates every field but Content-Length", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"|Foo: 1|Content-Foo: 1|Content-Type: a/b|Gone: 1`, want: "origin"},
		{wait: 5 * sec, conf: true, say: `Cache-Control: max-age=60|Etag: "a"|Foo: 2|Foo: 3|Content-Foo: 2|Content-Type: a/c|Content-Length: 99|New: 1`,
			want: "origin", has: "Foo: 2|Foo: 3|Content-Foo: 2|Content-Type: a/c|Content-Length: 6|New: 1|Gone: 1", code: 200},
		{wait: 50 * sec, want: "cache", has: "Foo: 2|Foo: 3|Content-Length: 6|New: 1|Gone: 1"}}},
	{section: "9111 §3.2", says: "a 304 does not update what is not to be stored", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"`, want: "origin"},
		{wait: 5 * sec, conf: true, say: `Cache-Control: max-age=60|Connection: x|X: 1|Keep-Alive: 1`, want: "origin", code: 200},
		{want: "cache", hasNot: "X|Keep-Alive|Connection"}}},
	{section: "9111 §3.2", says: "a 304 can forbid further storing", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"`, want: "origin"},
		{wait: 5 * sec, conf: true, say: `Cache-Control: no-store`, want: "origin", code: 200},
		{want: "origin"}}},
	{section: "9111 §3.5", says: "a response to a request with Authorization is not shared", steps: []step{
		{ask: "Authorization: x", say: "Cache-Control: max-age=60", want: "origin"}, {want: "origin"}}},
	{section: "9111 §3.5", says: "unless it is public", steps: []step{
		{ask: "Authorization: x", say: "Cache-Control: max-age=60, public", want: "origin"}, {want: "cache"}}},
	{section: "9111 §3.5", says: "or must-revalidate", steps: []step{
		{ask: "Authorization: x", say: "Cache-Control: max-age=60, must-revalidate", want: "origin"}, {want: "cache"}}},
	{section: "9111 §3.5", says: "or has s-maxage", steps: []step{
		{ask: "Authorization: x", say: "Cache-Control: s-maxage=60", want: "origin"}, {want: "cache"}}},
	{section: "9111 §3.5", says: "a private cache need not care", private: true, steps: []step{
		{ask: "Authorization: x", say: "Cache-Control: max-age=60", want: "origin"}, {ask: "Authorization: x", want: "cache"}}},
	{section: "9111 §4", says: "an Age field comes with every stored response", steps: []step{
		{say: "Cache-Control: max-age=60", want: "origin", hasNot: "Age"}, {wait: 7 * sec, want: "cache", has: "Age: 7"}}},
	{section: "9111 §4", says: "another query is another URI", steps: []step{
		{say: "Cache-Control: max-age=60", want: "origin"}, {path: "?a=1", say: "Cache-Control: max-age=60", want: "origin"},
		{path: "?a=1", want: "cache"}, {path: "?", want: "origin"}}},
	{section: "9111 §4", says: "a method that is safe and unknown to the cache goes through", steps: []step{
		{say: "Cache-Control: max-age=60", want: "origin"}, {method: "OPTIONS", want: "origin"}, {want: "cache"}}},

	{section: "9111 §4.1", says: "what Vary names must match", steps: []step{
		{ask: "Foo: 1", say: "Cache-Control: max-age=60|Vary: foo", want: "origin"}, {ask: "Foo: 1", want: "cache"},
		{ask: "Foo: 2", want: "origin"}, {want: "origin"}}},
	{section: "9111 §4.1", says: "absent matches only absent", steps: []step{
		{say: "Cache-Control: max-age=60|Vary: Foo", want: "origin"}, {want: "cache"}, {ask: "Foo: ", want: "origin"}}},
	{section: "9111 §4.1", says: "several lines of Vary count together", steps: []step{
		{ask: "A: 1|B: 2", say: "Cache-Control: max-age=60|Vary: A|Vary: B", want: "origin"},
		{ask: "A: 1|B: 2", want: "cache"}, {ask: "A: 1|B: 3", want: "origin"}}},
	{section: "9111 §4.1", says: "Vary * never matches", steps: two("Cache-Control: max-age=60|Vary: *", "origin")},
	{section: "9111 §4.1", says: "Vary with * anywhere never matches", steps: two("Cache-Control: max-age=60|Vary: Foo, *", "origin")},
	{section: "9111 §4.1", says: "Vary with * on another line never matches", steps: two("Cache-Control: max-age=60|Vary: |Vary: *", "origin")},
	{section: "9111 §4.1", says: "variants live side by side", steps: []step{
		{ask: "Foo: 1", say: "Cache-Control: max-age=60|Vary: Foo|V: 1", want: "origin"},
		{ask: "Foo: 2", say: "Cache-Control: max-age=60|Vary: Foo|V: 2", want: "origin", has: "V: 2"},
		{ask: "Foo: 1", want: "cache", has: "V: 1", code: 200}, {ask: "Foo: 2", want: "cache", has: "V: 2"}}},
	{section: "9111 §4.1", says: "white space around commas makes no difference", steps: []step{
		{ask: "Foo: 1,2", say: "Cache-Control: max-age=60|Vary: Foo", want: "origin"}, {ask: "Foo:  1,  2 ", want: "cache"}}},
	{section: "9111 §4.1", says: "lines of one field can be combined", steps: []step{
		{ask: "Foo: 1, 2", say: "Cache-Control: max-age=60|Vary: Foo", want: "origin"}, {ask: "Foo: 1|Foo: 2", want: "cache"},
		{ask: "Foo: 2|Foo: 1", want: "origin"}}},
	{section: "9111 §4.1", says: "languages match whatever their order and case", steps: []step{
		{ask: "Accept-Language: en, de;q=0.5", say: "Cache-Control: max-age=60|Vary: Accept-Language", want: "origin"},
		{ask: "Accept-Language: DE;q=0.5 ,EN", want: "cache"}, {ask: "Accept-Language: de, en;q=0.5", want: "origin"}}},
	{section: "9111 §4.1", says: "the language wanted most is chosen", steps: []step{
		{ask: "Accept-Language: en, de", say: "Cache-Control: max-age=60|Vary: Accept-Language|Content-Language: de", want: "origin"},
		{ask: "Accept-Language: fr;q=0.5, de;q=1.0", want: "cache"}, {ask: "Accept-Language: de, fr", want: "origin"}}},
	{section: "9111 §4.1", says: "encodings match whatever their order", steps: []step{
		{ask: "Accept-Encoding: gzip, br", say: "Cache-Control: max-age=60|Vary: Accept-Encoding", want: "origin"},
		{ask: "Accept-Encoding: br,gzip", want: "cache"}, {ask: "Accept-Encoding: br", want: "origin"}}},

	{section: "9111 §4.2", says: "fresh until its lifetime is its age", steps: []step{
		{say: "Cache-Control: max-age=60", want: "origin"}, {wait: 60*sec - 1, want: "cache"}, {wait: 1, want: "origin"}}},
	{section: "9111 §4.2.1", says: "s-maxage goes before max-age", steps: two("Cache-Control: max-age=60, s-maxage=0", "origin")},
	{section: "9111 §4.2.1", says: "s-maxage goes before max-age=0 and Expires", steps: two("Cache-Control: max-age=0, s-maxage=60|Expires: {-1h}", "cache")},
	{section: "9111 §4.2.1", says: "a private cache ignores s-maxage", private: true, steps: two("Cache-Control: max-age=0, s-maxage=60", "origin")},
	{section: "9111 §4.2.1", says: "max-age goes before Expires", steps: two("Cache-Control: max-age=60|Expires: {-1h}", "cache")},
	{section: "9111 §4.2.1", says: "max-age=0 goes before Expires", steps: two("Cache-Control: max-age=0|Expires: {1h}", "origin")},
	{section: "9111 §4.2.1", says: "Expires counts from Date", steps: []step{
		{say: "Date: {-1h}|Expires: {1m}", want: "origin"}, {wait: 59 * sec, want: "cache"}, {wait: sec, want: "origin"}}},
	{section: "9111 §4.2.1", says: "values that disagree count as stale", steps: two("Cache-Control: max-age=60, max-age=120", "origin")},
	{section: "9111 §4.2.1", says: "values that agree count", steps: two("Cache-Control: max-age=60|Cache-Control: max-age=60", "cache")},
	{section: "9111 §4.2.1", says: "invalid freshness counts as stale: a float", steps: two("Cache-Control: max-age=60.0|Last-Modified: {-24h}", "origin")},
	{section: "9111 §4.2.1", says: "invalid freshness counts as stale: negative", steps: two("Cache-Control: max-age=-60", "origin")},
	{section: "9111 §4.2.1", says: "invalid freshness counts as stale: letters", steps: two("Cache-Control: max-age=60a", "origin")},
	{section: "9111 §4.2.1", says: "invalid freshness counts as stale: empty", steps: two("Cache-Control: max-age=|Expires: {1h}", "origin")},
	{section: "9111 §4.2.2", says: "a tenth of the time since it was modified", steps: []step{
		{say: "Last-Modified: {-1000s}", want: "origin"}, {wait: 99 * sec, want: "cache"}, {wait: 2 * sec, want: "origin"}}},
	{section: "9111 §4.2.2", says: "a guess is at most a day", steps: []step{
		{say: "Last-Modified: {-10000h}", want: "origin"}, {wait: 23 * hour, want: "cache"}, {wait: 2 * hour, want: "origin"}}},
	{section: "9111 §4.2.2", says: "no guess when it says how long it is fresh", steps: two("Last-Modified: {-1000h}|Cache-Control: max-age=0", "origin")},
	{section: "9111 §4.2.2", says: "no guess from a date in the future", steps: two("Last-Modified: {1000h}", "origin")},
	{section: "9111 §4.2.2", says: "no guess for a request with a cookie", steps: []step{
		{ask: "Cookie: user=1", say: "Last-Modified: {-1000h}", want: "origin"}, {ask: "Cookie: user=2", want: "origin"}}},
	{section: "9111 §4.2.3", says: "Age adds to the age", steps: []step{
		{say: "Cache-Control: max-age=60|Age: 50", want: "origin"}, {wait: 9 * sec, want: "cache", has: "Age: 59"}, {wait: sec, want: "origin"}}},
	{section: "9111 §4.2.3", says: "an old Date makes it old", steps: []step{
		{say: "Cache-Control: max-age=60|Date: {-50s}", want: "origin"}, {wait: 9 * sec, want: "cache", has: "Age: 59"}, {wait: sec, want: "origin"}}},
	{section: "9111 §4.2.3", says: "the larger of Date and Age counts", steps: two("Cache-Control: max-age=60|Date: {-10s}|Age: 70", "origin")},
	{section: "9111 §4.2.3", says: "a Date in the future does not make it younger", steps: []step{
		{say: "Cache-Control: max-age=60|Date: {10m}", want: "origin"}, {wait: 61 * sec, want: "origin"}}},
	{section: "9111 §4.2.4", says: "no stale response without permission", cfg: cache.Config{StaleIfError: -1}, steps: []step{
		{say: "Cache-Control: max-age=1", want: "origin"}, {wait: 2 * sec, status: 503, want: "origin", code: 503}}},
	{section: "9111 §4.2.4", says: "a stale response stands in for an origin that can't be reached", steps: []step{
		{say: "Cache-Control: max-age=1", want: "origin"},
		{wait: 2 * sec, status: 502, want: "origin", code: 200, has: "Age: 2|Cache-Status: Spillway; fwd=stale; fwd-status=502; detail=stale-if-error"},
		{status: 503, want: "origin", code: 200}, {wait: 59 * mid, status: 504, want: "origin", code: 200},
		{wait: 2 * mid, status: 504, want: "origin", code: 504}}},
	{section: "9111 §4.2.4", says: "an origin that says 500 can be reached", steps: []step{
		{say: "Cache-Control: max-age=1", want: "origin"}, {wait: 2 * sec, status: 500, want: "origin", code: 500}}},
	{section: "9111 §4.2.4", says: "what it says of stale-if-error itself goes before", steps: []step{
		{say: "Cache-Control: max-age=1, stale-if-error=1", want: "origin"}, {wait: 3 * sec, status: 503, want: "origin", code: 503}}},
	{section: "9111 §4.2.4", says: "no stale response for who asks for a fresh one", steps: []step{
		{say: "Cache-Control: max-age=1", want: "origin"}, {wait: 2 * sec, ask: "Cache-Control: max-age=9", status: 503, want: "origin", code: 503}}},
	{section: "9111 §4.2.4", says: "must-revalidate forbids stale when disconnected, too", steps: []step{
		{say: "Cache-Control: max-age=1, must-revalidate", want: "origin"}, {wait: 2 * sec, status: 502, want: "origin", code: 502}}},
	{section: "9111 §4.2.4", says: "s-maxage forbids stale when disconnected, too", steps: []step{
		{say: "Cache-Control: s-maxage=1", want: "origin"}, {wait: 2 * sec, status: 502, want: "origin", code: 502}}},
	{section: "9111 §4.2.4", says: "must-revalidate forbids stale", cfg: cache.Config{StaleIfError: hour}, steps: []step{
		{say: "Cache-Control: max-age=1, must-revalidate, stale-if-error=60", want: "origin"}, {wait: 2 * sec, status: 503, want: "origin", code: 503}}},
	{section: "9111 §4.2.4", says: "proxy-revalidate forbids stale", cfg: cache.Config{StaleIfError: hour}, steps: []step{
		{say: "Cache-Control: max-age=1, proxy-revalidate", want: "origin"}, {wait: 2 * sec, status: 503, want: "origin", code: 503}}},
	{section: "9111 §4.2.4", says: "s-maxage forbids stale", cfg: cache.Config{StaleIfError: hour}, steps: []step{
		{say: "Cache-Control: s-maxage=1", want: "origin"}, {wait: 2 * sec, status: 503, want: "origin", code: 503}}},
	{section: "9111 §4.2.4", says: "no-cache forbids stale", cfg: cache.Config{StaleIfError: hour}, steps: []step{
		{say: `Cache-Control: no-cache|Etag: "a"`, want: "origin"}, {wait: 2 * sec, status: 503, want: "origin", code: 503}}},
	{section: "9111 §4.2.4", says: "a private cache ignores proxy-revalidate", private: true, cfg: cache.Config{StaleIfError: hour}, steps: []step{
		{say: "Cache-Control: max-age=1, proxy-revalidate", want: "origin"}, {wait: 2 * sec, status: 503, want: "origin", code: 200}}},

	{section: "9111 §4.3.1", says: "it validates with both validators", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: W/"a"|Last-Modified: {-1h}`, want: "origin"},
		{wait: 5 * sec, conf: true, want: "origin", code: 200, sent: `If-None-Match: W/"a"|If-Modified-Since: {-3605s}`}}},
	{section: "9111 §4.3.1", says: "it validates with what Vary names", steps: []step{
		{ask: "Foo: 1", say: `Cache-Control: max-age=1|Etag: "a"|Vary: Foo`, want: "origin"},
		{wait: 5 * sec, ask: "Foo: 1", conf: true, want: "origin", code: 200, sent: "Foo: 1"}}},
	{section: "9111 §4.3.2", says: "If-None-Match is answered from the store", steps: []step{
		{say: `Cache-Control: max-age=60|Etag: "a"|Content-Type: x/y|Content-Location: /z`, want: "origin"},
		{ask: `If-None-Match: "x", W/"a"`, want: "304", has: `Etag: "a"|Content-Location: /z|Cache-Control: max-age=60`, hasNot: "Content-Type|Content-Length"},
		{ask: `If-None-Match: "x"`, want: "cache"}, {ask: `If-None-Match: *`, want: "304"}}},
	{section: "9111 §4.3.2", says: "If-None-Match goes before If-Modified-Since", steps: []step{
		{say: `Cache-Control: max-age=60|Etag: "a"|Last-Modified: {-1h}`, want: "origin"},
		{ask: `If-None-Match: "x"|If-Modified-Since: {1s}`, want: "cache"},
		{ask: `If-None-Match: "a"|If-Modified-Since: {-2h}`, want: "304"}}},
	{section: "9111 §4.3.2", says: "If-Modified-Since is answered from the store", steps: []step{
		{say: `Cache-Control: max-age=60|Last-Modified: {-1h}`, want: "origin"},
		{ask: `If-Modified-Since: {-1h}`, want: "304"}, {ask: `If-Modified-Since: {-2h}`, want: "cache"},
		{ask: `If-Modified-Since: nonsense`, want: "cache"}}},
	{section: "9111 §4.3.2", says: "without Last-Modified the Date counts", steps: []step{
		{say: `Cache-Control: max-age=60`, want: "origin"}, {ask: `If-Modified-Since: {0s}`, want: "304"}, {ask: `If-Modified-Since: {-1h}`, want: "cache"}}},
	{section: "9110 §13.1.1", says: "If-Match is the origin's to judge", steps: []step{
		{say: `Cache-Control: max-age=60|Etag: "a"`, want: "origin"}, {ask: `If-Match: "b"`, status: 412, want: "origin", code: 412}, {want: "cache"}}},
	{section: "9111 §4.3.3", says: "a full answer takes the old one's place", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"`, want: "origin"},
		{wait: 2 * sec, say: `Cache-Control: max-age=60|Etag: "b"`, want: "origin"}, {want: "cache", has: `Etag: "b"`}}},
	{section: "9111 §4.3.3", says: "an error is passed on and stored nowhere", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"`, want: "origin"}, {wait: 2 * sec, status: 500, want: "origin", code: 500},
		{conf: true, say: "Cache-Control: max-age=60", want: "origin", code: 200}, {want: "cache", has: `Etag: "a"`, code: 200}}},
	// Nor does it confirm what is stored (§4.3.3): all of it is asked for, once.
	{section: "9111 §4.3.4", says: "a 304 with another strong validator updates nothing", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"|Foo: 1`, want: "origin"},
		{wait: 2 * sec, conf: true, say: `Cache-Control: max-age=60|Etag: "b"|Foo: 2`, anew: `Cache-Control: max-age=1|Etag: "b"|Bar: 3`,
			want: "origin", code: 200, has: `Etag: "b"|Bar: 3`, hasNot: "Foo|Age"},
		{wait: 2 * sec, say: `Cache-Control: max-age=60`, conf: true, want: "origin", code: 200, sent: `If-None-Match: "b"`}, {want: "cache", has: `Bar: 3`, hasNot: "Foo"}}},
	{section: "9111 §4.3.4", says: "a 304 with another weak validator updates nothing", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: W/"a"|Foo: 1`, want: "origin"},
		{wait: 2 * sec, conf: true, say: `Cache-Control: max-age=60|Etag: W/"b"|Foo: 2`, anew: `Cache-Control: max-age=60|Etag: W/"b"`,
			want: "origin", code: 200, has: `Etag: W/"b"`, hasNot: "Foo"},
		{want: "cache", has: `Etag: W/"b"`, hasNot: "Foo"}}},
	{section: "9111 §4.3.4", says: "a 304 with another date and no tag updates nothing", steps: []step{
		{say: `Cache-Control: max-age=1|Last-Modified: {-2h}|Foo: 1`, want: "origin"},
		{wait: 2 * sec, conf: true, say: `Cache-Control: max-age=60|Last-Modified: {-1h}|Foo: 2`, want: "origin", code: 200, has: `Foo: 1`},
		{conf: true, want: "origin", code: 200}}},
	{section: "9111 §4.3.4", says: "a 304 with a tag that the response never had updates nothing", steps: []step{
		{say: `Cache-Control: max-age=1|Last-Modified: {-2h}|Foo: 1`, want: "origin"},
		{wait: 2 * sec, conf: true, say: `Cache-Control: max-age=60|Etag: "b"|Foo: 2`, anew: `Cache-Control: max-age=60|Etag: "b"`,
			want: "origin", code: 200, has: `Etag: "b"`, hasNot: "Foo|Last-Modified"},
		{want: "cache", has: `Etag: "b"`, hasNot: "Foo"}}},
	{section: "9111 §4.3.4", says: "a tag that was weakened for the 200 alone is the same, and stays weak", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: W/"a"|Foo: 1`, want: "origin"},
		{wait: 2 * sec, conf: true, say: `Cache-Control: max-age=60|Etag: "a"|Foo: 2`, want: "origin", code: 200, has: `Etag: W/"a"|Foo: 2`},
		{want: "cache", has: `Etag: W/"a"`, code: 200}}},
	{section: "9111 §4.3.4", says: "two tags are no validator", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"|Foo: 1`, want: "origin"},
		{wait: 2 * sec, conf: true, say: `Cache-Control: max-age=60|Etag: "a"|Etag: "b"|Foo: 2`, anew: `Cache-Control: max-age=60|Etag: "a"`,
			want: "origin", code: 200, has: `Etag: "a"`, hasNot: "Foo"},
		{want: "cache", has: `Etag: "a"`, hasNot: "Foo"}}},
	{section: "9111 §4.3.4", says: "the client's own conditions are not sent with what is asked for anew", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"`, want: "origin"},
		{wait: 2 * sec, ask: `If-None-Match: "b"`, conf: true, say: `Cache-Control: max-age=60|Etag: "b"`, anew: `Cache-Control: max-age=60|Etag: "b"`, want: "origin", code: 304},
		{want: "cache", has: `Etag: "b"`, code: 200}}},
	{section: "9111 §5.1", says: "what the origin has just confirmed has no Age", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"`, want: "origin"}, {wait: 5 * sec, conf: true, say: "Cache-Control: max-age=60", want: "origin", code: 200, hasNot: "Age"},
		{wait: 5 * sec, want: "cache", code: 200, has: "Age: 5"}}},
	{section: "9111 §5.1", says: "what a cache before this one has confirmed has its Age", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"`, want: "origin"}, {wait: 5 * sec, conf: true, say: "Cache-Control: max-age=60|Age: 7", want: "origin", code: 200, has: "Age: 7"}}},
	{section: "9211 §2.2", says: "a HEAD says why it was forwarded", steps: []step{
		{method: "HEAD", want: "origin", has: "Cache-Status: Spillway; fwd=uri-miss"},
		{ask: "Foo: 1", say: "Cache-Control: max-age=1|Vary: Foo", want: "origin"},
		{method: "HEAD", ask: "Foo: 2", want: "origin", has: "Cache-Status: Spillway; fwd=vary-miss"},
		{method: "HEAD", ask: "Foo: 1|Cache-Control: no-cache", want: "origin", has: "Cache-Status: Spillway; fwd=request"},
		{wait: 2 * sec, method: "HEAD", ask: "Foo: 1", want: "origin", has: "Cache-Status: Spillway; fwd=stale"}}},
	{section: "9111 §4.3.4", says: "a 304 without a validator updates what was asked about", steps: []step{
		{say: `Cache-Control: max-age=1|Last-Modified: {-1h}|Foo: 1`, want: "origin"},
		{wait: 2 * sec, conf: true, say: `Cache-Control: max-age=60|Foo: 2`, want: "origin", code: 200}, {want: "cache", has: "Foo: 2", code: 200}}},
	{section: "9111 §4.3.5", says: "HEAD is answered from GET", steps: []step{
		{say: `Cache-Control: max-age=60|Foo: 1`, want: "origin"}, {method: "HEAD", want: "cache", has: "Foo: 1|Content-Length: 6"}}},
	{section: "9111 §4.3.5", says: "HEAD updates the answer to GET", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"|Foo: 1|Bar: 1`, want: "origin"},
		{wait: 2 * sec, method: "HEAD", say: `Cache-Control: max-age=60|Etag: "a"|Foo: 2`, want: "origin"}, {want: "cache", has: "Foo: 2|Bar: 1"}}},
	{section: "9111 §4.3.5", says: "HEAD with another validator makes the answer to GET stale", steps: []step{
		{say: `Cache-Control: max-age=10|Etag: "a"|Vary: Foo`, want: "origin"},
		{ask: "Cache-Control: no-cache", method: "HEAD", say: `Cache-Control: max-age=60|Etag: "b"`, want: "origin"}, {want: "origin"}}},
	{section: "9111 §4.3.5", says: "HEAD with another length makes the answer to GET stale", steps: []step{
		{say: `Cache-Control: max-age=10`, want: "origin"},
		{ask: "Cache-Control: no-cache", method: "HEAD", say: `Cache-Control: max-age=60|Content-Length: 99`, want: "origin"}, {want: "origin"}}},
	{section: "9111 §4.4", says: "an unsafe method invalidates its target", steps: []step{
		{say: `Cache-Control: max-age=60`, want: "origin"}, {method: "POST", want: "origin"}, {want: "origin"}}},
	{section: "9111 §4.4", says: "a method nobody knows does too", steps: []step{
		{say: `Cache-Control: max-age=60`, want: "origin"}, {method: "M-SEARCH", status: 302, want: "origin"}, {want: "origin"}}},
	{section: "9111 §4.4", says: "an error does not", steps: []step{
		{say: `Cache-Control: max-age=60`, want: "origin"}, {method: "DELETE", status: 500, want: "origin"}, {want: "cache", code: 200}}},
	{section: "9111 §4.4", says: "Location and Content-Location of the same origin are invalidated", steps: []step{
		{path: "/a", say: `Cache-Control: max-age=60`, want: "origin"}, {path: "/b", say: `Cache-Control: max-age=60`, want: "origin"},
		{method: "PUT", say: "Location: /page/a|Content-Location: http://EXAMPLE.com:80/page/b", want: "origin"},
		{path: "/a", want: "origin"}, {path: "/b", want: "origin"}}},
	{section: "9111 §4.4", says: "those of another origin are not", steps: []step{
		{path: "/a", say: `Cache-Control: max-age=60`, want: "origin"},
		{method: "PUT", say: "Location: http://other.example/page/a|Content-Location: https://example.com/page/a", want: "origin"}, {path: "/a", want: "cache"}}},

	{section: "9111 §5.1", says: "of several ages the first counts", steps: two("Cache-Control: max-age=60|Age: 0, 70", "cache")},
	{section: "9111 §5.1", says: "of several Age lines the first counts", steps: two("Cache-Control: max-age=60|Age: 70|Age: 0", "origin")},
	{section: "9111 §5.1", says: "an Age that is not a number is ignored", steps: two("Cache-Control: max-age=60|Age: -70", "cache")},
	{section: "9111 §5.1", says: "an Age that is a float is ignored", steps: two("Cache-Control: max-age=60|Age: 70.0", "cache")},
	{section: "9111 §5.1", says: "a huge Age makes it stale", steps: two("Cache-Control: max-age=60|Age: 99999999999999999999999", "origin")},
	{section: "9111 §1.2.2", says: "a huge max-age is 68 years", steps: []step{
		{say: "Cache-Control: max-age=99999999999999999999", want: "origin"}, {wait: 24 * 365 * 60 * hour, want: "cache"}, {wait: 24 * 365 * 9 * hour, want: "origin"}}},
	{section: "9111 §5.2", says: "directives have no case", steps: two("Cache-Control: MaX-AgE=60", "cache")},
	{section: "9111 §5.2", says: "a quoted value is as good", steps: two(`Cache-Control: max-age="60"`, "cache")},
	{section: "9111 §5.2", says: "single quotes are not quotes", steps: two(`Cache-Control: max-age='60'`, "origin")},
	{section: "9111 §5.2", says: "a directive inside a string is none", steps: two(`Cache-Control: ext="max-age=60, \"no-store", max-age=0`, "origin")},
	{section: "9111 §5.2", says: "a string may hold a comma", steps: two(`Cache-Control: ext="a, no-store", max-age=60`, "cache")},
	{section: "9111 §5.2", says: "white space around the equals sign is malformed", steps: two(`Cache-Control: max-age = 60`, "origin")},
	{section: "9111 §5.2", says: "leading zeros make no difference", steps: two(`Cache-Control: max-age=0060`, "cache")},
	{section: "9111 §5.2", says: "directives may come on several lines, empty members between", steps: two(`Cache-Control: ,,foo,|Cache-Control: , max-age=60 ,`, "cache")},
	{section: "9111 §5.2", says: "what restricts holds in any spelling", steps: two(`Cache-Control: max-age=60, No-Store=1`, "origin")},
	{section: "9111 §5.2.1.1", says: "request max-age refuses what is older", steps: []step{
		{say: "Cache-Control: max-age=60|Age: 20", want: "origin"}, {ask: "Cache-Control: max-age=10", want: "origin"}}},
	{section: "9111 §5.2.1.1", says: "request max-age takes what is younger", steps: []step{
		{say: "Cache-Control: max-age=60", want: "origin"}, {wait: 9 * sec, ask: "Cache-Control: max-age=10", want: "cache"}}},
	{section: "9111 §5.2.1.2", says: "max-stale takes what is stale", steps: []step{
		{say: "Cache-Control: max-age=1", want: "origin"}, {wait: 9 * sec, ask: "Cache-Control: max-stale=10", want: "cache"},
		{ask: "Cache-Control: max-stale", want: "cache"}, {ask: "Cache-Control: max-stale=5", want: "origin"}}},
	{section: "9111 §5.2.1.2", says: "max-stale does not go over must-revalidate", steps: []step{
		{say: "Cache-Control: max-age=1, must-revalidate", want: "origin"}, {wait: 2 * sec, ask: "Cache-Control: max-stale", want: "origin"}}},
	{section: "9111 §5.2.1.3", says: "min-fresh wants some freshness left", steps: []step{
		{say: "Cache-Control: max-age=60", want: "origin"}, {ask: "Cache-Control: min-fresh=50", want: "cache"},
		{wait: 20 * sec, ask: "Cache-Control: min-fresh=50", want: "origin"}}},
	{section: "9111 §5.2.1.4", says: "request no-cache validates", steps: []step{
		{say: `Cache-Control: max-age=60|Etag: "a"`, want: "origin"}, {ask: "Cache-Control: no-cache", conf: true, want: "origin", code: 200}}},
	{section: "9111 §5.2.1.5", says: "request no-store stores nothing", steps: []step{
		{ask: "Cache-Control: no-store", say: "Cache-Control: max-age=60", want: "origin"}, {want: "origin"}}},
	{section: "9111 §5.2.1.7", says: "only-if-cached does not ask the origin", steps: []step{
		{ask: "Cache-Control: only-if-cached", want: "cache", code: 504, hasNot: "Cache-Status"},
		{say: "Cache-Control: max-age=60", want: "origin"}, {ask: "Cache-Control: only-if-cached", want: "cache", code: 200}}},
	{section: "9111 §5.2.2.2", says: "must-revalidate is fresh while it is fresh", steps: two("Cache-Control: max-age=60, must-revalidate", "cache")},
	{section: "9111 §5.2.2.3", says: "must-understand needs a status that is understood", steps: []step{
		{status: 599, say: "Cache-Control: max-age=60, must-understand", want: "origin"}, {want: "origin"}}},
	{section: "9111 §5.2.2.3", says: "must-understand goes before no-store", steps: two("Cache-Control: max-age=60, must-understand, no-store", "cache")},
	{section: "9111 §5.2.2.4", says: "no-cache validates each time", steps: []step{
		{say: `Cache-Control: max-age=60, no-cache|Etag: "a"`, want: "origin"}, {conf: true, want: "origin", code: 200}}},
	{section: "9111 §5.2.2.4", says: "no-cache without a validator is not worth storing", steps: two("Cache-Control: max-age=60, no-cache", "origin")},
	{section: "9111 §5.2.2.4", says: "no-cache with names holds back those fields", steps: []step{
		{say: `Cache-Control: max-age=60, no-cache="a, B"|A: 1|B: 2|C: 3`, want: "origin", has: "A: 1"},
		{want: "cache", has: "C: 3", hasNot: "A|B"}}},
	{section: "9111 §5.2.2.7", says: "private with names holds back those fields", steps: []step{
		{say: `Cache-Control: max-age=60, private="a"|A: 1|C: 3`, want: "origin"}, {want: "cache", has: "C: 3", hasNot: "A"}}},
	{section: "9111 §5.2.2.7", says: "a private cache keeps them", private: true, steps: []step{
		{say: `Cache-Control: max-age=60, private="a"|A: 1`, want: "origin"}, {want: "cache", has: "A: 1"}}},
	{section: "9111 §5.2.3", says: "a directive nobody knows is ignored", steps: two("Cache-Control: foo, bar=1, max-age=60", "cache")},
	{section: "9111 §5.3", says: "an Expires that is no date is in the past", steps: two("Expires: 0|Last-Modified: {-24h}", "origin")},
	{section: "9111 §5.3", says: "RFC 850 dates count", steps: two("Expires: Thursday, 18-Aug-44 02:01:18 GMT", "cache")},
	{section: "9111 §5.3", says: "asctime dates count", steps: two("Expires: Thu Aug  8 02:01:18 2044", "cache")},
	{section: "9111 §4.2", says: "dates have no case", steps: two("Expires: THU, 18 AUG 2044 02:01:18 gMT", "cache")},
	{section: "9111 §4.2", says: "a zone that is not GMT is invalid", steps: two("Expires: Thu, 18 Aug 2044 02:01:18 UTC", "origin")},
	{section: "9110 §5.6.7", says: "a day of asctime may have a zero", steps: two("Expires: Mon Aug 08 02:01:18 2044", "cache")},
	{section: "9110 §5.6.7", says: "a leap second is a second", steps: two("Expires: Sat, 31 Dec 2044 23:59:60 GMT", "cache")},
	{section: "9111 §5.3", says: "a date with two spaces is invalid", steps: two("Expires: Thu, 18  Aug  2044 02:01:18 GMT", "origin")},
	{section: "9111 §5.3", says: "a date whose hour has one digit is invalid", steps: two("Expires: Thu, 18 Aug 2044 2:01:18 GMT", "origin")},
	{section: "9111 §5.3", says: "a date with both is invalid", steps: two("Expires: Thu, 18 Aug  2044 2:01:18 GMT", "origin")},
	{section: "9111 §5.3", says: "a date with a fraction is invalid", steps: two("Expires: Thu, 18 Aug 2044 02:01:18.5 GMT", "origin")},
	{section: "9111 §5.3", says: "a date without its comma is invalid", steps: two("Expires: Thu 18 Aug 2044 02:01:18 GMT", "origin")},
	{section: "9111 §5.3", says: "a date with dashes and four digits is invalid", steps: two("Expires: Thu, 18-Aug-2044 02:01:18 GMT", "origin")},
	{section: "9111 §5.3", says: "a date whose year has two digits is invalid", steps: two("Expires: Thu, 18 Aug 44 02:01:18 GMT", "origin")},
	{section: "9111 §5.3", says: "a date with periods is invalid", steps: two("Expires: Thu, 18 Aug 2044 02.01.18 GMT", "origin")},
	{section: "9111 §5.3", says: "two dates that differ are invalid", steps: two("Expires: {1h}|Expires: {2h}", "origin")},
	{section: "9111 §5.4", says: "Pragma counts without Cache-Control", steps: []step{
		{say: `Cache-Control: max-age=60`, want: "origin"}, {ask: "Pragma: no-cache", say: `Cache-Control: max-age=60`, want: "origin"},
		{say: "Cache-Control: max-age=60", ask: "Pragma: no-cache|Cache-Control: foo", want: "cache"}}},
	{section: "9111 §5.4", says: "Pragma in a response says nothing", steps: two("Cache-Control: max-age=60|Pragma: no-cache", "cache")},

	{section: "5861 §3", says: "stale-while-revalidate ends", steps: []step{
		{say: "Cache-Control: max-age=1, stale-while-revalidate=5", want: "origin"}, {wait: 10 * sec, want: "origin"}}},
	{section: "5861 §4", says: "stale-if-error stands in for an error", steps: []step{
		{say: "Cache-Control: max-age=1, stale-if-error=5", want: "origin"},
		{wait: 3 * sec, status: 502, want: "origin", code: 200, has: "Age: 3"}, {wait: 5 * sec, status: 502, want: "origin", code: 502}}},
	{section: "5861 §4", says: "stale-if-error is not for what the client forbids", steps: []step{
		{say: "Cache-Control: max-age=1, stale-if-error=5", want: "origin"},
		{wait: 3 * sec, ask: "Cache-Control: no-cache", status: 502, want: "origin", code: 502}}},
	{section: "5861 §4", says: "an explicit stale-if-error goes with s-maxage", steps: []step{
		{say: "Cache-Control: s-maxage=1, stale-if-error=5", want: "origin"}, {wait: 3 * sec, status: 502, want: "origin", code: 200}}},
}
