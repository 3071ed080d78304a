package ratelimit_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

// A KeyFunc fits wherever a plain func does, such as a balancer's hash key.
var _ func(*http.Request) string = ratelimit.ClientIP()

func request(remote string, headers ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = remote
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func TestClientIPIsTheFirstStrangerFromTheRight(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::ffff:172.16.0.0/108"), netip.MustParsePrefix("2001:db8:ffff::/48")}
	const xff = "X-Forwarded-For"
	for _, c := range []struct {
		name, want string
		r          *http.Request
	}{
		{"the peer", "203.0.113.9", request("203.0.113.9:1")},
		{"the peer, whatever it says", "203.0.113.9", request("203.0.113.9:1", xff, "198.51.100.1", "Forwarded", "for=198.51.100.2", "X-Real-Ip", "198.51.100.3")},
		{"an IPv6 peer's /64", "2001:db8:1:2::/64", request("[2001:db8:1:2:3:4:5:6]:1")},
		{"its neighbour's too", "2001:db8:1:2::/64", request("[2001:db8:1:2:ffff::1]:1")},
		{"a zone is dropped", "fe80::/64", request("[fe80::1%eth0]:1")},
		{"mapped", "203.0.113.9", request("[::ffff:203.0.113.9]:1")},
		{"behind a proxy", "203.0.113.9", request("10.0.0.1:1", xff, "203.0.113.9")},
		{"behind a mapped proxy", "203.0.113.9", request("[::ffff:10.0.0.1]:1", xff, "203.0.113.9")},
		{"behind a proxy in a mapped prefix", "203.0.113.9", request("172.16.0.1:1", xff, "203.0.113.9")},
		{"behind an IPv6 proxy", "2001:db8:1:2::/64", request("[2001:db8:ffff::1]:1", xff, "2001:db8:1:2::9")},
		{"behind two", "203.0.113.9", request("10.0.0.1:1", xff, "203.0.113.9, 10.0.0.2")},
		{"behind two, on two lines", "203.0.113.9", request("10.0.0.1:1", xff, "203.0.113.9", xff, "10.0.0.2")},
		{"what the stranger wrote is not read", "203.0.113.9", request("10.0.0.1:1", xff, "198.51.100.1, 203.0.113.9")},
		{"nor on a line of its own", "203.0.113.9", request("10.0.0.1:1", xff, "198.51.100.1", xff, "203.0.113.9")},
		{"not even a proxy's address", "203.0.113.9", request("10.0.0.1:1", xff, "10.0.0.7, 203.0.113.9")},
		{"garbage left of the stranger", "203.0.113.9", request("10.0.0.1:1", xff, "\"garbage;;, 203.0.113.9")},
		{"with a port", "203.0.113.9", request("10.0.0.1:1", xff, "203.0.113.9:4711")},
		{"IPv6 with a port", "2001:db8:1:2::/64", request("10.0.0.1:1", xff, "[2001:db8:1:2::9]:4711")},
		{"mapped in the field", "203.0.113.9", request("10.0.0.1:1", xff, "::ffff:203.0.113.9")},
		{"in brackets", "203.0.113.9", request("10.0.0.1:1", xff, "[203.0.113.9]")},
		{"all are proxies: the farthest", "10.0.0.3", request("10.0.0.1:1", xff, "10.0.0.3, 10.0.0.2")},
		{"no field: the proxy", "10.0.0.1", request("10.0.0.1:1")},
		{"garbage from the proxy: the proxy", "10.0.0.1", request("10.0.0.1:1", xff, "unknown")},
		{"garbage from the inner proxy: the inner proxy", "10.0.0.2", request("10.0.0.1:1", xff, "203.0.113.9, nonsense, 10.0.0.2")},
		{"an empty element", "10.0.0.1", request("10.0.0.1:1", xff, "203.0.113.9,")},
		{"leading zeros", "10.0.0.1", request("10.0.0.1:1", xff, "203.0.113.09")},
		{"no peer", "", request("")},
		{"a Unix socket", "", request("@", xff, "203.0.113.9")},
		{"a peer that is no address", "", request("example.com:80")},
		{"a peer with leading zeros", "", request("203.0.113.09:1")},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, ratelimit.ClientIP(proxies...)(c.r))
		})
	}
}

func TestForwardedIsReadByRFC7239(t *testing.T) {
	key, err := ratelimit.NewClientIP(ratelimit.ClientIPConfig{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Field: "forwarded"})
	require.NoError(t, err)
	for field, want := range map[string]string{
		`for=203.0.113.9`:                                      "203.0.113.9",
		`For="203.0.113.9:4711"`:                               "203.0.113.9",
		`for="[2001:db8:1:2::9]:4711"`:                         "2001:db8:1:2::/64",
		`for=198.51.100.1, for=203.0.113.9;proto=https`:        "203.0.113.9",
		`by=10.0.0.1; for=203.0.113.9 ;host="a,b;for=1.1.1.1"`: "203.0.113.9",
		`for=203.0.113.9, for=10.0.0.2`:                        "203.0.113.9",
		`for="198.51.100.1, for=203.0.113.9`:                   "203.0.113.9", // the stranger left a quote open
		`";,\", for=203.0.113.9`:                               "203.0.113.9",
		`for=_hidden`:                                          "10.0.0.1",
		`for=unknown`:                                          "10.0.0.1",
		`proto=https`:                                          "10.0.0.1",
		`for=203.0.113.9;for=198.51.100.1`:                     "10.0.0.1",
		`for="203.0.113\.9"`:                                   "10.0.0.1",
		``:                                                     "10.0.0.1",
	} {
		require.Equal(t, want, key(request("10.0.0.1:1", "Forwarded", field, "X-Forwarded-For", "198.51.100.99")), "%s", field)
	}
	require.Equal(t, "198.51.100.1", key(request("198.51.100.1:1", "Forwarded", "for=203.0.113.9")))
}

func TestASingleFieldIsTakenFromATrustedPeerOnly(t *testing.T) {
	key, err := ratelimit.NewClientIP(ratelimit.ClientIPConfig{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Field: "CF-Connecting-IP"})
	require.NoError(t, err)
	require.Equal(t, "203.0.113.9", key(request("10.0.0.1:1", "Cf-Connecting-Ip", "203.0.113.9", "X-Forwarded-For", "1.1.1.1")))
	require.Equal(t, "198.51.100.1", key(request("198.51.100.1:1", "Cf-Connecting-Ip", "203.0.113.9")))
	require.Equal(t, "10.0.0.1", key(request("10.0.0.1:1", "Cf-Connecting-Ip", "203.0.113.9, 1.1.1.1")))
	require.Equal(t, "10.0.0.1", key(request("10.0.0.1:1", "Cf-Connecting-Ip", "203.0.113.9", "Cf-Connecting-Ip", "1.1.1.1")), "two fields are one too many")
}

func TestWidthsCanBeSet(t *testing.T) {
	key, err := ratelimit.NewClientIP(ratelimit.ClientIPConfig{IPv4Bits: 24, IPv6Bits: 48, LocalProxy: true})
	require.NoError(t, err)
	require.Equal(t, "203.0.113.0/24", key(request("203.0.113.9:1")))
	require.Equal(t, "2001:db8:1::/48", key(request("[2001:db8:1:2::9]:1")))
	require.Equal(t, "203.0.113.0/24", key(request("@", "X-Forwarded-For", "203.0.113.9")), "a Unix socket, trusted")
	require.Equal(t, "", key(request("@")))

	_, err = ratelimit.NewClientIP(ratelimit.ClientIPConfig{IPv4Bits: 33, IPv6Bits: -1, Proxies: make([]netip.Prefix, 1)})
	require.ErrorContains(t, err, "ClientIPConfig.IPv4Bits is 33")
	require.ErrorContains(t, err, "ClientIPConfig.IPv6Bits is -1")
	require.ErrorContains(t, err, "ClientIPConfig.Proxies[0] is not a valid prefix")
	require.Panics(t, func() { ratelimit.ClientIP(netip.Prefix{}) })
}

func TestAKeyThatNamesNothingIsRefused(t *testing.T) {
	require.PanicsWithValue(t, "ratelimit: Header: name is empty, must name a field", func() { ratelimit.Header("") })
	require.PanicsWithValue(t, "ratelimit: Keys: parts[1] is nil, must name a bucket", func() { ratelimit.Keys(ratelimit.ClientIP(), nil) })
}

func TestKeysCompose(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("GET /orders/{id}", ok)
	key := ratelimit.Keys(ratelimit.Header("x-api-key"), ratelimit.Pattern(mux))
	a, b := request("203.0.113.9:1", "X-Api-Key", "k"), request("203.0.113.9:1", "X-Api-Key", "k")
	a.URL.Path, b.URL.Path = "/orders/1", "/orders/2"
	require.Equal(t, key(a), key(b), "one bucket per route")
	b.Header.Set("X-Api-Key", "other")
	require.NotEqual(t, key(a), key(b))
	b.Header.Add("X-Api-Key", "k")
	require.Equal(t, "", ratelimit.Header("X-Api-Key")(b), "two identities are none")

	fixed := func(s string) ratelimit.KeyFunc { return func(*http.Request) string { return s } }
	require.NotEqual(t, ratelimit.Keys(fixed("a 1:b"), fixed("c"))(a), ratelimit.Keys(fixed("a"), fixed("b 1:c"))(a))
	require.NotEqual(t, ratelimit.Keys(fixed("ab"), fixed(""))(a), ratelimit.Keys(fixed(""), fixed("ab"))(a))
	require.Equal(t, "", ratelimit.Keys(fixed(""), fixed(""))(a))

	var inside string
	mux.HandleFunc("GET /in/{x}", func(w http.ResponseWriter, r *http.Request) { inside = ratelimit.Pattern(nil)(r) })
	r := request("203.0.113.9:1")
	r.URL.Path = "/in/1"
	mux.ServeHTTP(httptest.NewRecorder(), r)
	require.Equal(t, "GET /in/{x}", inside)
}

func TestWithoutAKeyTheLimitIsPerPeer(t *testing.T) {
	h := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1)}).Handler(ok)
	for _, remote := range []string{"203.0.113.9:1", "203.0.113.10:1", "garbage"} {
		require.Equal(t, 200, get(h, func(r *http.Request) { r.RemoteAddr = remote }).Code)
		require.Equal(t, 429, get(h, func(r *http.Request) { r.RemoteAddr = remote }).Code)
	}
	require.Equal(t, 429, get(h, func(r *http.Request) { r.RemoteAddr = "other garbage" }).Code, "those who are nobody share")
}
