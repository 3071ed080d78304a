package cache_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// A trailer is kept, and given to others, as far as a header would be.
func TestTrailersOfOneUserAreNotForOthers(t *testing.T) { // RFC 9111 §5.2.2.4, §5.2.2.7, §3.1
	for _, c := range []struct {
		cc      string
		cfg     cache.Config
		private bool // through a Transport that is not shared
		want    []string
	}{
		{cc: "max-age=60", want: []string{"Sum", "User"}},
		{cc: `max-age=60, private="user"`, want: []string{"Sum"}},
		{cc: `max-age=60, no-cache="user"`, want: []string{"Sum"}},
		{cc: `max-age=60, private="user"`, private: true, want: []string{"Sum", "User"}},
		{cc: `max-age=60, no-cache="user"`, private: true, want: []string{"Sum"}},
		{cc: "max-age=60", cfg: cache.Config{SetCookie: cache.CookieKeep}, want: []string{"Set-Cookie", "Sum", "User"}},
	} {
		release := make(chan struct{})
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", c.cc)
			w.Header().Set("Trailer", "Sum, User")
			io.WriteString(w, "body")
			http.NewResponseController(w).Flush()
			<-release
			w.Header().Set("Sum", "42")
			w.Header().Set("User", "ann")
			w.Header().Set(http.TrailerPrefix+"Set-Cookie", "session=1")
		}
		pages := cache.MustNew(c.cfg)
		h := pages.Handler(o)
		client := http.DefaultClient
		if c.private {
			h, client = o, &http.Client{Transport: pages.Transport(nil)}
		}
		server := httptest.NewServer(h)
		var waiting []*http.Response
		for range 2 {
			resp, err := client.Get(server.URL)
			require.NoError(t, err)
			waiting = append(waiting, resp)
		}
		close(release)
		end := func(resp *http.Response) (names []string) {
			_, err := io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			for _, name := range []string{"Set-Cookie", "Sum", "User"} {
				if resp.Trailer.Get(name) != "" {
					names = append(names, name)
				}
			}
			return names
		}
		require.Equal(t, []string{"Set-Cookie", "Sum", "User"}, end(waiting[0]), "%+v: whose they are", c)
		require.Equal(t, c.want, end(waiting[1]), "%+v: who has waited", c)
		resp, err := client.Get(server.URL)
		require.NoError(t, err)
		require.Equal(t, c.want, end(resp), "%+v: who comes later", c)
		require.EqualValues(t, 1, o.calls.Load())
		server.Close()
	}
}

func TestA304TakesTrailersBack(t *testing.T) { // RFC 9111 §3.2
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"a"`)
		if r.Header.Get("If-None-Match") != "" {
			w.Header().Set("Cache-Control", `max-age=60, private="user"`)
			w.WriteHeader(304)
			return
		}
		w.Header().Set("Cache-Control", "max-age=0")
		w.Header().Set("Trailer", "User")
		io.WriteString(w, "body")
		w.Header().Set("User", "ann")
	}
	front, _ := proxied(t, cache.Config{}, o)
	for _, want := range []string{"ann", "", ""} {
		resp, body := fetch(t, newRequest(t, "GET", front))
		require.Equal(t, "body", body)
		require.Equal(t, want, resp.Trailer.Get("User"))
	}
	require.EqualValues(t, 2, o.calls.Load())
}
