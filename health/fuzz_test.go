package health_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

var sampleRE = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_][a-zA-Z0-9_]*="([^"\\\n]|\\\\|\\"|\\n)*",?)+\})? (NaN|[+-]Inf|-?[0-9][0-9.e+-]*)$`)

// FuzzExposition: whatever a source emits, every line can be read, and no
// series comes twice.
func FuzzExposition(f *testing.F) {
	f.Add("x_total", "help", "counter", 1.5, "a", "b", "")
	f.Add("x_bucket", "", "histogram", 1.0, "le", "+Inf", "application/openmetrics-text")
	f.Add("go_goroutines", "a\nb", "gauge", 0.0, "v", "\"\\\n\xff", "text/plain;q=0.1,*/*")
	f.Add("spillway_build_info", "\\", "gauge", -1e300, "version", "\x00", "application/openmetrics-text;q=1")
	f.Fuzz(func(t *testing.T, name, help, kind string, value float64, label, labelValue, accept string) {
		s := newSource(func(emit func(name, help, kind string, value float64, labels ...string)) {
			emit(name, help, kind, value, label, labelValue)
			emit(name, help, kind, value, label, labelValue)
			emit(name, help, kind, value)
			emit(name+"_total", help, "counter", value, label, labelValue, "other", labelValue)
		})
		body := scrape(accept, s).Body.String()
		require.True(t, utf8.ValidString(body))
		seen := map[string]bool{}
		for line := range strings.Lines(body) {
			line, ok := strings.CutSuffix(line, "\n")
			require.True(t, ok)
			if line == "# EOF" || strings.HasPrefix(line, "# HELP ") {
				continue
			}
			if family, ok := strings.CutPrefix(line, "# TYPE "); ok {
				family, _, _ = strings.Cut(family, " ")
				require.False(t, seen["# "+family], "two families %q", family)
				seen["# "+family] = true
				continue
			}
			require.Regexp(t, sampleRE, line)
			series := line[:strings.LastIndexByte(line, ' ')]
			require.False(t, seen[series], "two series %q", series)
			seen[series] = true
		}
	})
}

// FuzzProbe: whatever a stranger asks, a checker that is not ready never says
// that it is, and never says why.
func FuzzProbe(f *testing.F) {
	f.Add("/readyz", "verbose", "GET")
	f.Add("/readyz/db", "exclude=db", "HEAD")
	f.Add("/readyz/", "%zz&verbose=;", "POST")
	f.Fuzz(func(t *testing.T, path, query, method string) {
		h := health.MustNew(health.Config{Checks: map[string]health.Check{"topsecret": {Probe: pass}}})
		front := h.Handler(http.NotFoundHandler())
		r := httptest.NewRequest("GET", "/", nil)
		r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
		rec := httptest.NewRecorder()
		front.ServeHTTP(rec, r)
		require.NotContains(t, rec.Body.String(), "topsecret")
		if strings.HasPrefix(path, "/readyz") || strings.HasPrefix(path, "/startupz") {
			require.NotEqual(t, 200, rec.Code)
		}
	})
}
