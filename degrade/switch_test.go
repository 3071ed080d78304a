package degrade_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
)

// signal is a pressure that a test sets.
type signal struct{ bits atomic.Uint64 }

func (s *signal) set(v float64)  { s.bits.Store(math.Float64bits(v)) }
func (s *signal) value() float64 { return math.Float64frombits(s.bits.Load()) }

// running starts sw and returns what stops it.
func running(t *testing.T, sw *degrade.Switch) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- sw.Run(ctx) }()
	return func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	}
}

func TestTheLevelRisesFastAndFallsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p signal
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{p.value}})
		reviews, search := sw.Feature("reviews", degrade.Optional), sw.Feature("search", degrade.Useful)
		defer running(t, sw)()

		p.set(2)
		time.Sleep(900 * time.Millisecond)
		require.Equal(t, degrade.Full, sw.Level(), "not for a moment's pressure")
		time.Sleep(600 * time.Millisecond)
		require.Equal(t, degrade.Reduced, sw.Level())
		require.False(t, reviews.Enabled())
		require.True(t, search.Enabled())
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, degrade.Minimal, sw.Level())
		require.False(t, search.Enabled())
		time.Sleep(time.Minute)
		require.Equal(t, degrade.Minimal, sw.Level(), "there are no more levels than features have")

		p.set(0.1)
		time.Sleep(4 * time.Second)
		require.Equal(t, degrade.Minimal, sw.Level(), "it waits before it trusts the calm")
		time.Sleep(3 * time.Second)
		require.Equal(t, degrade.Reduced, sw.Level(), "one level at a time")
		time.Sleep(7 * time.Second)
		require.Equal(t, degrade.Full, sw.Level())
		require.True(t, reviews.Enabled())
	})
}

// A backend whose load is constant: leaving a level brings back the pressure that
// entered it. The switch learns what the level saves and stays.
func TestTheLevelDoesNotFlapAtConstantLoad(t *testing.T) {
	for _, load := range []float64{1.05, 1.3, 1.6} {
		synctest.Test(t, func(t *testing.T) {
			var sw *degrade.Switch
			cost := []float64{1, 0.7, 0.5}
			sw = degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{func() float64 { return load * cost[sw.Level()] }}})
			sw.Feature("reviews", degrade.Optional)
			sw.Feature("search", degrade.Useful)
			defer running(t, sw)()
			time.Sleep(10 * time.Minute)
			n := 0
			for range sw.Changes() {
				n++
			}
			require.LessOrEqual(t, n, 4, "changes in ten minutes at %vx", load)
			require.Less(t, load*cost[sw.Level()], 1.0)
		})
	}
}

// What a short peak leaves behind is a load that has fallen by itself, which
// must not pass for what the level saves.
func TestAShortPeakIsNotPaidForAllDay(t *testing.T) {
	for _, peak := range []float64{1.2, 2, 5, 100, math.Inf(1)} {
		synctest.Test(t, func(t *testing.T) {
			var p signal
			sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{p.value}})
			sw.Feature("reviews", degrade.Optional)
			defer running(t, sw)()
			p.set(0.5)
			time.Sleep(time.Minute)
			p.set(peak)
			time.Sleep(1500 * time.Millisecond)
			require.Equal(t, degrade.Reduced, sw.Level())
			p.set(0.5)
			time.Sleep(20 * time.Minute)
			require.Equal(t, degrade.Full, sw.Level(), "after a peak of %v", peak)
		})
	}
}

// That the belief in what a level saves fades means trying again now and then, which
// becomes rare where it was too soon.
func TestAtConstantLoadTheSwitchTriesAgainMoreAndMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sw *degrade.Switch
		sw = degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{func() float64 {
			return 1.05 * []float64{1, 0.7}[sw.Level()]
		}}})
		sw.Feature("reviews", degrade.Optional)
		defer running(t, sw)()
		time.Sleep(time.Hour)
		hour := sw.Stats().Changes
		require.LessOrEqual(t, hour, uint64(7), "in the first hour")
		time.Sleep(23 * time.Hour)
		require.LessOrEqual(t, sw.Stats().Changes-hour, uint64(12), "in the rest of the day")
	})
}

func TestAPressureWithoutBoundIsShownAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p signal
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{p.value}})
		sw.Feature("reviews", degrade.Optional)
		defer running(t, sw)()
		for _, v := range []float64{math.Inf(1), math.Inf(-1)} { // such as something over nothing
			p.set(v)
			time.Sleep(5 * time.Second)
			w := get(sw.Admin(), func(r *http.Request) { r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost" })
			require.True(t, json.Valid(w.Body.Bytes()), "a pressure of %v: %q", v, w.Body)
		}
	})
}

func TestASignalThatFailsIsNotCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p signal
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{p.value, func() float64 { panic("broken") }}})
		sw.Feature("reviews", degrade.Optional)
		defer running(t, sw)()
		p.set(2)
		time.Sleep(2 * time.Second)
		require.Equal(t, degrade.Reduced, sw.Level())
		p.set(math.NaN())
		time.Sleep(time.Hour)
		require.Equal(t, degrade.Reduced, sw.Level(), "nothing is known, so nothing changes")
	})
}

func TestARequestNeverSeesTwoLevels(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	reviews := sw.Feature("reviews", degrade.Optional)
	size := degrade.NewKnob(sw, 100, 10)
	w := get(sw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.NoError(t, sw.Set(override("level", degrade.Minimal)))
		require.False(t, reviews.Enabled(), "for others it is off already")
		fmt.Fprint(w, reviews.EnabledFor(r.Context()), size.GetFor(r.Context()), size.Get())
	})))
	require.Equal(t, "true 100 10", w.Body.String())
	require.Empty(t, w.Header().Get(degrade.DegradedHeader))
}

func override(target string, level degrade.Level) degrade.Override {
	return degrade.Override{Target: target, Level: level, Author: "ann", Reason: "test", Expires: time.Now().Add(time.Hour)}
}

func TestAFeatureGoesOffAloneWithWhatItNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
		reviews := sw.Feature("reviews", degrade.Optional).Needs(func() bool { return !down.Load() })
		search := sw.Feature("search", degrade.Optional)
		defer running(t, sw)()
		down.Store(true)
		time.Sleep(time.Second)
		require.False(t, reviews.Enabled())
		require.True(t, search.Enabled())
		require.Equal(t, degrade.Full, sw.Level())
		down.Store(false)
		time.Sleep(time.Second)
		require.True(t, reviews.Enabled())
	})
}

// share counts for how many of a thousand users f is on.
func share(sw *degrade.Switch, f *degrade.Feature) (n int, who map[string]bool) {
	who = map[string]bool{}
	h := sw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.EnabledFor(r.Context()) {
			n++
			who[r.Header.Get("User")] = true
		}
	}))
	for i := range 1000 {
		get(h, func(r *http.Request) { r.Header.Set("User", fmt.Sprint(i)) })
	}
	return n, who
}

func TestAShareOfUsersKeepsTheFeatureAndStaysTheSame(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{Key: func(r *http.Request) string { return r.Header.Get("User") }})
	reviews := sw.Feature("reviews", degrade.Optional).Keep(0.25)
	search := sw.Feature("search", degrade.Optional).Keep(0.25)
	require.NoError(t, sw.Set(override("level", degrade.Reduced)))
	n, who := share(sw, reviews)
	require.InDelta(t, 250, n, 50)
	_, again := share(sw, reviews)
	require.Equal(t, who, again)
	_, other := share(sw, search)
	require.NotEqual(t, who, other, "not the same users lose everything")
	require.NoError(t, sw.Set(override("level", degrade.Minimal)))
	n, _ = share(sw, reviews)
	require.Zero(t, n, "the next level leaves nobody")
}

func TestAFeatureIsRolledOutByShareAndByKey(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{Key: func(r *http.Request) string { return r.Header.Get("User") }})
	search := sw.Feature("search", degrade.Optional)
	o := override("search", 0)
	o.Share, o.Keys = 0.1, []string{"7"}
	require.NoError(t, sw.Set(o))
	n, few := share(sw, search)
	require.InDelta(t, 100, n, 40)
	require.True(t, few["7"])
	o.Share = 0.5
	require.NoError(t, sw.Set(o))
	_, more := share(sw, search)
	for user := range few {
		require.True(t, more[user], "who has it keeps it as the share grows")
	}
}

func TestAnOverrideEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{Name: "shop"})
		reviews := sw.Feature("reviews", degrade.Optional)
		defer running(t, sw)()
		require.NoError(t, sw.Set(override("reviews", 0)))
		require.False(t, reviews.Enabled())
		time.Sleep(time.Hour + time.Second)
		require.True(t, reviews.Enabled())
		var texts []string
		for _, text := range sw.Changes() {
			texts = append(texts, text)
		}
		require.Len(t, texts, 2)
		require.Contains(t, texts[0], "shop: reviews off, set by ann until ")
		require.Equal(t, "shop: reviews: the override by ann has expired", texts[1])
	})
}

func TestAnOverrideNamesItsAuthorItsReasonAndItsEnd(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	err := sw.Set(degrade.Override{Target: "level", Level: 12, Share: 3})
	for _, what := range []string{"Level is 12", "Share is 3", "Author is required", "Reason is required", "Expires is"} {
		require.ErrorContains(t, err, what)
	}
	require.ErrorContains(t, sw.Set(override("unknown", 0)), `Override.Target is "unknown"`)
}

func TestADegradedAnswerIsMarkedAndNotKeptForLong(t *testing.T) {
	for _, c := range []struct{ has, want string }{
		{"", "max-age=10"},
		{"public, max-age=3600", "public, max-age=10"},
		{"max-age=5, stale-while-revalidate=600", "max-age=5"},
		{"s-maxage=100, immutable", "s-maxage=10"},
		{"no-store", "no-store, max-age=10"},
		{"max-age=nonsense", "max-age=0"},
	} {
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
		reviews := sw.Feature("reviews", degrade.Optional)
		require.NoError(t, sw.Set(override("reviews", 0)))
		w := get(sw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c.has != "" {
				w.Header().Set("Cache-Control", c.has)
			}
			w.Header().Set("Expires", "Thu, 01 Jan 2099 00:00:00 GMT")
			reviews.EnabledFor(r.Context())
			io.WriteString(w, "page")
		})))
		require.Equal(t, "reviews", w.Header().Get(degrade.DegradedHeader))
		require.Equal(t, c.want, w.Header().Get("Cache-Control"))
		require.Empty(t, w.Header().Get("Expires"))
	}
}

func TestTheMarkerLetsEverythingThrough(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	srv := httptest.NewServer(sw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		require.NoError(t, rc.SetWriteDeadline(time.Now().Add(time.Minute)))
		require.NoError(t, rc.EnableFullDuplex())
		_, isReader := w.(io.ReaderFrom)
		_, isFlusher := w.(http.Flusher)
		require.True(t, isReader && isFlusher)
		w.Header().Set("Trailer", "After")
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "one")
		require.NoError(t, rc.Flush())
		io.Copy(w, strings.NewReader(" two"))
		w.Header().Set("After", "three")
	})))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "one two", string(b))
	require.Equal(t, "three", resp.Trailer.Get("After"))
}

func TestObserveOnlyLeavesEverythingOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{DryRun: true, Pressure: []func() float64{func() float64 { return 3 }}})
		reviews := sw.Feature("reviews", degrade.Optional)
		defer running(t, sw)()
		time.Sleep(10 * time.Second)
		require.True(t, reviews.Enabled())
		n := 0
		for range sw.Changes() {
			n++
		}
		require.Equal(t, 1, n, "but says what it would have done")
	})
}

func TestAFileIsReadAgainWhenItChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "switch.json")
	write := func(s string, at time.Time) {
		require.NoError(t, os.WriteFile(file, []byte(s), 0o600))
		require.NoError(t, os.Chtimes(file, at, at))
	}
	synctest.Test(t, func(t *testing.T) {
		o := override("reviews", 0)
		b, _ := json.Marshal([]degrade.Override{o})
		write(string(b), time.Now())
		sw := degrade.MustNewSwitch(degrade.SwitchConfig{File: file})
		reviews := sw.Feature("reviews", degrade.Optional)
		require.False(t, reviews.Enabled())
		defer running(t, sw)()
		write("[{]", time.Now().Add(time.Second))
		time.Sleep(3 * time.Second)
		require.False(t, reviews.Enabled(), "a broken file changes nothing")
		write("[]", time.Now().Add(2*time.Second))
		time.Sleep(3 * time.Second)
		require.True(t, reviews.Enabled())
		var texts []string
		for _, text := range sw.Changes() {
			texts = append(texts, text)
		}
		require.Len(t, texts, 2)
		require.Contains(t, texts[0], "file not read")
	})
	_, err := degrade.NewSwitch(degrade.SwitchConfig{File: file + ".missing"})
	require.ErrorContains(t, err, "degrade: SwitchConfig.File: ")
}

func TestAdminIsForThisMachineOnly(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	sw.Feature("reviews", degrade.Optional)
	admin := sw.Admin()
	local := func(r *http.Request) { r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost:8080" }
	for name, edit := range map[string]func(*http.Request){
		"from elsewhere":   func(r *http.Request) { r.RemoteAddr, r.Host = "203.0.113.9:1", "localhost" },
		"through a proxy":  func(r *http.Request) { local(r); r.Header.Set("X-Forwarded-For", "203.0.113.9") },
		"by a rebound DNS": func(r *http.Request) { local(r); r.Host = "evil.example" },
	} {
		require.Equal(t, 403, get(admin, edit).Code, name)
	}
	require.Equal(t, 200, get(admin, local).Code)
	wrapped := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { admin.ServeHTTP(w, degrade.WithAdmin(r)) })
	require.Equal(t, 200, get(wrapped, func(r *http.Request) { r.RemoteAddr = "203.0.113.9:1" }).Code)
}

func TestAdminTurnsTheSwitch(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	reviews := sw.Feature("reviews", degrade.Optional)
	do := func(method, url, body string, head ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, url, strings.NewReader(body))
		r.RemoteAddr, r.Host = "[::1]:1", "[::1]:8080"
		for i := 0; i < len(head); i += 2 {
			r.Header.Set(head[i], head[i+1])
		}
		w := httptest.NewRecorder()
		sw.Admin().ServeHTTP(w, r)
		return w
	}
	body := `{"target":"reviews","author":"ann","reason":"slow database","for":"1h"}`
	require.Equal(t, 415, do("PUT", "/", body).Code, "a form cannot")
	require.Equal(t, 403, do("PUT", "/", body, "Content-Type", "application/json", "Origin", "https://evil.example").Code, "another site cannot")
	require.Equal(t, 400, do("PUT", "/", `{"target":"reviews"}`, "Content-Type", "application/json").Code)
	require.True(t, reviews.Enabled())
	w := do("PUT", "/", body, "Content-Type", "application/json")
	require.Equal(t, 200, w.Code, w.Body)
	require.False(t, reviews.Enabled())
	require.Contains(t, w.Body.String(), "slow database")
	require.Equal(t, 403, do("DELETE", "/?target=reviews&author=bob", "").Code)
	require.Equal(t, 200, do("DELETE", "/?target=reviews&author=bob", "", "Spillway-Admin", "1").Code)
	require.True(t, reviews.Enabled())
	require.Equal(t, 404, do("DELETE", "/?target=reviews&author=bob", "", "Spillway-Admin", "1").Code)
	require.Equal(t, 405, do("PATCH", "/", "").Code)
}

func TestFallbacksAnswerWhileAFeatureIsOff(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	reviews := sw.Feature("reviews", degrade.Optional)
	require.NoError(t, sw.Set(override("reviews", 0)))
	w := get(reviews.Handler(ok, nil))
	require.Equal(t, 503, w.Code)
	require.Equal(t, "reviews", w.Header().Get(degrade.DegradedHeader), "also without Switch.Handler in front")
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"), "a failure is not kept")
	require.NotEmpty(t, w.Header().Get("Retry-After"))

	w = get(sw.Handler(reviews.Handler(ok, degrade.Static("text/html", []byte("<p>later</p>")))))
	require.Equal(t, 200, w.Code)
	require.Equal(t, "<p>later</p>", w.Body.String())
	require.Equal(t, "max-age=10", w.Header().Get("Cache-Control"))
	require.Equal(t, uint64(2), sw.Stats().Degraded)
}

func TestEventsAreToldInOrderAndAPanickingHookDoesNoHarm(t *testing.T) {
	var told []string
	var sw *degrade.Switch
	sw = degrade.MustNewSwitch(degrade.SwitchConfig{OnChange: func(c degrade.Change) {
		told = append(told, c.Text)
		sw.Level() // not under a lock
		if len(told) == 1 {
			require.True(t, sw.Release("level", "bob"))
		}
		panic("hook")
	}})
	require.NoError(t, sw.Set(override("level", degrade.Minimal)))
	require.Len(t, told, 2)
	require.Contains(t, told[0], "default: level minimal, set by ann")
	require.Equal(t, "default: level released by bob", told[1])
	require.Equal(t, uint64(2), sw.Stats().HookPanics)
	counted := 0.0
	sw.Collect(func(name, _, _ string, value float64, _ ...string) {
		if name == "spillway_degrade_switch_hook_panics_total" {
			counted = value
		}
	})
	require.Equal(t, 2.0, counted)
}

// Reviews cost 40 % of the work. At 1.3 times what the service can do, most users can keep
// them when the share follows the pressure; with levels alone nobody does.
func TestTheShareFollowsThePressure(t *testing.T) {
	for _, load := range []float64{1.05, 1.3, 1.5} {
		synctest.Test(t, func(t *testing.T) {
			var sw *degrade.Switch
			kept := func() float64 {
				v := 0.0
				sw.Collect(func(name, _, _ string, value float64, labels ...string) {
					if name == "spillway_degrade_feature_share" {
						v = value
					}
				})
				return v
			}
			var p signal
			sw = degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{p.value}})
			sw.Feature("reviews", degrade.Optional).Keep(degrade.Auto)
			defer running(t, sw)()
			sum := 0.0
			for range 1200 {
				p.set(load * (0.6 + 0.4*kept()))
				time.Sleep(250 * time.Millisecond)
				sum += kept()
			}
			fair := (0.875/load - 0.6) / 0.4 // share at the pressure aimed at
			require.InDelta(t, fair, sum/1200, 0.15, "at %vx", load)
			n := 0
			for range sw.Changes() {
				n++
			}
			require.LessOrEqual(t, n, 4, "and the level does not flap")
		})
	}
}

func TestADrillTurnsDownForSomeUsers(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{Key: func(r *http.Request) string { return r.Header.Get("User") }})
	reviews := sw.Feature("reviews", degrade.Optional)
	o := override("level", degrade.Reduced)
	o.Share, o.Drill = 0.1, true
	require.NoError(t, sw.Set(o))
	require.Equal(t, degrade.Full, sw.Level())
	n, _ := share(sw, reviews)
	require.InDelta(t, 900, n, 40)
}
