package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/ratelimit"
)

func TestEachRouterIsLimitedByOneLine(t *testing.T) {
	for name, router := range routers {
		t.Run(name, func(t *testing.T) {
			lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(2)})
			srv := httptest.NewServer(router(lim, degrade.MustNew(degrade.Config{})))
			defer srv.Close()
			get := func() (*http.Response, string) {
				resp, err := http.Get(srv.URL + "/users/7")
				require.NoError(t, err)
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				return resp, string(body)
			}
			for range 2 {
				resp, body := get()
				require.Equal(t, 200, resp.StatusCode)
				require.Equal(t, "user 7\n", body)
				require.NotEmpty(t, resp.Header.Get("RateLimit"))
			}
			resp, _ := get()
			require.Equal(t, 429, resp.StatusCode)
			require.NotEmpty(t, resp.Header.Get("Retry-After"))
		})
	}
}
