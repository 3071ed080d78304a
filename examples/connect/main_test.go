package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// start serves on a real socket until the test ends.
func start(t *testing.T) (url string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	h, srv := newServer()
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, srv, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error("it did not stop cleanly: ", err)
		}
	})
	url = "http://" + ln.Addr().String()
	require.Eventually(t, func() bool {
		resp, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	}, 15*time.Second, 10*time.Millisecond)
	return url
}

func TestACallByCurlIsAnsweredAndThenLimited(t *testing.T) {
	url := start(t)
	call := func() (*http.Response, string) {
		resp, err := http.Post(url+procedure, "application/json", strings.NewReader(`"Ada"`))
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp, string(body)
	}
	for range 10 {
		resp, body := call()
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, `"Hello, Ada."`, body)
		require.NotEmpty(t, resp.Header.Get("RateLimit"))
	}
	resp, _ := call()
	require.Equal(t, 429, resp.StatusCode)
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
}

func TestARefusedCallByGRPCIsUnavailable(t *testing.T) {
	client := newClient(start(t))
	for range 9 {
		resp, err := client.CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("Ada")))
		require.NoError(t, err)
		require.Equal(t, "Hello, Ada.", resp.Msg.GetValue())
		require.NotEmpty(t, resp.Header().Get("RateLimit"))
	}
	_, err := client.CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("")))
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "the service's own errors pass through")
	_, err = client.CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("Ada")))
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err))
}
