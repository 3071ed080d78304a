package browsertest_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

// parts stands for the five other packages: it emits under their names.
type parts struct {
	n        atomic.Int64
	upstream string
}

func (p *parts) Collect(emit func(name, help, kind string, value float64, labels ...string)) {
	n := float64(p.n.Load())
	for _, o := range []string{"allowed", "denied"} {
		v := n * 9
		if o == "denied" {
			v = n
		}
		emit("spillway_ratelimit_requests_total", "Decisions.", "counter", v, "policy", "per-client", "outcome", o)
	}
	emit("spillway_ratelimit_keys", "Keys.", "gauge", 1834, "policy", "per-client")
	for o, v := range map[string]float64{"hit": n * 6, "miss": n * 2, "stale": n / 10} {
		emit("spillway_cache_requests_total", "Requests.", "counter", v, "cache", "pages", "outcome", o)
	}
	emit("spillway_cache_size_bytes", "Size.", "gauge", 93e6, "cache", "pages")
	emit("spillway_degrade_inflight", "Running.", "gauge", 37, "shedder", "api")
	emit("spillway_degrade_limit", "Limit.", "gauge", 40, "shedder", "api")
	emit("spillway_degrade_queued", "Waiting.", "gauge", 3, "shedder", "api")
	emit("spillway_degrade_requests_total", "Requests.", "counter", n/20, "shedder", "api", "priority", "sheddable", "outcome", "shed")
	for _, s := range []string{"closed", "open", "half_open"} {
		v := 0.0
		if s == "open" {
			v = 1
		}
		emit("spillway_breaker_state", "State.", "gauge", v, "breaker", "inventory", "state", s)
	}
	for _, s := range []string{"closed", "open", "half_open"} {
		v := 0.0
		if s == "closed" {
			v = 1
		}
		emit("spillway_breaker_state", "State.", "gauge", v, "breaker", "prices", "state", s)
	}
	emit("spillway_breaker_open_until_timestamp_seconds", "Until.", "gauge", float64(time.Now().Add(4*time.Second).Unix()), "breaker", "inventory")
	emit("spillway_balancer_available_ratio", "Ratio.", "gauge", 0.5, "pool", "web")
	emit("spillway_balancer_upstream_up", "Up.", "gauge", 1, "pool", "web", "upstream", "10.0.0.1:8080")
	emit("spillway_balancer_upstream_up", "Up.", "gauge", 0, "pool", "web", "upstream", p.upstream)
	emit("spillway_balancer_upstream_inflight", "In flight.", "gauge", 12, "pool", "web", "upstream", "10.0.0.1:8080")
	emit("spillway_balancer_upstream_inflight", "In flight.", "gauge", 0, "pool", "web", "upstream", p.upstream)
}

func (p *parts) Conditions() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		_ = yield("inventory", "open until 12:00:05Z: 12 of 20 calls failed") &&
			yield(p.upstream, "out since 11:58:40Z: 5 errors in a row")
	}
}

func (p *parts) Changes() iter.Seq2[time.Time, string] {
	return func(yield func(time.Time, string) bool) {
		now := time.Now()
		_ = yield(now.Add(-80*time.Second), p.upstream+": out: 5 errors in a row") &&
			yield(now.Add(-12*time.Second), "inventory: opened: 12 of 20 calls failed")
	}
}

// A service is a running one, with a page to look at.
type service struct {
	*httptest.Server
	h    *health.Checker
	down atomic.Bool
}

func newService(t *testing.T, upstream string) *service {
	s := new(service)
	s.h = health.MustNew(health.Config{
		Service: "orders", Release: "2026.11.21",
		Checks: map[string]health.Check{
			"postgres": {Every: time.Second, Probe: func(context.Context) error {
				if s.down.Load() {
					return health.Public("connection refused", nil)
				}
				return nil
			}, Fall: 1},
			"redis":  {Optional: true, Probe: func(context.Context) error { return errors.New("secret host") }},
			"ledger": {Informational: true, Probe: func(context.Context) error { return nil }},
		},
	})
	p := &parts{upstream: upstream}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		p.n.Add(10)
		if p.n.Load()%300 == 0 {
			w.WriteHeader(500)
		}
	})
	mux.Handle("/-/", health.Dashboard(s.h, p).Allow(func(*http.Request) bool { return true }, s.h.MaintenanceActions()...))
	s.Server = httptest.NewUnstartedServer(s.h.Handler(mux))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 2)
	go func() { _ = s.h.Run(ctx); done <- struct{}{} }()
	go func() { // traffic for the plots, by the real clock, which the browser goes by
		for ctx.Err() == nil {
			if resp, err := http.Get(s.URL + "/work"); err == nil {
				resp.Body.Close()
			}
			time.Sleep(5 * time.Millisecond)
		}
		done <- struct{}{}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		<-done
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// browse opens the page and returns the tab's context and what the browser
// complained about.
func browse(t *testing.T, url string, width, height int64, dark bool) (context.Context, *atomic.Pointer[string]) {
	bin, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no chromium on this machine: apt-get install chromium")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(bin), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-dev-shm-usage", true))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	complaint := new(atomic.Pointer[string])
	chromedp.ListenTarget(ctx, func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			s := ev.ExceptionDetails.Error()
			complaint.Store(&s)
		case *cdplog.EventEntryAdded:
			s := ev.Entry.Text
			complaint.Store(&s)
		case *page.EventJavascriptDialogOpening:
			go func() { _ = chromedp.Run(ctx, page.HandleJavaScriptDialog(true)) }()
		}
	})
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	require.NoError(t, chromedp.Run(ctx,
		cdplog.Enable(),
		emulation.SetDeviceMetricsOverride(width, height, 1, width < 600),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
		chromedp.Navigate(url),
		chromedp.WaitVisible(`body[data-ready="yes"]`, chromedp.ByQuery),
	))
	return ctx, complaint
}

func eval[T any](t *testing.T, ctx context.Context, js string) (v T) {
	require.NoError(t, chromedp.Run(ctx, chromedp.Evaluate(js, &v)))
	return v
}

// eventually waits until js is true.
func eventually(t *testing.T, ctx context.Context, js string) {
	require.NoError(t, chromedp.Run(ctx, chromedp.Poll(js, nil, chromedp.WithPollingTimeout(30*time.Second))), js)
}

func screenshot(t *testing.T, ctx context.Context, name string) {
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	var png []byte
	require.NoError(t, chromedp.Run(ctx, chromedp.FullScreenshot(&png, 100)))
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
}

func TestThePageShowsTheServiceAndFollowsIt(t *testing.T) {
	s := newService(t, "10.0.0.2:8080")
	ctx, complaint := browse(t, s.URL+"/-/", 1280, 900, false)
	eventually(t, ctx, `document.getElementById("verdict").textContent === "Serving, degraded"`)
	text := eval[string](t, ctx, `document.body.innerText`)
	for _, want := range []string{
		"orders 2026.11.21", "redis", "inventory: open until 12:00:05Z: 12 of 20 calls failed",
		"10.0.0.2:8080: out since 11:58:40Z", "inventory: opened", "hit ratio", "per-client",
	} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "secret host", "texts of errors stay in the process")

	s.down.Store(true)
	eventually(t, ctx, `document.getElementById("verdict").textContent === "Not ready"`)
	eventually(t, ctx, `document.getElementById("checks").innerText.includes("connection refused")`)
	s.down.Store(false)
	eventually(t, ctx, `document.getElementById("verdict").textContent === "Serving, degraded"`)
	eventually(t, ctx, `document.querySelectorAll("#plots svg polyline").length > 3`)
	screenshot(t, ctx, "light")
	require.Nil(t, complaint.Load(), "the content policy must not be in the way")
}

func TestThePageFitsAPhone(t *testing.T) {
	s := newService(t, "a-very-long-name-of-a-backend-in-some-cloud.eu-central-1.compute.internal.example.com:8080")
	ctx, _ := browse(t, s.URL+"/-/", 375, 812, true)
	eventually(t, ctx, `document.querySelectorAll("#plots svg polyline").length > 0`)
	require.LessOrEqual(t, eval[int](t, ctx, `document.documentElement.scrollWidth`), 375, "no sideways scrolling")
	require.Equal(t, 0, eval[int](t, ctx, `[...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > 376).length`))
	screenshot(t, ctx, "narrow-dark")
}

func TestThePageIsReadableInTheDark(t *testing.T) {
	s := newService(t, "10.0.0.2:8080")
	ctx, _ := browse(t, s.URL+"/-/", 1280, 900, true)
	eventually(t, ctx, `document.querySelectorAll("#plots svg polyline").length > 3`)
	// WCAG 2.2, success criterion 1.4.3: at least 4.5 to 1.
	const contrast = `(() => {
		const rgb = c => c.match(/[\d.]+/g).map(Number);
		const lum = c => { const [r, g, b] = rgb(c).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
		const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (c !== "rgba(0, 0, 0, 0)") return c; } return "rgb(255,255,255)"; };
		let worst = 21;
		for (const e of document.querySelectorAll("body *")) {
			if (!e.innerText || e.children.length || !e.checkVisibility()) continue;
			const a = lum(getComputedStyle(e).color), b = lum(back(e));
			worst = Math.min(worst, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
		}
		return worst;
	})()`
	require.GreaterOrEqual(t, eval[float64](t, ctx, contrast), 4.5)
	screenshot(t, ctx, "dark")
	require.NoError(t, chromedp.Run(ctx, emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "light"}})))
	require.GreaterOrEqual(t, eval[float64](t, ctx, contrast), 4.5)
}

func TestAServiceWithNothingToShowIsShown(t *testing.T) {
	srv := httptest.NewServer(health.Dashboard(health.MustNew(health.Config{})))
	defer srv.Close()
	ctx, complaint := browse(t, srv.URL, 1280, 900, false)
	eventually(t, ctx, `document.getElementById("verdict").textContent === "Serving"`)
	require.True(t, eval[bool](t, ctx, `document.getElementById("parts-section").hidden && document.getElementById("checks-section").hidden`))
	require.Nil(t, complaint.Load())
	chromedp.Cancel(ctx)
}

func TestMarkupInANameIsOnlyText(t *testing.T) {
	s := newService(t, `<img src=x onerror="document.title='owned'"><b>bold</b>`)
	ctx, _ := browse(t, s.URL+"/-/", 1280, 900, false)
	eventually(t, ctx, `document.body.innerText.includes("<b>bold</b>")`)
	require.Equal(t, 0, eval[int](t, ctx, `document.querySelectorAll("img").length`))
}

func TestAnActionIsAskedAboutAndDone(t *testing.T) {
	s := newService(t, "10.0.0.2:8080")
	ctx, _ := browse(t, s.URL+"/-/", 1280, 900, false)
	require.NoError(t, chromedp.Run(ctx, chromedp.Click(`//button[text()="maintenance on"]`, chromedp.BySearch)))
	eventually(t, ctx, `document.getElementById("verdict").textContent === "Not ready: in maintenance"`)
	require.False(t, s.h.Ready())
	screenshot(t, ctx, "maintenance")
	require.NoError(t, chromedp.Run(ctx, chromedp.Click(`//button[text()="maintenance off"]`, chromedp.BySearch)))
	eventually(t, ctx, `document.getElementById("verdict").textContent === "Serving, degraded"`)
}

func TestTheStateIsCopiedAsJSON(t *testing.T) {
	s := newService(t, "10.0.0.2:8080")
	ctx, _ := browse(t, s.URL+"/-/", 1280, 900, false)
	require.NoError(t, chromedp.Run(ctx, chromedp.Evaluate(`navigator.clipboard.writeText = async t => { window.copied = t; }; 0`, nil),
		chromedp.Click("#copy", chromedp.ByQuery)))
	eventually(t, ctx, `window.copied && JSON.parse(window.copied).checks.length === 3`)
	eventually(t, ctx, `document.getElementById("copy").textContent === "Copied"`)
}

func TestAServiceThatDiesIsSeenToBeGone(t *testing.T) {
	s := newService(t, "10.0.0.2:8080")
	ctx, _ := browse(t, s.URL+"/-/", 1280, 900, false)
	s.Listener.Close()
	s.CloseClientConnections()
	eventually(t, ctx, `!document.getElementById("lost").hidden && document.getElementById("lost").innerText.includes("No news for")`)
	require.Equal(t, "verdict unknown", eval[string](t, ctx, `document.getElementById("verdict").className`))
}
