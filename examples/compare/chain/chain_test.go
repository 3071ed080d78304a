package chain

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func find[T any](t *testing.T, all []T, is func(T) bool) T {
	for _, x := range all {
		if is(x) {
			return x
		}
	}
	t.Fatal("not measured")
	panic("unreachable")
}

func TestEveryChainAnswersTheSame(t *testing.T) {
	for _, c := range Cases() {
		for _, path := range []string{c.Path, c.Path} {
			w := httptest.NewRecorder()
			c.h.ServeHTTP(w, httptest.NewRequest("GET", "http://api.example"+path, nil))
			require.Equal(t, http.StatusOK, w.Code, "%s %s", c.Name, c.Kind)
			require.Equal(t, string(kilobyte), w.Body.String(), "%s %s", c.Name, c.Kind)
		}
		if c.Name == "bare" {
			continue
		}
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, httptest.NewRequest("GET", "http://api.example/livez", nil))
		require.Equal(t, http.StatusOK, w.Code)
		require.NotEqual(t, string(kilobyte), w.Body.String(), "a probe is answered by the chain")
	}
}

func TestAHitReachesNoHandlerInBothChains(t *testing.T) {
	for _, c := range Cases() {
		if c.Kind != "hit" || c.Name == "bare" {
			continue
		}
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, httptest.NewRequest("GET", "http://api.example"+c.Path, nil))
		kept := kilobyte
		kilobyte = []byte("the handler ran")
		w = httptest.NewRecorder()
		c.h.ServeHTTP(w, httptest.NewRequest("GET", "http://api.example"+c.Path, nil))
		kilobyte = kept
		require.Equal(t, string(kilobyte), w.Body.String(), c.Name)
	}
}

// TestAHitAllocatesLess: allocations do not depend on the machine's mood.
func TestAHitAllocatesLess(t *testing.T) {
	all := MeasureInProcess(Cases(), 1, time.Millisecond)
	for _, kind := range []string{"no-store", "miss", "hit"} {
		ours := find(t, all, func(p *InProcess) bool { return p.Name == "spillway" && p.Kind == kind })
		theirs := find(t, all, func(p *InProcess) bool { return p.Name == "rivals" && p.Kind == kind })
		t.Logf("%s: %.1f and %.1f", kind, ours.Allocs, theirs.Allocs)
		require.Zero(t, ours.Refused, "what is measured is not a refusal")
		if kind == "hit" {
			require.Less(t, ours.Allocs, theirs.Allocs)
		}
	}
}

func TestLoopbackAndProxyAnswer(t *testing.T) {
	_, err := MeasureLoopback(Cases(), 1, 10*time.Millisecond)
	require.NoError(t, err)
	_, err = MeasureProxy(1, 10*time.Millisecond)
	require.NoError(t, err)
}

func TestWeight(t *testing.T) {
	if testing.Short() {
		t.Skip("it links three programs")
	}
	w, err := Weigh(".")
	require.NoError(t, err)
	t.Logf("ours %+v, theirs %+v", *w["spillway"], *w["rivals"])
	require.Less(t, w["spillway"].Lines, w["rivals"].Lines)
	require.Less(t, w["spillway"].Modules, w["rivals"].Modules)
}
