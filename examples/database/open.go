package main

import (
	"database/sql"
	"io"
	"net/http"
	"strconv"
)

// openShop opens a database and makes 1,000 products and 2,000 reviews there,
// in SQL that SQLite and PostgreSQL both speak.
func openShop(driver, dsn string) (*sql.DB, error) {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(8)
	for _, statement := range []string{
		`DROP TABLE IF EXISTS spillway_reviews`,
		`DROP TABLE IF EXISTS spillway_products`,
		`CREATE TABLE spillway_products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price INTEGER NOT NULL)`,
		`CREATE TABLE spillway_reviews (product INTEGER NOT NULL, stars INTEGER NOT NULL)`,
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
			INSERT INTO spillway_products SELECT i, 'product ' || i, 10 + i % 90 FROM n`,
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
			INSERT INTO spillway_reviews SELECT 1 + i % 1000, 1 + i % 5 FROM n`,
	} {
		if _, err := db.Exec(statement); err != nil {
			db.Close()
			return nil, err
		}
	}
	return db, nil
}

// drain reads an answer to its end, so that the connection can be used again.
func drain(res *http.Response) error {
	defer res.Body.Close()
	_, err := io.Copy(io.Discard, res.Body)
	return err
}

// number returns a wildcard of the path, or 0.
func number(r *http.Request, name string) int {
	n, _ := strconv.Atoi(r.PathValue(name))
	return n
}
