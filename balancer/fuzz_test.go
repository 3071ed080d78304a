package balancer_test

import (
	"math"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// Whatever the URL of a backend, New either refuses it or the request goes to
// its host, below its path.
func FuzzBackendURL(f *testing.F) {
	for _, s := range []string{"http://a", "https://a:443/x/", "h2c://[::1]:80", "http://a/%2F?x", "ftp://a", "http://", "http://a b", "h2C://::"} {
		f.Add(s, "/p/%2F")
	}
	f.Fuzz(func(t *testing.T, raw, path string) {
		b, err := balancer.New(balancer.Config{Backends: balancer.URLs(raw)})
		if err != nil {
			require.True(t, strings.HasPrefix(err.Error(), "balancer: Config.Backends[0]."), err.Error())
			return
		}
		in, err := url.ParseRequestURI(path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		u, err := url.Parse(raw)
		require.NoError(t, err)
		in.Scheme, in.Host = "http", "client"
		_, err = b.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			require.Equal(t, u.Host, r.URL.Host)
			require.True(t, strings.HasPrefix(r.URL.Path, strings.TrimSuffix(u.Path, "/")), "%q below %q", r.URL.Path, u.Path)
			again, err := url.Parse(r.URL.String())
			require.NoError(t, err)
			require.Equal(t, r.URL.Path, again.Path, "what is sent is what is meant")
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
		})).RoundTrip(&http.Request{Method: "GET", URL: in, Header: http.Header{}})
		require.NoError(t, err)
	})
}

// Whatever a backend sends as Retry-After, requests go on, and the longest rest
// is half a minute.
func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "1", "99999999999999999999", "-1", "1.5", "Fri, 31 Dec 1999 23:59:59 GMT", "soon"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		now := time.Unix(1e9, 0)
		b, err := balancer.New(balancer.Config{Backends: balancer.URLs("http://a", "http://b"), Policy: inOrder{}, Now: func() time.Time { return now },
			Retry: balancer.Retry{Backoff: -1}})
		require.NoError(t, err)
		busy := true
		rt := b.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			if busy {
				return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {value}}, Body: http.NoBody}, nil
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
		}))
		do(rt, http.MethodGet)
		busy = false
		require.Equal(t, 200, do(rt, http.MethodGet))
		now = now.Add(31 * time.Second)
		busy = true
		before := b.Stats().Retries
		do(rt, http.MethodGet)
		require.Equal(t, before+1, b.Stats().Retries, "after half a minute b is retried again")
	})
}

// Whatever the numbers in a Config, New refuses them or the pool works.
func FuzzConfig(f *testing.F) {
	f.Add(0.0, 0.5, 1.0, int64(0), 3, 2)
	f.Add(math.NaN(), math.Inf(1), -1.0, int64(-1), -5, 100)
	f.Fuzz(func(t *testing.T, weight, share, ratio float64, d int64, n, m int) {
		b, err := balancer.New(balancer.Config{
			Backends: []balancer.Backend{{URL: "http://a", Weight: weight}, {URL: "http://b", Weight: 1, Tier: m}},
			Eject:    balancer.Eject{Consecutive: n, Ratio: ratio, MaxShare: share, Base: time.Duration(d)},
			Retry:    balancer.Retry{Max: n, Budget: balancer.NewBudget(share, ratio)}, PanicShare: share, SlowStart: time.Duration(d),
			Hedge: balancer.Hedge{Quantile: ratio, Share: share},
		})
		if err != nil {
			for _, line := range strings.Split(err.Error(), "\n") {
				require.True(t, strings.HasPrefix(line, "balancer: Config."), line)
			}
			return
		}
		for range 20 {
			l, err := b.Acquire(nil)
			require.NoError(t, err)
			l.Done(balancer.Failure)
		}
		require.Zero(t, b.Stats().InFlight)
	})
}
