package balancer

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSRVPrioritiesBecomeTiers(t *testing.T) {
	records := []*net.SRV{
		{Target: "c.internal.", Port: 80, Priority: 20, Weight: 5},
		{Target: "b.internal.", Port: 8080, Priority: 10, Weight: 0},
		{Target: "a.internal.", Port: 8080, Priority: 10, Weight: 60},
	}
	want := []Backend{
		{URL: "http://a.internal:8080", Weight: 60},
		{URL: "http://b.internal:8080"},
		{URL: "http://c.internal:80", Weight: 5, Tier: 1},
	}
	require.Equal(t, want, fromSRV("http", records))
	records[0], records[2] = records[2], records[0]
	require.Equal(t, want, fromSRV("http", records), "whatever order the answer has")
	require.Empty(t, fromSRV("http", nil))
}

// Whatever a file holds, it is an error or a list of backends.
func FuzzParseBackends(f *testing.F) {
	for _, s := range []string{`["http://a"]`, `[{"URL":"http://a","Weight":2}]`, `[]`, `null`, `[null]`, `{}`, `[1]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseBackends(data)
		if err != nil {
			require.Nil(t, list)
			return
		}
		_, _ = checkBackends(list, "file")
	})
}

func TestQuantileOfRecentLatencies(t *testing.T) {
	l := new(latencies)
	require.Zero(t, l.quantile(0, 0.9), "nothing is known")
	for i := range 1000 {
		l.add(1e9, 1e6*(1+time.Duration(i%100)))
	}
	got := l.quantile(2e9, 0.9)
	require.InEpsilon(t, 90e6, float64(got), 0.15)
	require.Equal(t, got, l.quantile(2e9+1e7, 0.1), "it is computed every tenth of a second")
	require.InEpsilon(t, 10e6, float64(l.quantile(3e9, 0.1)), 0.2)
	require.Zero(t, l.quantile(60e9, 0.9), "and forgotten after twenty seconds")
}

func TestBucketsCoverEveryDuration(t *testing.T) {
	for d := time.Duration(0); d < 1e11; d = d*11/10 + 999 {
		k := bucketOf(d)
		require.LessOrEqual(t, d, bucketEnd(k))
		if d > 1e5 {
			require.Greater(t, float64(d), 0.85*float64(bucketEnd(k)))
		}
	}
	require.NotPanics(t, func() { bucketOf(-1); bucketOf(forever) })
}

// With ejection off, a backend that is down counts them for days.
func TestPatienceHasAnEndAfterTwoBillionFailures(t *testing.T) {
	e := new(Endpoint)
	for _, n := range []uint32{4, 5, 1 << 31, 1<<32 - 1} {
		e.failures.Store(n)
		require.Equal(t, 16*time.Second, e.patience(time.Second), n)
	}
}
