package redislimit_test

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/go-spillway/spillway/ratelimit"
	"github.com/go-spillway/spillway/ratelimit/redislimit"
)

// All processes that name the same server and prefix share one limit. Here
// nobody listens at the address: decisions go on, with this process's share of
// the rate.
func ExampleNew() {
	rdb := redis.NewClient(&redis.Options{
		Addr:                  "127.0.0.1:1",
		ContextTimeoutEnabled: true, // saves a goroutine a decision
	})
	defer rdb.Close()
	lim := ratelimit.MustNew(ratelimit.Config{
		Rate:       ratelimit.PerMinute(100),
		Store:      redislimit.New("api:", rdb),
		LocalShare: 1.0 / 4, // there are four of us
		Lease:      10,      // tokens at a time for a busy key: at worst, four times ten too many
	})

	d, err := lim.Allow(context.Background(), "tenant-42", 1)
	fmt.Println(d.Allowed, d.Degraded, d.Rate(), err)
	for _, why := range lim.Conditions() {
		fmt.Println(why[:len("deciding locally since")])
	}
	// Output:
	// true true 100 per 4m0s, burst 25 <nil>
	// deciding locally since
}
