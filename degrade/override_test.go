package degrade_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
)

func override(target string, level degrade.Level) degrade.Override {
	return degrade.Override{Target: target, Level: level, Author: "ann", Reason: "test", Expires: time.Now().Add(time.Hour)}
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
