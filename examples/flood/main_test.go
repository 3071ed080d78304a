package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests below run the program as a user does, in a short form. It is
// built without the race detector whatever the tests are built with: under it
// the processes would take more than the machine has, and the figures would be
// the detector's. The tests of the parts are in the other files.

var built string // the folder with the program, once it is built

var build = sync.OnceValues(func() (exe string, err error) {
	if built, err = os.MkdirTemp("", "flood"); err != nil {
		return "", err
	}
	exe = filepath.Join(built, "flood")
	out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return exe, nil
})

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main() // this binary is one of the children that a test has started
	}
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// program returns the program with arguments, and the folder it writes to.
func program(t *testing.T, args ...string) (*exec.Cmd, string) {
	t.Helper()
	exe, err := build()
	require.NoError(t, err)
	cmd := exec.Command(exe, args...)
	cmd.Dir = t.TempDir()
	return cmd, cmd.Dir
}

func readReport(t *testing.T, dir string) *report {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "flood.json"))
	require.NoError(t, err)
	var rep report
	require.NoError(t, json.Unmarshal(data, &rep))
	return &rep
}

// short is one run of a short form. One on a machine that was too busy shows
// what the machine can do and not what the services can; then it is done again,
// twice at most, and the one that was least late is looked at.
func short(t *testing.T) (rep *report, dir, out string) {
	t.Helper()
	for range 3 {
		cmd, d := program(t, "-for", "25s", "-svg", "flood.svg")
		began := time.Now()
		output, err := cmd.CombinedOutput()
		require.NoError(t, err, string(output))
		r := readReport(t, d)
		t.Logf("took %v\n%s", time.Since(began).Round(time.Second), output[bytes.LastIndex(output, []byte("\n\nAt ")):])
		if rep == nil || r.Generator.P99 < rep.Generator.P99 {
			rep, dir, out = r, d, string(output)
		}
		if !r.Generator.Busy {
			break
		}
		t.Log("this machine is busy")
	}
	return rep, dir, out
}

func TestSpillwayHoldsWhatDrownsTheBareShop(t *testing.T) {
	rep, dir, out := short(t)
	require.Len(t, rep.Sides, 2)
	bare, ours := rep.Sides[0], rep.Sides[1]
	act := func(name string) int {
		i := rep.find(name)
		require.GreaterOrEqual(t, i, 0, name)
		return i
	}

	peak := act("ten times")
	require.GreaterOrEqual(t, rep.rate(peak, ours.Acts[peak].fresh()), 0.95*rep.Capacity,
		"at ten times the load the protected backends do what they can do, the cache not counted")
	require.Less(t, bare.Acts[peak].Good, ours.Acts[peak].Good/4, "and the bare ones work for clients that have gone away")
	require.Greater(t, ours.Acts[peak].CriticalGood, 2*bare.Acts[peak].CriticalGood)
	require.Greater(t, ours.Acts[peak].CriticalGood, ours.Acts[peak].Critical*9/10, "what matters most is served first")

	for _, name := range []string{"backend killed", "rolling restart"} {
		i := act(name)
		require.Positive(t, ours.Acts[i].Critical, name)
		require.Equal(t, ours.Acts[i].Critical, ours.Acts[i].CriticalGood, "no checkout fails: %s", name)
	}
	for _, name := range []string{"backend killed", "bad deploy", "rolling restart"} {
		i := act(name)
		require.Zero(t, ours.Acts[i].Errors, "no client sees what went wrong behind: %s", name)
		require.Positive(t, bare.Acts[i].Errors, name)
	}
	for _, name := range []string{"slow database", "bad deploy"} {
		i := act(name)
		require.Greater(t, ours.Acts[i].Good, bare.Acts[i].Good, name)
	}
	require.Greater(t, ours.Total.Good, bare.Total.Good)
	require.Greater(t, ours.Total.CriticalGood, bare.Total.CriticalGood)
	require.Equal(t, ours.Total.Refused, ours.Total.RetryAfter, "each refusal says when to come back")

	last := rep.Samples[len(rep.Samples)-1].Refused
	require.Positive(t, last["ratelimit"], "the greedy tenant was held to its plan")
	require.Positive(t, last["degrade"])
	require.Positive(t, ours.Total.Cached)
	require.Positive(t, ours.Total.Reduced)
	require.Contains(t, out, rep.Verdict[0][:40])

	t.Run("every request has one outcome and is in one act and one bin", func(t *testing.T) { requireConsistent(t, rep) })
	t.Run("the page holds the same data", func(t *testing.T) {
		page, err := os.ReadFile(filepath.Join(dir, "flood.html"))
		require.NoError(t, err)
		m := regexp.MustCompile(`(?s)<script type="application/json" id="measured">(.*?)</script>`).FindSubmatch(page)
		require.NotNil(t, m)
		data, err := os.ReadFile(filepath.Join(dir, "flood.json"))
		require.NoError(t, err)
		require.JSONEq(t, string(data), string(m[1]))
	})
	t.Run("the page opens in a browser", func(t *testing.T) { requireOpens(t, filepath.Join(dir, "flood.html")) })
	t.Run("no word of the picture sticks out", func(t *testing.T) { requireFits(t, filepath.Join(dir, "flood.svg")) })
}

// The picture in the README is drawn from a run on some machine at some time,
// but by this code.
func TestThePictureInTheREADMEFits(t *testing.T) { requireFits(t, "flood.svg") }

func requireConsistent(t *testing.T, rep *report) {
	t.Helper()
	for _, side := range rep.Sides {
		var acts, bins tally
		for _, a := range side.Acts {
			require.Equal(t, a.Offered, a.Good+a.Late+a.Refused+a.Errors, side.Name)
			acts.add(&a.tally)
		}
		for _, b := range side.Bins {
			require.Equal(t, b.Offered, b.Good+b.Late+b.Refused+b.Errors, side.Name)
			bins.add(&b.tally)
		}
		require.Equal(t, side.Total.tally, acts)
		require.LessOrEqual(t, bins.Offered, acts.Offered)
		require.Equal(t, rep.Sides[0].Total.Offered, side.Total.Offered, "both sides get the same requests")
		require.Positive(t, side.Total.Offered)
	}
}

// requireFits draws a picture in Chromium and requires that each of its words is
// inside.
func requireFits(t *testing.T, picture string) {
	t.Helper()
	content, err := os.ReadFile(picture)
	require.NoError(t, err)
	around := filepath.Join(t.TempDir(), "around.html")
	require.NoError(t, os.WriteFile(around, fmt.Appendf(nil, `<!DOCTYPE html><body>%s<script>
const all = document.querySelector("svg").getBoundingClientRect(), words = [...document.querySelectorAll("text")];
const out = words.filter(w => { const r = w.getBoundingClientRect(); return r.left < all.left || r.right > all.right || r.top < all.top || r.bottom > all.bottom; });
document.body.append("words: " + words.length + ", outside: " + out.map(w => w.textContent).join("; ") + ".");
</script>`, content), 0o600))
	require.Regexp(t, `words: [2-9]\d, outside: \.`, dumpDOM(t, around))
}

// dumpDOM opens a file in Chromium and returns what becomes of it.
func dumpDOM(t *testing.T, file string) string {
	t.Helper()
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
		"--user-data-dir="+t.TempDir(), "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", "file://"+file)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	require.NoError(t, cmd.Run(), complaints.String())
	require.NotContains(t, complaints.String(), "CONSOLE", "messages in the console")
	return out.String()
}

// requireOpens opens a page in Chromium, at the width of a phone too, and
// requires that nothing is complained of and nothing sticks out.
func requireOpens(t *testing.T, page string) {
	t.Helper()
	content, err := os.ReadFile(page)
	require.NoError(t, err)
	frame, err := json.Marshal(string(content)) // escapes what could end the script
	require.NoError(t, err)
	around := filepath.Join(t.TempDir(), "around.html")
	require.NoError(t, os.WriteFile(around, fmt.Appendf(nil, `<!DOCTYPE html><body><script>
onerror = m => document.body.dataset.error = m;
for (const width of [375, 1100]) {
	const f = document.createElement("iframe");
	f.width = width; f.height = 800; f.srcdoc = %s;
	f.onload = () => {
		const d = f.contentDocument, shown = [...d.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().width > 0);
		const p = document.createElement("p");
		p.textContent = "width " + width + ": sticks out by " + (d.documentElement.scrollWidth - d.documentElement.clientWidth) +
			", draws " + shown.length + ", requests " + f.contentWindow.performance.getEntriesByType("resource").length;
		document.body.append(p);
	};
	document.body.append(f);
}
</script>`, frame), 0o600))
	out := dumpDOM(t, around)
	require.NotContains(t, out, "data-error")
	for _, width := range []int{375, 1100} {
		require.Regexp(t, fmt.Sprintf(`width %d: sticks out by 0, draws [7-9], requests 0<`, width), out)
	}
}

func TestCtrlCEndsCleanlyWithWhatThereIs(t *testing.T) {
	cmd, dir := program(t)
	var out safeBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	defer cmd.Process.Kill()
	page := regexp.MustCompile(`http://127\.0\.0\.1:\d+/-/`)
	require.Eventually(t, func() bool { return page.MatchString(out.String()) }, 30*time.Second, 20*time.Millisecond)
	live := page.FindString(out.String())
	require.Eventually(t, func() bool { return strings.Contains(http200(live), "Spillway") }, 10*time.Second, 50*time.Millisecond, "the live page is served")
	// Wait for measurements, not for a time: the samples are read twice a bin.
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "double") }, 30*time.Second, 50*time.Millisecond, "the second act is told of when it is over")
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.NoError(t, cmd.Wait(), "it exits with 0: %s", &out)

	rep := readReport(t, dir)
	require.True(t, rep.Interrupted)
	require.Less(t, rep.Seconds, 49.0)
	require.Less(t, len(rep.Acts), len(script()))
	requireConsistent(t, rep)
	require.Contains(t, out.String(), "bare shop")
	require.Empty(t, http200(live), "its processes have ended with it")
	require.FileExists(t, filepath.Join(dir, "flood.html"))
}

func http200(url string) string {
	resp, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestTargetGetsTheSameReport(t *testing.T) {
	var mu sync.Mutex
	got := map[string]int{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got[r.Method+" "+r.URL.Path]++
		if got[r.Method+" "+r.URL.Path]%2 == 0 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	defer srv.Close()
	cmd, dir := program(t, "-target", srv.URL+"/here", "-rate", "20", "-for", "5s", "-seed", "7")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))

	rep := readReport(t, dir)
	require.Len(t, rep.Sides, 1)
	require.Equal(t, uint64(7), rep.Seed)
	require.Equal(t, srv.URL+"/here", rep.Target)
	requireConsistent(t, rep)
	total := rep.Sides[0].Total
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, got, 1)
	require.LessOrEqual(t, got["GET /here"], total.Offered)
	require.Positive(t, total.Good)
	require.Positive(t, total.Refused)
	require.Equal(t, total.Refused, total.RetryAfter)
	require.Contains(t, string(out), "In all, ")
	page, err := os.ReadFile(filepath.Join(dir, "flood.html"))
	require.NoError(t, err)
	require.Contains(t, string(page), "A flood for "+srv.URL+"/here")
	require.NotContains(t, string(page), "bare shop")
}

func TestBadInputNamesTheFlagAndTheFix(t *testing.T) {
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"-for", "1s"}, "-for is 1s, must be at least 20s"},
		{[]string{"-for", "1s", "-target", "http://127.0.0.1/"}, "-for is 1s, must be at least 5s"},
		{[]string{"-rate", "5"}, "-rate needs -target"},
		{[]string{"-insist"}, "-insist needs -target"},
		{[]string{"-target", "http://127.0.0.1/", "-rate", "-5"}, "-rate is -5, must be positive"},
		{[]string{"-target", "http://127.0.0.1/", "-rate", "NaN"}, "-rate is NaN, must be positive"},
		{[]string{"-target", "http://127.0.0.1/", "-rate", "+Inf"}, "-rate is +Inf, must be positive"},
		{[]string{"-target", "127.0.0.1:80"}, `-target is "127.0.0.1:80", must be a URL such as`},
		{[]string{"-target", "ftp://127.0.0.1"}, `-target is "ftp://127.0.0.1", must be a URL such as`},
		{[]string{"-target", "http://192.0.2.1/"}, "which is not on this machine; if it is yours, -insist"},
		{[]string{"http://127.0.0.1/"}, "a service is given as -target URL"},
	}
	for _, tt := range tests {
		_, err := parse(tt.args, io.Discard)
		require.ErrorContains(t, err, tt.want, "%q", tt.args)
	}
	_, err := parse([]string{"-target", "http://192.0.2.1/", "-insist"}, io.Discard)
	require.NoError(t, err)
	o, err := parse(nil, io.Discard)
	require.NoError(t, err)
	require.Less(t, o.length, 55*time.Second, "the usual form, with what comes before and after, is under a minute")
}
