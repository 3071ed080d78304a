package degrade_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
)

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

func TestWhatIsWrongBetweenTheFieldsOfASwitchIsNamedBesideTheRest(t *testing.T) {
	for want, cfg := range map[string]degrade.SwitchConfig{
		"EnterAfter is -1s, must not be negative\nLeave is 0.9, must be at most Enter (0.5)\nMaxLeaveAfter is 1s, must be at least LeaveAfter (5s)": {
			Enter: 0.5, Leave: 0.9, EnterAfter: -time.Second, MaxLeaveAfter: time.Second},
		"Enter is -1, must be 0 (default) to 100\nLeaveAfter is -1s, must not be negative": { // with what would the others be compared?
			Enter: -1, Leave: 0.9, LeaveAfter: -time.Second, MaxLeaveAfter: time.Second},
		"Leave is 200, must be 0 (default) to 100\nMaxLeaveAfter is -1s, must not be negative": {
			Leave: 200, MaxLeaveAfter: -time.Second},
	} {
		_, err := degrade.NewSwitch(cfg)
		require.EqualError(t, err, "degrade: SwitchConfig."+strings.ReplaceAll(want, "\n", "\ndegrade: SwitchConfig."))
	}
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
