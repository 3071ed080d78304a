// Database shows what cache.Loader does for a database: the same requests
// without it and with it, the queries that reach the database, and how long the
// slowest took. Then it goes on serving, to be tried with curl.
//
//	go run -C examples/database .        # from the root of the repository; SQLite in memory
//	go run -C examples/database . -driver pgx -dsn postgres://user:password@localhost/test   # replaces two tables there, spillway_…
//	curl localhost:8080/cached/7 ; curl -X PUT localhost:8080/cached/7/99 ; curl localhost:8080/cached/7
//
// You should see three lines, of 2,000 requests each: as many queries without
// the cache, some hundreds while it fills, none after that; and with curl, the
// old price and then the new one. The part to copy is newShop; flood.go is the
// load that it brings, open.go makes the tables.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
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
	err = s.db.QueryRowContext(ctx, `SELECT name, price, (SELECT avg(stars) FROM spillway_reviews WHERE product % 9 = id % 9)
		FROM spillway_products WHERE id = $1`, id).Scan(&p.Name, &p.Price, &p.Stars)
	return p, err
}

func (s *shop) setPrice(ctx context.Context, id, price int) error {
	if _, err := s.db.ExecContext(ctx, `UPDATE spillway_products SET price = $1 WHERE id = $2`, price, id); err != nil {
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
