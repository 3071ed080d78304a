package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
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

// Many keys at once: what is in memory from there, the rest by one query.
func ExampleLoader_GetMany() {
	users := cache.MustNewLoader(cache.LoaderConfig[int, string]{
		LoadMany: func(ctx context.Context, ids []int) (map[int]string, error) {
			slices.Sort(ids)
			fmt.Println("SELECT … WHERE id IN", ids)
			names := map[int]string{}
			for _, id := range ids {
				if id < 100 { // there are no more
					names[id] = fmt.Sprint("user ", id)
				}
			}
			return names, nil
		},
		Gather: time.Millisecond, // single misses are gathered, too
	})
	defer users.Close()

	ctx := context.Background()
	_, _ = users.Get(ctx, 1)
	names, err := users.GetMany(ctx, []int{1, 2, 3, 100})
	fmt.Println(names, err)
	// Output:
	// SELECT … WHERE id IN [1]
	// SELECT … WHERE id IN [2 3 100]
	// map[1:user 1 2:user 2 3:user 3] <nil>
}

// A change of a brand changes all its products.
func ExampleLoader_DeleteTags() {
	type product struct{ Name, Brand string }
	products := cache.MustNewLoader(cache.LoaderConfig[string, product]{
		Load: func(ctx context.Context, sku string) (product, error) {
			fmt.Println("loading", sku)
			return product{sku, "acme"}, nil
		},
		Tags: func(sku string, p product) []string { return []string{"brand:" + p.Brand} },
	})
	defer products.Close()

	ctx := context.Background()
	_, _ = products.Get(ctx, "kettle")
	_ = products.DeleteTags(ctx, "brand:acme")
	_, _ = products.Get(ctx, "kettle")
	// Output:
	// loading kettle
	// loading kettle
}

// A process can begin with what the one before it had in memory.
func ExampleLoader_Save() {
	load := func(ctx context.Context, sku string) (int, error) { return 42, nil }
	before := cache.MustNewLoader(cache.LoaderConfig[string, int]{Load: load})
	defer before.Close()
	_, _ = before.Get(context.Background(), "kettle")
	var file bytes.Buffer // os.Create, as the process ends
	_, err := before.Save(&file)
	fmt.Println(err)

	after := cache.MustNewLoader(cache.LoaderConfig[string, int]{Load: load})
	defer after.Close()
	n, err := after.Restore(&file) // os.Open, before it serves
	fmt.Println(n, err)
	fmt.Println(after.Peek("kettle"))
	// Output:
	// <nil>
	// 1 <nil>
	// 42 true
}
