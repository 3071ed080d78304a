package main

import (
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

var postgres = flag.String("postgres", "", "a PostgreSQL to test with too, for example postgres://user:password@localhost/test")

func TestTheCacheSparesTheDatabaseItsQueries(t *testing.T) {
	databases := map[string]string{"sqlite": "file:test?mode=memory&cache=shared"}
	if *postgres != "" {
		databases["pgx"] = *postgres
	}
	for driver, dsn := range databases {
		t.Run(driver, func(t *testing.T) {
			db, err := openShop(driver, dsn)
			require.NoError(t, err)
			defer db.Close()
			s := newShop(db)
			defer s.products.Close()
			server := httptest.NewServer(s.handler()) // on a real socket
			defer server.Close()

			queries, failed := s.flood(io.Discard, "", server.URL+"/bare/", 20, 10)
			require.EqualValues(t, 200, queries)
			require.Zero(t, failed)
			queries, failed = s.flood(io.Discard, "", server.URL+"/cached/", 20, 10)
			require.Less(t, queries, int64(150))
			require.Zero(t, failed)
			queries, failed = s.flood(io.Discard, "", server.URL+"/cached/", 20, 10)
			require.Zero(t, queries)
			require.Zero(t, failed)

			do := func(method, path string) (int, string) {
				req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
				require.NoError(t, err)
				res, err := http.DefaultClient.Do(req)
				require.NoError(t, err)
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				return res.StatusCode, string(body)
			}
			status, body := do("GET", "/cached/7")
			require.Equal(t, 200, status)
			require.Contains(t, body, "product 7 costs 17 ")
			status, _ = do("PUT", "/cached/7/99")
			require.Equal(t, 200, status)
			_, body = do("GET", "/cached/7")
			require.Contains(t, body, "product 7 costs 99 ")

			before := s.queries.Load()
			for range 3 {
				status, body = do("GET", "/cached/12345")
				require.Equal(t, 404, status, body)
			}
			require.EqualValues(t, 1, s.queries.Load()-before, "that there is none is known too")

			require.NoError(t, s.products.Delete(t.Context(), 8))
			before = s.queries.Load()
			var wg sync.WaitGroup
			for range 200 {
				wg.Go(func() {
					if _, err := s.products.Get(t.Context(), 8); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			require.EqualValues(t, 1, s.queries.Load()-before, "a burst for one key is one query")

			require.NoError(t, db.Close())
			status, body = do("GET", "/cached/7")
			require.Equal(t, 200, status, "with the database gone: %s", body)
			status, _ = do("GET", "/cached/999")
			require.Contains(t, []int{200, 503}, status)
			status, _ = do("GET", "/bare/7")
			require.Equal(t, 503, status)
		})
	}
}
