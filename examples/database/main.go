// Database shows what cache.Loader does for a database: the same requests
// without it and with it, the queries that reach the database, and how long the
// slowest took. Then it goes on serving, to be tried with curl.
//
//	go run .                                                              # SQLite in memory
//	go run . -driver pgx -dsn postgres://user:password@localhost/test     # makes two tables there
//	curl localhost:8080/cached/7 ; curl -X PUT localhost:8080/cached/7/99 ; curl localhost:8080/cached/7
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // driver "pgx"
	_ "modernc.org/sqlite"             // driver "sqlite", pure Go

	"github.com/go-spillway/spillway/cache"
)

type product struct {
	Name  string
	Price int
	Stars float64
}

type shop struct {
	db       *sql.DB
	queries  atomic.Int64
	products *cache.Loader[int, product]
}

func newShop(db *sql.DB) *shop {
	s := &shop{db: db}
	s.products = cache.MustNewLoader(cache.LoaderConfig[int, product]{ // the part to copy
		Name:       "products",
		Load:       s.query,
		NotFound:   func(err error) bool { return errors.Is(err, sql.ErrNoRows) },
		TTL:        time.Minute,
		StaleFor:   10 * time.Minute, // served while the database is down, too
		MaxEntries: 100_000,
		MaxLoads:   8, // queries at a time
	})
	return s
}

func (s *shop) query(ctx context.Context, id int) (p product, err error) {
	s.queries.Add(1)
	err = s.db.QueryRowContext(ctx, `SELECT name, price, (SELECT avg(stars) FROM reviews WHERE product % 9 = id % 9)
		FROM products WHERE id = $1`, id).Scan(&p.Name, &p.Price, &p.Stars)
	return p, err
}

func (s *shop) setPrice(ctx context.Context, id, price int) error {
	if _, err := s.db.ExecContext(ctx, `UPDATE products SET price = $1 WHERE id = $2`, price, id); err != nil {
		return err
	}
	return s.products.Delete(ctx, id) // no load that is running can bring the old price back
}

func (s *shop) handler() http.Handler {
	answer := func(w http.ResponseWriter, err error) {
		switch {
		case errors.Is(err, sql.ErrNoRows):
			http.Error(w, "no such product", http.StatusNotFound)
		case err != nil:
			http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
		}
	}
	get := func(load func(context.Context, int) (product, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			p, err := load(r.Context(), number(r, "id"))
			if err == nil {
				fmt.Fprintf(w, "%s costs %d and has %.1f stars\n", p.Name, p.Price, p.Stars)
			}
			answer(w, err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bare/{id}", get(s.query))
	mux.HandleFunc("GET /cached/{id}", get(s.products.Get))
	mux.HandleFunc("PUT /cached/{id}/{price}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, s.setPrice(r.Context(), number(r, "id"), number(r, "price")))
	})
	return mux
}

// flood sends requests from many clients, most of them for a few products.
func (s *shop) flood(out io.Writer, what, base string, clients, each int) (queries, failed int64) {
	before, from, client := s.queries.Load(), time.Now(), &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	took := make([]time.Duration, clients*each)
	var failures atomic.Int64
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			zipf := rand.NewZipf(rand.New(rand.NewPCG(1, uint64(c))), 1.1, 1, 999)
			for i := range each {
				began := time.Now()
				res, err := client.Get(base + strconv.FormatUint(1+zipf.Uint64(), 10))
				if err != nil || res.StatusCode != http.StatusOK || drain(res) != nil {
					failures.Add(1)
				}
				took[c*each+i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	queries, failed = s.queries.Load()-before, failures.Load()
	fmt.Fprintf(out, "%-22s %6d requests %6d queries %4d failed %7.0f/s   p99 %v\n", what, len(took), queries, failed,
		float64(len(took))/time.Since(from).Seconds(), took[len(took)*99/100].Round(10*time.Microsecond))
	return queries, failed
}

func main() {
	driver := flag.String("driver", "sqlite", "sqlite or pgx")
	dsn := flag.String("dsn", "file:shop?mode=memory&cache=shared", "where the database is")
	listen := flag.String("listen", "localhost:8080", "where to serve")
	flag.Parse()
	db, err := openShop(*driver, *dsn)
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	s, base := newShop(db), "http://"+l.Addr().String()
	go func() {
		s.flood(os.Stdout, "without the cache:", base+"/bare/", 100, 20)
		s.flood(os.Stdout, "with it, still empty:", base+"/cached/", 100, 20)
		s.flood(os.Stdout, "and once more:", base+"/cached/", 100, 20)
		fmt.Println("serving on", base)
	}()
	log.Fatal(http.Serve(l, s.handler()))
}
