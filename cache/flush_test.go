package cache_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// A passing wrapper says what the writer that it wraps says.
type passing struct{ http.ResponseWriter }

func (w passing) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w passing) FlushError() error           { return http.NewResponseController(w.ResponseWriter).Flush() }

// plain is a writer that can do nothing but write, like that of
// http.TimeoutHandler.
type plain struct{ http.ResponseWriter }

func TestAFlushOrHijackThatIsNotSupportedIsNotTheAnswer(t *testing.T) {
	for name, try := range map[string]func(*http.ResponseController) error{
		"flush":  (*http.ResponseController).Flush,
		"hijack": func(c *http.ResponseController) error { _, _, err := c.Hijack(); return err },
	} {
		for _, wrap := range []func(http.ResponseWriter) http.ResponseWriter{
			func(w http.ResponseWriter) http.ResponseWriter { return plain{w} },
			func(w http.ResponseWriter) http.ResponseWriter { return passing{passing{plain{w}}} },
		} {
			for _, method := range []string{"GET", "HEAD", "POST"} {
				t.Run(name+method, func(t *testing.T) {
					c := cache.MustNew(cache.Config{TTL: time.Hour})
					h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						if errors.Is(try(http.NewResponseController(w)), http.ErrNotSupported) {
							http.Error(w, "streaming is not supported", http.StatusInternalServerError)
						}
					}))
					for range 3 { // led, and not fit to share
						w := httptest.NewRecorder()
						h.ServeHTTP(wrap(w), httptest.NewRequest(method, page, nil))
						require.Equal(t, http.StatusInternalServerError, w.Code)
					}
					require.Zero(t, c.Stats().Entries)
				})
			}
		}
	}
}

func TestAFlushThroughWrappersSendsTheHeader(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		h := cache.MustNew(cache.Config{TTL: time.Hour}).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			require.NoError(t, http.NewResponseController(w).Flush())
			w.WriteHeader(http.StatusTeapot) // too late
		}))
		for _, wrap := range []func(http.ResponseWriter) http.ResponseWriter{
			func(w http.ResponseWriter) http.ResponseWriter { return w },
			func(w http.ResponseWriter) http.ResponseWriter { return passing{w} },
			func(w http.ResponseWriter) http.ResponseWriter { return passing{passing{w}} },
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(wrap(w), httptest.NewRequest(method, "http://example.com/", nil))
			require.Equal(t, http.StatusOK, w.Code)
		}
	}
}
