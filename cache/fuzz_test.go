package cache

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func FuzzCacheControl(f *testing.F) {
	for _, s := range []string{"max-age=60", `no-cache="a, b", private`, `x="a\"b,no-store", max-age="1"`, `="`, "max-age=99999999999999999999", ",,a,=b", `a="unterminated, no-store`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := 0
		eachDirective([]string{s}, func(name, value string, form directiveForm) {
			n++
			require.Equal(t, strings.ToLower(name), lowerASCII(strings.ToLower(name)))
			require.NotContains(t, name, ",")
			if form == formBare {
				require.Empty(t, value)
			}
			if form != formMalformed {
				require.True(t, isToken(name))
			}
		})
		require.LessOrEqual(t, n, len(s))
		d := responseDirectives(http.Header{"Cache-Control": {s}}, nil)
		for _, v := range []delta{d.maxAge, d.sMaxAge, d.staleIfEr, d.staleWhileRevalidate} {
			require.True(t, v.value() >= 0 && v.value() <= maxDelta)
		}
		// Whatever comes before it, a restriction on a line of its own holds.
		after := responseDirectives(http.Header{"Cache-Control": {s, "no-store"}}, nil)
		require.True(t, after.noStore)
		r := parseRequestDirectives([]string{s})
		require.True(t, r.maxAge >= -1 && r.minFresh >= -1 && r.maxStale >= -1)
	})
}

func FuzzTargetedField(f *testing.F) {
	for _, s := range []string{"max-age=60", "a, b;c=1", `a="x\"y"`, "a=(1 2);b", "a=:YQ==:", "a=?0", "a=@1", `a=%"x"`, "a=1.5", "a, &&", "a,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		members, ok := parseDictionary([]string{s})
		if !ok {
			require.Empty(t, members)
			return
		}
		seen := map[string]bool{}
		for _, m := range members {
			require.False(t, seen[m.key])
			seen[m.key] = true
			require.True(t, isLower(m.key[0]) || m.key[0] == '*')
		}
		// What is valid stays valid, and means the same, with another member.
		if len(members) > 0 {
			more, ok := parseDictionary([]string{s, "zzz-last"})
			require.True(t, ok)
			if !seen["zzz-last"] {
				require.Equal(t, append(members, sfMember{key: "zzz-last"}), more)
			}
		}
	})
}

func FuzzDate(f *testing.F) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for _, s := range []string{now.Format(http.TimeFormat), "Thursday, 18-Aug-50 02:01:18 GMT", "Thu Aug  8 02:01:18 2050", "Thu, 18 Aug 2050 02:01:18 gmt", "0", "-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := parseDate(s, now)
		if !ok {
			require.True(t, d.IsZero())
			return
		}
		require.Equal(t, time.UTC, d.Location())
		if strings.Contains(s, "-") {
			require.False(t, d.After(now.AddDate(51, 0, 0)), "a two-digit year is at most 50 years ahead")
		}
		again, ok := parseDate(d.Format(http.TimeFormat), now)
		if d.Year() >= 1 && d.Year() <= 9999 {
			require.True(t, ok)
			require.True(t, again.Equal(d))
		}
	})
}

func FuzzAge(f *testing.F) {
	for _, s := range []string{"0", "12, 13", "-1", "1.0", "99999999999999999999", " 7 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		age := parseAge([]string{s})
		require.True(t, age >= 0 && age <= maxDelta)
		require.Zero(t, age%time.Second)
	})
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-1", "bytes=-5", "bytes=5-", "bytes=0-0,-1", "bytes=9-1", "bytes=99999999999999999999-", "bytes=,", "lines=1-2"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, s string, size int64) {
		if size < 0 {
			return
		}
		ranges, ok := parseRanges([]string{s}, size)
		require.LessOrEqual(t, len(ranges), maxRanges)
		require.True(t, ok || len(ranges) == 0)
		sum := int64(0)
		for _, r := range ranges {
			require.True(t, r.start >= 0 && r.n >= 0 && r.start+r.n <= size, "%v of %d", r, size)
			sum += r.n
		}
		require.LessOrEqual(t, sum, size)
		if len(ranges) == 1 && ranges[0].n > 0 {
			start, end, total, ok := parseContentRange([]string{ranges[0].contentRange(size)})
			require.True(t, ok)
			require.Equal(t, []int64{ranges[0].start, ranges[0].start + ranges[0].n - 1, size}, []int64{start, end, total})
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-1/2", "bytes 0-1/*", "bytes */2", "bytes 1-0/2", "bytes 0-99999999999999999999/5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if start, end, total, ok := parseContentRange([]string{s}); ok {
			require.True(t, 0 <= start && start <= end && (total == -1 || end < total))
		}
	})
}

func FuzzVary(f *testing.F) {
	f.Add("Foo, bar", "a, b", "b,a")
	f.Add("*", "", "")
	f.Add("Accept-Language", "en;q=0.5, de", "de, en;q=0.5")
	f.Fuzz(func(t *testing.T, vary, a, b string) {
		names, any := varyNames([]string{vary})
		for i, name := range names {
			require.True(t, isToken(name))
			require.True(t, i == 0 || names[i-1] < name)
		}
		if strings.Contains(","+strings.ReplaceAll(vary, " ", "")+",", ",*,") {
			require.True(t, any)
		}
		// A request always matches the response that was made for it, and
		// matching goes both ways.
		n := normalizers{}
		h := func(v string) http.Header {
			h := http.Header{}
			for _, name := range names {
				h[name] = []string{v}
			}
			return h
		}
		ea, eb := &entry{vary: n.varyOf(names, h(a))}, &entry{vary: n.varyOf(names, h(b))}
		require.True(t, n.matches(ea, h(a)))
		require.Equal(t, n.matches(ea, h(b)), n.matches(eb, h(a)))
	})
}

func FuzzIfNoneMatch(f *testing.F) {
	f.Add(`"a", W/"b"`, `"b"`)
	f.Add(`*`, `"b"`)
	f.Add(`a"b`, `a`)
	f.Fuzz(func(t *testing.T, s, tag string) {
		matchesTag([]string{s}, tag)
		if strongTag(tag) && !strings.Contains(tag[1:len(tag)-1], `"`) {
			require.True(t, matchesTag([]string{tag}, tag))
			require.True(t, matchesTag([]string{`"x", W/` + tag}, tag))
			require.False(t, matchesTag([]string{`"` + tag[1:len(tag)-1] + `+"`}, tag))
		}
	})
}

func FuzzKey(f *testing.F) {
	f.Add("/a?b=1", "/a?b=2", "host", "x")
	f.Add("/%61", "/a", "HOST:80", "")
	f.Add("/", "A:", "0", "0")
	f.Add("/", "A:b?c", "0", "0")
	f.Fuzz(func(t *testing.T, a, b, host, guard string) {
		ua, err1 := url.ParseRequestURI(a)
		ub, err2 := url.ParseRequestURI(b)
		if err1 != nil || err2 != nil || ua.Host != "" || ub.Host != "" {
			return
		}
		var m keyMaker
		key := func(u *url.URL, guard string) string {
			r := &http.Request{Method: "GET", URL: u, Host: host, Header: http.Header{"X-Forwarded-Host": {guard}}}
			var l lookup
			l.read(r, false)
			return string(m.appendKey(nil, r, realmHandler, &l.guard))
		}
		for _, u := range []*url.URL{ua, ub} {
			var l lookup
			l.read(&http.Request{Method: "GET", URL: u}, false)
			require.Equal(t, u.Opaque != "", l.bypass == reasonMalformed, "what has no path gets no key")
		}
		// Two targets have the same key only if an origin can't tell them
		// apart.
		path := func(u *url.URL) string { // an empty one is "/" (RFC 9110 §4.2.3)
			return cmp.Or(u.EscapedPath(), "/")
		}
		if key(ua, "") == key(ub, "") && ua.Opaque == "" && ub.Opaque == "" {
			require.Equal(t, path(ua), path(ub))
			require.Equal(t, ua.RawQuery, ub.RawQuery)
		}
		require.Equal(t, guard == "", key(ua, "") == key(ua, guard))
	})
}

func FuzzEntry(f *testing.F) {
	c, err := New(Config{})
	require.NoError(f, err)
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "Foo")
		w.Header().Set("Cache-Tag", "a b")
		fmt.Fprint(w, "body")
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://example.com/", nil))
	for _, s := range c.shards {
		for _, e := range s.entries {
			f.Add(encodeEntry(e, c))
		}
	}
	f.Add([]byte(entryMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := c.decodeEntry(b)
		if err != nil {
			return
		}
		again, err := c.decodeEntry(encodeEntry(e, c))
		require.NoError(t, err)
		require.Equal(t, e.header(), again.header())
		require.Equal(t, bytes.Join(e.data, nil), bytes.Join(again.data, nil))
	})
}

func FuzzStatus(f *testing.F) {
	f.Add("Spillway", "stale", "set-cookie")
	f.Add(`my "cache" é`, "uri-miss", "")
	f.Fuzz(func(t *testing.T, name, why, detail string) {
		if !isToken(why) || !isAlpha(why[0]) || detail != "" && (!isToken(detail) || !isAlpha(detail[0])) {
			return // these are ours
		}
		fw := forward{why: why, status: 503, stored: true, collapsed: true, detail: detail}
		for _, line := range []string{fw.line(statusName(name)), statusName(name) + "; hit; ttl=-3"} {
			p := sfParser{s: line} // an Item of RFC 9651
			kind, _, ok := p.bareItem()
			require.True(t, ok && (kind == sfToken || kind == sfString), line)
			require.True(t, p.parameters(), line)
			require.Empty(t, p.s, line)
		}
	})
}
