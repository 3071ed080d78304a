package breaker_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

// Whatever an upstream sends as Retry-After, the circuit is open for at least
// OpenFor and at most MaxRetryAfter.
func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "30", "-1", "1e9", "99999999999999999999", "2147483647", "Sat, 01 Jan 2000 00:01:00 GMT",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", " 30", "30, 60", "0x1e"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, header string, tooMany bool) {
		synctest.Test(t, func(t *testing.T) {
			code := http.StatusServiceUnavailable
			if tooMany {
				code = http.StatusTooManyRequests
			}
			b := breaker.MustNew(steady(breaker.Config{ConsecutiveFailures: 1, Key: breaker.AllTogether}))
			resp := roundTrip(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: code, Header: http.Header{"Retry-After": {header}}, Body: http.NoBody}, nil
			})
			_, err := b.Transport(resp).RoundTrip(get("http://a/"))
			require.NoError(t, err)
			_ = try(b, errDown)
			_ = try(b, errDown)
			left := time.Until(b.Stats().Until)
			require.GreaterOrEqual(t, left, 5*time.Second)
			require.LessOrEqual(t, left, 5*time.Minute)
		})
	})
}

// Whatever a client accepts, a refusal is 503 with a Retry-After, and JSON only
// if it says so.
func FuzzAccept(f *testing.F) {
	for _, s := range []string{"", "*/*", "application/json", "application/json;q=0", ";;;,,,", "application/json;q=", "a/b;q=1;q=0,application/problem+json"} {
		f.Add(s)
	}
	b := breaker.MustNew(breaker.Config{})
	b.ForceOpen(0, "")
	h := b.Handler(status(200))
	f.Fuzz(func(t *testing.T, accept string) {
		r := get("/")
		r.Header.Set("Accept", accept)
		w := serve(h, r)
		require.Equal(t, 503, w.Code)
		require.Equal(t, "60", w.Header().Get("Retry-After"))
		require.Equal(t, w.Header().Get("Content-Type") == "application/problem+json", json.Valid(w.Body.Bytes()))
	})
}

// However a host is written, the key that Transport uses is the one that For
// and ByHost find.
func FuzzHost(f *testing.F) {
	for _, s := range []string{"http://a/", "https://A:443", "http://[::1]:80", "//x", "ftp://a:80", "http://a:80:80", "://", "http://a://b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.Parse(raw)
		if err != nil || u.Scheme == "" || u.Host == "" {
			t.Skip()
		}
		b := breaker.MustNew(breaker.Config{})
		r := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}
		_, err = b.Transport(answer(200, http.NoBody)).RoundTrip(r)
		require.NoError(t, err)
		require.EqualValues(t, 1, b.For(breaker.ByHost(r)).Stats().Succeeded)
		require.Equal(t, 1, b.Stats().Keys)
	})
}
