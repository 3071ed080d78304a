package cache

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestTheIndexFindsWhatAMapFinds(t *testing.T) {
	for _, spread := range []uint64{1, 7, 1 << 40} { // slots between those that hashes lead to
		var x index
		x.init(8)
		want := map[uint64]*entry{}
		r := rand.New(rand.NewPCG(spread, 1))
		for range 20_000 {
			hash := r.Uint64N(25)/spread*spread*shardCount + r.Uint64N(25)<<50
			switch {
			case r.IntN(2) == 0:
				want[hash] = &entry{hash: hash}
				x.set(hash, want[hash])
			case want[hash] != nil:
				delete(want, hash)
				x.remove(hash)
			}
			require.Same(t, want[hash], x.get(hash))
		}
		require.Equal(t, len(want), x.used)
		for hash, e := range want {
			require.Same(t, e, x.get(hash))
		}
		seen := 0
		for e := range x.all {
			require.Same(t, want[e.hash], e)
			seen++
		}
		require.Equal(t, len(want), seen)
	}
}

// sized answers with a fresh response, and counts the calls for each path.
func sized(calls *sync.Map) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := calls.LoadOrStore(r.URL.Path, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		h := w.Header()
		h.Set("Cache-Control", "max-age=3600")
		h.Set("Etag", strconv.Quote(r.URL.Path))
		h.Set("Vary", "Accept-Encoding, Accept-Language")
		io.WriteString(w, r.URL.Path)
	})
}

func TestWhatStaysIsFoundWhileOthersComeAndGo(t *testing.T) {
	// Stored responses move within the index when others are purged, and when
	// it grows. No request may take that for a miss, or get another's answer.
	var calls sync.Map
	c := MustNew(Config{})
	h := c.Handler(sized(&calls))
	ask := func(path string) string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "http://example.com"+path, nil))
		return w.Body.String()
	}
	const stay = 500
	for i := range stay {
		ask(fmt.Sprint("/stays/", i))
	}
	var churn, readers sync.WaitGroup
	var over atomic.Bool
	for g := range 2 {
		churn.Go(func() {
			for i := range 3000 {
				ask(fmt.Sprint("/goes/", g, "/", i))
				if i%3 > 0 {
					err := c.Purge(t.Context(), URL(fmt.Sprint("http://example.com/goes/", g, "/", i)))
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
		readers.Go(func() {
			for i := 0; !over.Load(); i++ {
				path := fmt.Sprint("/stays/", i%stay)
				if got := ask(path); got != path {
					t.Errorf("%s answers %s", got, path)
				}
			}
		})
	}
	churn.Wait()
	over.Store(true)
	readers.Wait()
	for i := range stay {
		n, _ := calls.Load(fmt.Sprint("/stays/", i))
		require.EqualValues(t, 1, n.(*atomic.Int64).Load(), "calls for number %d", i)
	}
}

func TestEntriesShareWhatTheyHaveInCommon(t *testing.T) {
	var calls sync.Map
	c := MustNew(Config{})
	h := c.Handler(sized(&calls))
	for i := range 100 {
		r := httptest.NewRequest("GET", fmt.Sprint("http://example.com/", i), nil)
		r.Header.Set("Accept-Encoding", strings.Repeat("gzip", i%2))
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	shapes, varies := map[*shape]int{}, map[*varySet]int{}
	for _, s := range c.shards {
		for _, e := range s.entries {
			shapes[e.fields.shape]++
			varies[e.vary]++
			require.Equal(t, []string{strconv.Quote(strings.TrimPrefix(e.key, "hhttp://example.com"))}, e.field("Etag"))
		}
	}
	require.Len(t, shapes, 1)
	require.Len(t, varies, 2)
}

func TestAnEntryWithFewFieldsFillsItsClass(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) == 8 {
		require.EqualValues(t, 512, unsafe.Sizeof(fewPacked{}))
	}
}
