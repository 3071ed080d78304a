package cache_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-spillway/spillway/cache"
)

func ExampleLoader() {
	type Product struct{ Name string }
	products := cache.MustNewLoader(cache.LoaderConfig[string, Product]{
		Name: "products",
		Load: func(ctx context.Context, sku string) (Product, error) {
			fmt.Println("asking the database for", sku)
			return Product{Name: "a kettle"}, nil
		},
		TTL:        time.Minute,
		StaleFor:   10 * time.Minute,
		MaxEntries: 100_000,
	})
	defer products.Close()

	for range 3 {
		p, err := products.Get(context.Background(), "sku-42")
		fmt.Println(p.Name, err)
	}
	// Output:
	// asking the database for sku-42
	// a kettle <nil>
	// a kettle <nil>
	// a kettle <nil>
}

func ExampleNewLoader_invalid() {
	_, err := cache.NewLoader(cache.LoaderConfig[string, int]{Jitter: 2})
	fmt.Println(err)
	// Output:
	// cache: LoaderConfig.Load is nil, must say how a value is loaded
	// cache: LoaderConfig.Jitter is 2, must be less than 1
}

// What the source doesn't have is remembered too.
func ExampleLoaderConfig_notFound() {
	errNoRows := errors.New("no rows") // for example sql.ErrNoRows
	users := cache.MustNewLoader(cache.LoaderConfig[int, string]{
		Load: func(ctx context.Context, id int) (string, error) {
			fmt.Println("asking for user", id)
			return "", errNoRows
		},
		NotFound:    func(err error) bool { return errors.Is(err, errNoRows) },
		NotFoundTTL: 5 * time.Second,
	})
	defer users.Close()

	for range 2 {
		_, err := users.Get(context.Background(), 7)
		fmt.Println(err, errors.Is(err, cache.ErrNotFound))
	}
	// Output:
	// asking for user 7
	// no rows true
	// no rows true
}

// After a write, forget the old value: a load that is running at that moment
// can't bring it back.
func ExampleLoader_Delete() {
	price := 10
	prices := cache.MustNewLoader(cache.LoaderConfig[string, int]{
		Load: func(context.Context, string) (int, error) { return price, nil },
	})
	defer prices.Close()

	ctx := context.Background()
	before, _ := prices.Get(ctx, "kettle")
	price = 12 // UPDATE …
	_ = prices.Delete(ctx, "kettle")
	after, _ := prices.Get(ctx, "kettle")
	fmt.Println(before, after)
	// Output: 10 12
}
