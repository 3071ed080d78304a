package degrade_test

import (
	"bytes"
	"context"
	"math"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
)

func TestAnOverrideThatSomebodySawExpireEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{OnChange: func(c degrade.Change) { told = append(told, c.Text) }})
		reviews := sw.Feature("reviews", degrade.Optional)
		require.NoError(t, sw.Set(degrade.Override{Target: "reviews", Author: "ann", Reason: "test", Expires: time.Now().Add(time.Minute)}))
		require.False(t, reviews.Enabled())

		time.Sleep(time.Minute)
		require.Empty(t, sw.Overrides(), "a page is looked at just as it expires")
		require.True(t, reviews.Enabled())
		require.Contains(t, told[len(told)-1], "has expired")
	})
}

func TestAPanicInLongLivedTakesNoSlot(t *testing.T) {
	shed := degrade.MustNew(degrade.Config{Limit: 1, LongLived: func(r *http.Request) bool {
		if r.URL.Path == "/panic" {
			panic("odd request")
		}
		return false
	}})
	h := shed.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for range 3 {
		require.PanicsWithValue(t, "odd request", func() { h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/panic", nil)) })
	}
	require.Zero(t, shed.Stats().InFlight)
}

func TestAHookThatEndsItsGoroutineIsCalledAgain(t *testing.T) {
	calls := 0
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{OnChange: func(degrade.Change) {
		if calls++; calls == 1 {
			runtime.Goexit()
		}
	}})
	sw.Feature("reviews", degrade.Optional)
	set := func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = sw.Set(degrade.Override{Target: "reviews", Author: "ann", Reason: "test", Expires: time.Now().Add(time.Minute)})
		}()
		<-done
	}
	set()
	set()
	require.Equal(t, 2, calls)
}

func TestASwitchInsideAnotherLeavesItsPinnedFeaturesAlone(t *testing.T) {
	outer, inner := degrade.MustNewSwitch(degrade.SwitchConfig{}), degrade.MustNewSwitch(degrade.SwitchConfig{})
	reviews, stars := outer.Feature("reviews", degrade.Optional), inner.Feature("stars", degrade.Optional)
	off := func(sw *degrade.Switch, target string) {
		require.NoError(t, sw.Set(degrade.Override{Target: target, Author: "ann", Reason: "test", Expires: time.Now().Add(time.Minute)}))
	}
	h := outer.Handler(inner.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context()) // as a handler would
		defer cancel()
		require.True(t, reviews.EnabledFor(ctx))
		off(outer, "reviews")
		off(inner, "stars")
		require.True(t, reviews.EnabledFor(ctx), "a request sees one state of the switch")
		require.True(t, stars.EnabledFor(ctx))
	})))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))

	// What is off is known, and told, whichever handler is further in.
	w := httptest.NewRecorder()
	outer.Handler(inner.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		require.False(t, reviews.EnabledFor(r.Context()))
	}))).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, "reviews", w.Header().Get(degrade.DegradedHeader))
}

func TestASwitchAroundItselfPinsOnce(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	reviews := sw.Feature("reviews", degrade.Optional)
	route := sw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		require.True(t, reviews.EnabledFor(r.Context()), "it was on when the request came")
	}))
	sw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.NoError(t, sw.Set(degrade.Override{Target: "level", Level: degrade.Minimal, Author: "ann", Reason: "test", Expires: time.Now().Add(time.Minute)}))
		route.ServeHTTP(w, r)
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}

type noAnswer struct{}

func (noAnswer) RoundTrip(*http.Request) (*http.Response, error) { return nil, nil }

func TestARoundTripperWithoutAnAnswerDoesNotPanic(t *testing.T) {
	client := &http.Client{Transport: degrade.MustNew(degrade.Config{}).Transport(noAnswer{})}
	_, err := client.Get("http://b.test") //nolint:bodyclose // there is none
	require.ErrorContains(t, err, "nil *Response")
}

func TestAStrangersPriorityIsNotPassedOn(t *testing.T) {
	for name, trust := range map[string]func(*http.Request) bool{
		"nobody": nil, "others": func(*http.Request) bool { return false },
	} {
		t.Run(name, func(t *testing.T) {
			var got http.Header
			gateway := degrade.MustNew(degrade.Config{Trust: trust}).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				got = r.Header // what a reverse proxy copies
			}))
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set(degrade.PriorityHeader, "critical")
			r.Header.Set(degrade.TimeoutHeader, "1")
			gateway.ServeHTTP(httptest.NewRecorder(), r)
			require.Empty(t, got)
			require.Len(t, r.Header, 2, "for whoever stands in front it is as it was")
		})
	}
}

// The changes that wait for it are bounded, and the requests that would have told it
// more go on.
func TestAHookThatHangsHoldsUpOneRequestAndBoundedMemory(t *testing.T) {
	const bound = 4096
	hung := func() (hook func(degrade.Change), told *[]string, release func()) {
		told, free := new([]string), make(chan struct{})
		return func(c degrade.Change) { <-free; *told = append(*told, c.Text) }, told, func() { close(free) }
	}
	missed := func(collect func(func(name, help, kind string, value float64, labels ...string)), metric string) (n uint64) {
		collect(func(name, _, _ string, value float64, _ ...string) {
			if name == metric {
				n = uint64(value)
			}
		})
		return n
	}
	t.Run("switch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hook, told, release := hung()
			sw := degrade.MustNewSwitch(degrade.SwitchConfig{OnChange: hook})
			set := func(n int) {
				require.NoError(t, sw.Set(degrade.Override{Target: "level", Author: "ann", Reason: strconv.Itoa(n), Expires: time.Now().Add(time.Hour)}))
			}
			go set(0)
			synctest.Wait()
			for n := range bound + 100 {
				set(n + 1)
			}
			require.Equal(t, uint64(100), sw.Stats().HookMissed)
			require.Equal(t, uint64(100), missed(sw.Collect, "spillway_degrade_switch_hook_missed_total"))
			release()
			synctest.Wait()
			require.Len(t, *told, 1+bound)
			for n, text := range *told {
				require.Regexp(t, ": "+strconv.Itoa(n)+"$", text, "in order")
			}
			set(-1)
			require.Len(t, *told, 2+bound, "told again")
		})
	})
	t.Run("shedder", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hook, told, release := hung()
			shed := degrade.MustNew(degrade.Config{Limit: 1, MaxWait: -1, OnChange: hook})
			_, err := shed.Acquire(t.Context(), degrade.Normal)
			require.NoError(t, err)
			refused := func() {
				_, err := shed.Acquire(t.Context(), degrade.Normal)
				require.ErrorIs(t, err, degrade.ErrRefused)
			}
			go refused()
			for range bound + 100 {
				time.Sleep(10 * time.Second) // long enough for refusing to be over
				refused()
			}
			require.Equal(t, uint64(100), shed.Stats().HookMissed)
			require.Equal(t, uint64(100), missed(shed.Collect, "spillway_degrade_hook_missed_total"))
			release()
			synctest.Wait()
			require.Len(t, *told, 1+bound)
		})
	})
}

func TestAStrangersPriorityIsNotPassedOnFromAnExemptRequestEither(t *testing.T) {
	var got http.Header
	h := degrade.MustNew(degrade.Config{Exempt: func(*http.Request) bool { return true }}).Handler(http.HandlerFunc(
		func(_ http.ResponseWriter, r *http.Request) { got = r.Header },
	))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set(degrade.PriorityHeader, "critical")
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Empty(t, got)
}

func TestAFallbackThatPanicsMarksNothing(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	reviews := sw.Feature("reviews", degrade.Optional)
	require.NoError(t, sw.Set(override("reviews", 0)))
	w := httptest.NewRecorder()
	func() { // such as recovers a panic and answers 500
		defer func() { _ = recover(); w.WriteHeader(500) }()
		reviews.Handler(nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") })).
			ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	}()
	require.Empty(t, w.Result().Header, "a failure that may be kept for ten seconds")
	require.Zero(t, sw.Stats().Degraded)
}

func TestAFailureAfterAFlushThatCouldNotBeIsNotKept(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	reviews, search := sw.Feature("reviews", degrade.Optional), sw.Feature("search", degrade.Optional)
	require.NoError(t, sw.Set(override("level", degrade.Minimal)))
	w := httptest.NewRecorder()
	sw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.False(t, reviews.EnabledFor(r.Context()))
		require.ErrorIs(t, http.NewResponseController(w).Flush(), http.ErrNotSupported)
		require.False(t, search.EnabledFor(r.Context()))
		w.WriteHeader(http.StatusInternalServerError)
	})).ServeHTTP(struct{ http.ResponseWriter }{w}, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.Equal(t, "reviews, search", w.Header().Get(degrade.DegradedHeader))
	require.Equal(t, uint64(1), sw.Stats().Degraded)
}

func TestTheKeysOfAnOverrideAreCopied(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{Key: func(*http.Request) string { return "bob" }})
	reviews := sw.Feature("reviews", degrade.Optional)
	o := override("reviews", 0)
	o.Keys = []string{"ann"}
	require.NoError(t, sw.Set(o))
	o.Keys[0] = "bob"
	sw.Overrides()[0].Keys[0] = "bob"
	get(sw.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		require.False(t, reviews.EnabledFor(r.Context()))
	})))
}

func TestAFixedLimitIsNotBoundAndAFoundOneIs(t *testing.T) {
	shed := degrade.MustNew(degrade.Config{MinLimit: 10, MaxLimit: 20})
	for _, c := range [][2]int{{100, 100}, {0, 20}, {3, 3}, {0, 10}, {15, 15}, {0, 15}} {
		require.NoError(t, shed.SetLimit(c[0]))
		require.Equal(t, c[1], shed.Stats().Limit, "SetLimit(%d)", c[0])
	}
}

func TestAFileThatIsAsItWasIsReadAgainAfterAFailure(t *testing.T) {
	file := filepath.Join(t.TempDir(), "switch.json")
	write := func(s string, at time.Time) {
		require.NoError(t, os.WriteFile(file, []byte(s), 0o600))
		require.NoError(t, os.Chtimes(file, at, at))
		time.Sleep(3 * time.Second)
	}
	synctest.Test(t, func(t *testing.T) {
		first := time.Now()
		write("[]", first)
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{File: file})
		defer running(t, sw)()
		bad := `[{"target":"reviews"}]`
		write(bad, time.Now())
		write("[]", first) // as a backup that is moved back
		write(bad, time.Now())
		write(bad, time.Now())
		var texts []string
		for _, text := range sw.Changes() {
			require.NotContains(t, text, "\n", "one sentence")
			texts = append(texts, text)
		}
		require.Len(t, texts, 3, "a failure that lasts is told once")
		require.Contains(t, texts[0], "file not read")
		require.Contains(t, texts[1], "file read: 0 overrides")
		require.Equal(t, texts[0], texts[2])
	})
}

func TestAShareThatIsNoNumberIsNobodys(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	reviews := sw.Feature("reviews", degrade.Optional).Keep(math.NaN())
	require.NoError(t, sw.Set(override("level", degrade.Reduced)))
	require.False(t, reviews.Enabled())
	w := get(sw.Admin(), func(r *http.Request) { r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost" })
	require.Contains(t, w.Body.String(), `"share": 0,`, "what is no number is no JSON")
}

// net/http removes the files of a form from the request that it made, and a
// handler reads the form into the copy that it was given.
func TestTheFilesOfAFormAreRemoved(t *testing.T) {
	high := func(*http.Request) degrade.Priority { return degrade.Critical }
	for name, through := range map[string]func(http.Handler) http.Handler{
		"shedder": degrade.MustNew(degrade.Config{Priority: high}).Handler,
		"switch":  degrade.MustNewSwitch(degrade.SwitchConfig{}).Handler,
		"reduced": func() func(http.Handler) http.Handler {
			sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
			sw.Feature("reviews", degrade.Optional)
			require.NoError(t, sw.Set(override("level", degrade.Reduced)))
			return sw.Handler
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("TMPDIR", dir)
			t.Setenv("TMP", dir) // on Windows
			files := func() int {
				all, err := os.ReadDir(dir)
				require.NoError(t, err)
				return len(all)
			}
			srv := httptest.NewServer(through(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ParseMultipartForm(0) != nil || files() != 1 {
					w.WriteHeader(500)
				}
			})))
			defer srv.Close()
			var body bytes.Buffer
			form := multipart.NewWriter(&body)
			part, err := form.CreateFormFile("photo", "photo.jpg")
			require.NoError(t, err)
			_, err = part.Write(make([]byte, 20<<20)) // more than is kept in memory
			require.NoError(t, err)
			form.Close()
			resp, err := http.Post(srv.URL, form.FormDataContentType(), &body)
			require.NoError(t, err)
			resp.Body.Close()
			require.Equal(t, 200, resp.StatusCode)
			require.Zero(t, files(), "left in the directory for temporary files")
		})
	}
}
