package cache_test

import (
	"net/http/httptest"
	"testing"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// A Normalizer runs with what it needs locked: a panic must leave that usable,
// and tell clients apart by what they sent.
func TestANormalizerThatPanicsLocksNothing(t *testing.T) {
	o := newOrigin("Cache-Control", "max-age=60", "Vary", "X-Device")
	c := cache.MustNew(cache.Config{Normalize: map[string]cache.Normalizer{
		"x-device": func([]string) string { panic("no such device") },
	}})
	h := c.Handler(o)
	ask := func(device string) string {
		r := httptest.NewRequest("GET", page, nil)
		r.Header.Set("X-Device", device)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, 200, w.Code)
		return w.Header().Get("Cache-Status")
	}
	require.NotContains(t, ask("phone"), "hit")
	require.NotContains(t, ask("desk"), "hit")
	require.Contains(t, ask("phone"), "hit")
	require.Contains(t, ask("desk"), "hit")
	require.Positive(t, c.Stats().Panics)
}
