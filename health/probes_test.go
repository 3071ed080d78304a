package health_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

func TestHTTPGet(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/elsewhere":
			http.Redirect(w, r, "/503", http.StatusFound)
		case "/503":
			w.WriteHeader(503)
		case "/hang":
			<-r.Context().Done()
		}
	}))
	defer srv.Close()
	require.NoError(t, health.HTTPGet(nil, srv.URL)(t.Context()))
	require.NoError(t, health.HTTPGet(srv.Client(), srv.URL)(t.Context()))
	require.NoError(t, health.HTTPGet(nil, srv.URL+"/elsewhere")(t.Context()), "redirects are not followed")
	require.ErrorContains(t, health.HTTPGet(nil, srv.URL+"/503")(t.Context()), "answered 503")
	require.Error(t, health.HTTPGet(nil, "::no url")(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.ErrorIs(t, health.HTTPGet(nil, srv.URL+"/hang")(ctx), context.DeadlineExceeded)
	srv.Close()
	require.Error(t, health.HTTPGet(nil, srv.URL)(t.Context()))
}

func TestTCP(t *testing.T) {
	ln := listen(t)
	require.NoError(t, health.TCP(ln.Addr().String())(t.Context()))
	ln.Close()
	require.Error(t, health.TCP(ln.Addr().String())(t.Context()))
}

func TestDNS(t *testing.T) {
	require.NoError(t, health.DNS(nil, "127.0.0.1")(t.Context()))
	broken := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errDown }}
	require.Error(t, health.DNS(broken, "service.invalid")(t.Context()))
}

func TestGoroutines(t *testing.T) {
	require.NoError(t, health.Goroutines(1_000_000)(t.Context()))
	require.ErrorContains(t, health.Goroutines(0)(t.Context()), "goroutines, at most 0 are expected")
}

func TestAtLeast(t *testing.T) {
	v := 0.5
	probe := health.AtLeast(func() float64 { return v }, 0.5)
	require.NoError(t, probe(t.Context()))
	v = 0.49
	require.EqualError(t, probe(t.Context()), "0.49, at least 0.5 is expected")
	v -= v
	v /= v
	require.Error(t, probe(t.Context()), "not a number is not enough")
}

func TestDiskFree(t *testing.T) {
	require.NoError(t, health.DiskFree(t.TempDir(), 0)(t.Context()))
	used := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(used, "file"), []byte("not all is free"), 0o600))
	require.ErrorContains(t, health.DiskFree(used, 1)(t.Context()), "% of the disk is free, at least 100 % is expected")
	require.Error(t, health.DiskFree("/no/such/folder", 0)(t.Context()))
}

// A percentage in place of a share passes for ever, or fails for ever.
func TestAProbeRefusesWhatIsNotAShare(t *testing.T) {
	for _, v := range []float64{90, 1.1, -0.1, math.NaN(), math.Inf(1)} {
		require.PanicsWithValue(t, fmt.Sprintf("health: Memory: most is %v, must be from 0 to 1", v), func() { health.Memory(v) })
		require.PanicsWithValue(t, fmt.Sprintf("health: DiskFree: least is %v, must be from 0 to 1", v), func() { health.DiskFree("/", v) })
	}
	require.PanicsWithValue(t, "health: AtLeast: value is nil, must return the value", func() { health.AtLeast(nil, 0.5) })
	require.PanicsWithValue(t, "health: AtLeast: least is NaN, must be a number", func() { health.AtLeast(func() float64 { return 1 }, math.NaN()) })
}

// A pinger is a database whose driver can be pinged.
type pinger struct{ err error }

func (p pinger) Connect(context.Context) (driver.Conn, error) { return p, nil }
func (p pinger) Driver() driver.Driver                        { return nil }
func (p pinger) Ping(context.Context) error                   { return p.err }
func (p pinger) Prepare(string) (driver.Stmt, error)          { return nil, errors.ErrUnsupported }
func (p pinger) Close() error                                 { return nil }
func (p pinger) Begin() (driver.Tx, error)                    { return nil, errors.ErrUnsupported }

func TestADatabaseIsItsOwnProbe(t *testing.T) {
	for _, want := range []error{nil, errDown} {
		db := sql.OpenDB(pinger{want})
		defer db.Close()
		c := health.Check{Probe: db.PingContext}
		require.Equal(t, want, c.Probe(t.Context()))
	}
}
