package cache_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// givenLives are the ways to give a life to what says nothing.
var givenLives = map[string]cache.Config{
	"TTL":   {TTL: time.Hour},
	"TTLOf": {TTLOf: func(int, http.Header) time.Duration { return time.Hour }},
}

// personal answers each user with his own page, and says nothing about caches
// but what header has.
func personal(header ...string) *origin {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("for "+r.Header.Get("Cookie")))
	}
	return o
}

func TestNoTTLMakesAUsersPageAnothers(t *testing.T) {
	for name, cfg := range givenLives {
		t.Run(name, func(t *testing.T) {
			for _, header := range [][]string{nil, {"Etag", `"1"`}, {"Cache-Control", "must-revalidate"}, {"Last-Modified", "Mon, 01 Jan 2001 00:00:00 GMT"}} {
				c := cache.MustNew(cfg)
				h := c.Handler(personal(header...))
				for range 3 { // before and after it is known that they can't be shared
					for _, user := range []string{"alice", "bob"} {
						w := get(h, page, "Cookie", user)
						require.Equal(t, "for "+user, w.Body.String())
						require.Contains(t, status(w), "detail=cookie", header)
						require.Equal(t, 206, get(h, page, "Cookie", user, "Range", "bytes=0-4").Code)
					}
				}
				require.Zero(t, c.Stats().Entries)
				require.Equal(t, "for ", get(h, page).Body.String())
				require.Contains(t, status(get(h, page)), "hit", "what nobody's cookie has made")
				require.Contains(t, status(get(h, page, "Cookie", "alice")), "hit", "is for everybody")
			}
		})
	}
}

func TestTheAnswerToACookieIsKeptIfItSaysSo(t *testing.T) {
	for name, cfg := range givenLives {
		for _, says := range []string{"public", "max-age=60", "s-maxage=60"} {
			h := cache.MustNew(cfg).Handler(newOrigin("Cache-Control", says))
			get(h, page, "Cookie", "alice")
			require.Contains(t, status(get(h, page, "Cookie", "bob")), "hit", "%s, %s", name, says)
		}
	}
}

func TestATTLCountsForTheCookieOfAPrivateCache(t *testing.T) {
	for _, shared := range []bool{false, true} {
		o := newOrigin()
		c := cache.MustNew(cache.Config{TTL: time.Hour, Shared: shared})
		rt := c.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
			o.calls.Add(1)
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("page"))}, nil
		}))
		for range 2 {
			r, err := http.NewRequest("GET", page, nil)
			require.NoError(t, err)
			r.Header.Set("Cookie", "alice")
			resp, err := rt.RoundTrip(r)
			require.NoError(t, err)
			_, err = io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		require.EqualValues(t, map[bool]int{false: 1, true: 2}[shared], o.calls.Load(), "shared: %v", shared)
	}
}

func TestUsersWhoWaitTogetherGetTheirOwnPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := personal()
		h := cache.MustNew(cache.Config{TTL: time.Hour}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			o.ServeHTTP(w, r)
		}))
		var group sync.WaitGroup
		for i := range 5 {
			user := fmt.Sprint("user", i)
			group.Go(func() { require.Equal(t, "for "+user, get(h, page, "Cookie", user).Body.String()) })
		}
		group.Wait()
	})
}

// What revalidates a response that everybody may have with a user's cookie says
// nothing about it to the others: no 304, no HEAD, no rest of a part.
func TestWhatACookieConfirmsIsForItsUserAlone(t *testing.T) {
	for name, cfg := range map[string]cache.Config{
		"TTL":   {TTL: time.Minute},
		"TTLOf": {TTLOf: func(int, http.Header) time.Duration { return time.Minute }},
		"guess": {},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			for _, says := range []string{"", "public", "max-age=60"} {
				t.Run(fmt.Sprint(name, method, says), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						o, modified := newOrigin(), time.Now().Add(-10*time.Minute).UTC().Format(http.TimeFormat)
						o.serve = func(w http.ResponseWriter, r *http.Request) {
							w.Header().Set("Etag", `"1"`)
							w.Header().Set("Last-Modified", modified)
							if says != "" {
								w.Header().Set("Cache-Control", says)
							}
							if user := r.Header.Get("Cookie"); user != "" {
								w.Header().Set("X-User", user)
							}
							if r.Method == "GET" && r.Header.Get("If-None-Match") != "" {
								w.WriteHeader(http.StatusNotModified)
							}
						}
						h := cache.MustNew(cfg).Handler(o)
						get(h, page)
						time.Sleep(2 * time.Minute)
						require.Equal(t, "alice", do(h, method, page, "Cookie", "alice").Header().Get("X-User"), "her own answer")
						w := get(h, page)
						if says == "" {
							require.Contains(t, status(w), "fwd=stale")
							require.Empty(t, w.Header().Get("X-User"))
						} else {
							require.Contains(t, status(w), "hit")
						}
					})
				})
			}
		}
	}
}

func TestTheRestThatACookieBringsCompletesNothing(t *testing.T) {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"1"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("01234"+(r.Header.Get("Cookie") + "56789")[:5]))
	}
	h := cache.MustNew(cache.Config{TTL: time.Hour}).Handler(o)
	require.Equal(t, "01234", get(h, page, "Range", "bytes=0-4").Body.String())
	require.Equal(t, "01234alice", get(h, page, "Cookie", "alice").Body.String())
	require.Equal(t, "0123456789", get(h, page).Body.String())
}

func TestARefreshWithACookieStoresNoUsersPage(t *testing.T) {
	for name, cfg := range givenLives {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := cfg
				cfg.StaleWhileRevalidate = time.Hour
				c := cache.MustNew(cfg)
				defer c.Close()
				o := personal()
				h := c.Handler(o)
				get(h, page)
				time.Sleep(time.Hour + time.Minute)
				require.Equal(t, "for ", get(h, page, "Cookie", "alice").Body.String(), "what is stale is for everybody")
				synctest.Wait()
				require.EqualValues(t, 2, o.calls.Load(), "in the background")
				require.Equal(t, "for bob", get(h, page, "Cookie", "bob").Body.String())
				require.Equal(t, "for ", get(h, page).Body.String())
			})
		})
	}
}

func TestTheAnswerToAPOSTWithACookieIsNotKeptForOthers(t *testing.T) {
	for name, cfg := range givenLives {
		c := cache.MustNew(cfg)
		h := c.Handler(personal("Content-Location", page))
		require.Equal(t, "for alice", do(h, "POST", page, "Cookie", "alice").Body.String())
		require.Zero(t, c.Stats().Entries, name)
		require.Equal(t, "for bob", get(h, page, "Cookie", "bob").Body.String())
	}
}
