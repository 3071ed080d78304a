package ratelimit_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/ratelimit"
)

// Whatever a stranger sends, in whichever field, through a proxy that appends
// the stranger's address, the bucket is the stranger's.
func FuzzAStrangerIsChargedForItself(f *testing.F) {
	for _, s := range []string{"", "198.51.100.1", "10.0.0.5", "for=10.0.0.5", `for="`, `for=1.1.1.1, for="[::1]`, "unknown,,", `\",";`, strings.Repeat("10.0.0.1,", 1000), "::ffff:10.0.0.1", "[", "a\x00b", "1.2.3.4%eth0"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	forwarded, err := ratelimit.NewClientIP(ratelimit.ClientIPConfig{Proxies: trusted, Field: "Forwarded"})
	require.NoError(f, err)
	xff := ratelimit.ClientIP(trusted...)
	direct := ratelimit.ClientIP()
	f.Fuzz(func(t *testing.T, sent string, v6 bool) {
		stranger, want := "203.0.113.9", "203.0.113.9"
		node := "for=" + stranger
		if v6 {
			stranger, want = "2001:db8:1:2:3::9", "2001:db8:1:2::/64"
			node = `for="[` + stranger + `]:1";proto=https`
		}
		for _, newLine := range []bool{false, true} {
			h := http.Header{"X-Forwarded-For": {sent + ", " + stranger}, "Forwarded": {sent + ", " + node}}
			if newLine { // a proxy may add a line instead
				h = http.Header{"X-Forwarded-For": {sent, stranger}, "Forwarded": {sent, node}}
			}
			r := &http.Request{RemoteAddr: "10.0.0.1:1", Header: h}
			require.Equal(t, want, xff(r))
			require.Equal(t, want, forwarded(r))
			r.RemoteAddr = "[" + stranger + "]:1"
			require.Equal(t, want, xff(r))
			require.Equal(t, want, direct(r))
		}
	})
}

// A RemoteAddr names an address, in its one form, or nobody.
func FuzzRemoteAddr(f *testing.F) {
	for _, s := range []string{"1.2.3.4:5", "[::1]:5", "[fe80::1%x]:5", "1.2.3.04:5", "@", "", ":", "[1.2.3.4]:5", "1.2.3.4", "256.1.1.1:1", "0.0.0.0:0", "00.0.0.0:0", "1.2.3.4.:1"} {
		f.Add(s)
	}
	direct := ratelimit.ClientIP()
	proxied := ratelimit.ClientIP(netip.MustParsePrefix("10.0.0.0/8"))
	f.Fuzz(func(t *testing.T, remote string) {
		r := &http.Request{RemoteAddr: remote}
		key := direct(r)
		require.Equal(t, key, proxied(r), "the quick way and the long one agree")
		if key == "" {
			return
		}
		if a, err := netip.ParseAddr(key); err == nil {
			require.True(t, a.Is4())
			require.Equal(t, a.String(), key)
			return
		}
		p, err := netip.ParsePrefix(key)
		require.NoError(t, err)
		require.Equal(t, p.Masked().String(), key)
	})
}

// Whatever an upstream answers, the next request is sent, or refused, within
// MaxPause.
func FuzzWhatAnUpstreamSays(f *testing.F) {
	f.Add(429, "30", `"a";r=0;t=9`, "0", "60")
	f.Add(503, "Wed, 21 Oct 2015 07:28:00 GMT", `"a";r=5;t=0`, "1", "1e9")
	f.Add(200, "-1", `"a";r=99999999999999999999;t=1,"b";r=1`, "0", "99999999999999")
	f.Add(200, "999999999999999999", `;;;=,"`, "", "-5")
	f.Fuzz(func(t *testing.T, status int, after, limit, remaining, reset string) {
		l := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(1_000_000), MaxPause: time.Millisecond})
		client := &http.Client{Timeout: time.Minute, Transport: l.Transport(roundTrip(func(*http.Request) (*http.Response, error) {
			h := http.Header{"Retry-After": {after}, "Ratelimit": {limit}, "X-Ratelimit-Remaining": {remaining}, "X-Ratelimit-Reset": {reset}}
			return &http.Response{StatusCode: 200 + (status&1)*229, Header: h, Body: http.NoBody}, nil
		}))}
		for range 2 {
			start := time.Now()
			res, err := client.Get("http://upstream.test/")
			require.NoError(t, err)
			res.Body.Close()
			require.Less(t, time.Since(start), 30*time.Second)
		}
	})
}

// Whatever Restore reads, it is restored whole, or nothing is.
func FuzzRestore(f *testing.F) {
	cfg := ratelimit.Config{Rate: ratelimit.PerHour(2), Also: []ratelimit.Rate{ratelimit.PerDay(3)}}
	l := ratelimit.MustNew(cfg)
	allow(f, l, "k", 2)
	var b bytes.Buffer
	require.NoError(f, l.Snapshot(&b))
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:len(b.Bytes())-8]) // which the target completes
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		l := ratelimit.MustNew(cfg)
		allow(t, l, "other", 2)
		if l.Restore(bytes.NewReader(data)) != nil {
			require.False(t, allow(t, l, "other", 1).Allowed)
		}
		allow(t, l, "k", 1)

		// The same with a checksum that is right.
		data = data[:len(data)/8*8]
		data = binary.LittleEndian.AppendUint64(data[:len(data):len(data)], uint64(crc32.ChecksumIEEE(data)))
		l = ratelimit.MustNew(cfg)
		l.Restore(bytes.NewReader(data))
		require.LessOrEqual(t, l.Peek(ctx, "k").Remaining, 2)
		l.Forget(ctx, "k")
		require.True(t, allow(t, l, "k", 2).Allowed)
		require.False(t, allow(t, l, "k", 1).Allowed)
	})
}
