package ratelimit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"time"

	"github.com/go-spillway/spillway/ratelimit"
)

var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })

func Example() {
	lim := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerMinute(2),
		Key:  ratelimit.ClientIP(netip.MustParsePrefix("10.0.0.0/8")), // our proxies
	})
	h := lim.Handler(hello)

	for range 3 {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "10.0.0.7:4711"
		r.Header.Set("X-Forwarded-For", "203.0.113.9")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Header()["Ratelimit"], w.Header()["Ratelimit-Policy"])
	}
	// Output:
	// 200 ["default";r=1;t=30] ["default";q=2;w=60]
	// 200 ["default";r=0;t=30] ["default";q=2;w=60]
	// 429 ["default";r=0;t=30] ["default";q=2;w=60]
}

func ExampleNew_invalid() {
	_, err := ratelimit.New(ratelimit.Config{
		Rate:    ratelimit.PerMinute(-5),
		MaxKeys: -1,
	})
	fmt.Println(err)
	// Output:
	// ratelimit: Config.MaxKeys is -1, must not be negative
	// ratelimit: Config.Rate.Requests is -5, must be positive
}

func ExampleLimiter_Allow() {
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(3)})
	for range 4 {
		d, _ := lim.Allow(context.Background(), "tenant-42", 1)
		fmt.Println(d.Allowed, d.Remaining, d.RetryAfter.Round(time.Minute))
	}
	// Output:
	// true 2 0s
	// true 1 0s
	// true 0 0s
	// false 0 20m0s
}

// Failed logins are counted, successful ones are not.
func ExampleLimiter_Charge() {
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(5)})
	login := func(user, password string) string {
		if d, _ := lim.Allow(context.Background(), user, 1); !d.Allowed {
			return "too many attempts"
		}
		if password != "secret" {
			return "wrong password"
		}
		lim.Charge(context.Background(), user, -1) // take it back
		return "welcome"
	}
	for range 20 {
		login("alice", "secret")
	}
	for range 5 {
		login("mallory", "guess")
	}
	fmt.Println(login("alice", "secret"))
	fmt.Println(login("mallory", "secret"))
	// Output:
	// welcome
	// too many attempts
}

func ExampleLimiter_SetRate() {
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(10)})
	lim.Allow(context.Background(), "tenant-42", 10)

	fmt.Println(lim.SetRate(ratelimit.PerHour(60)))
	d := lim.Peek(context.Background(), "tenant-42")
	fmt.Println(d.Remaining, "at once, the next in", d.RetryAfter.Round(time.Second))
	// Output:
	// <nil>
	// 0 at once, the next in 1m0s
}

// One bucket for each API key. The key must be authenticated before, or be set
// by a proxy: whoever may invent keys invents buckets.
func ExampleHeader() {
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1), Key: ratelimit.Header("X-Api-Key")})
	for _, key := range []string{"k1", "k1", "k2", "", ""} {
		r := httptest.NewRequest("GET", "/", nil)
		if key != "" {
			r.Header.Set("X-Api-Key", key)
		}
		d, _ := lim.Decide(r)
		fmt.Println(d.Allowed)
	}
	// Output:
	// true
	// false
	// true
	// true
	// false
}

// Without proxies a client is its address, whatever it says it is; behind them
// it is whom the last of our proxies saw.
func ExampleClientIP() {
	direct := ratelimit.ClientIP()
	proxied := ratelimit.ClientIP(netip.MustParsePrefix("10.0.0.0/8"))

	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Forwarded-For", "198.51.100.1, 203.0.113.9") // the first is what the client claims
	r.RemoteAddr = "10.0.0.7:4711"
	fmt.Println(direct(r), proxied(r))
	r.RemoteAddr = "[2001:db8:1:2:3:4:5:6]:4711"
	fmt.Println(direct(r), proxied(r))
	// Output:
	// 10.0.0.7 203.0.113.9
	// 2001:db8:1:2::/64 2001:db8:1:2::/64
}

// One bucket for each client and route.
func ExampleKeys() {
	mux := http.NewServeMux()
	mux.Handle("GET /orders/{id}", hello)
	mux.Handle("GET /search", hello)
	lim := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerHour(1),
		Key:  ratelimit.Keys(ratelimit.ClientIP(), ratelimit.Pattern(mux)),
	})
	for _, path := range []string{"/orders/1", "/orders/2", "/search"} {
		d, _ := lim.Decide(httptest.NewRequest("GET", path, nil))
		fmt.Println(path, d.Allowed)
	}
	// Output:
	// /orders/1 true
	// /orders/2 false
	// /search true
}

// Only logins that fail are counted. Each is charged for at first, so that a
// thousand at once cannot all be let through, and refunded if it succeeds.
func ExampleConfig_failedLogins() {
	lim := ratelimit.MustNew(ratelimit.Config{
		Rate:    ratelimit.PerHour(2),
		Headers: ratelimit.RetryAfterOnly, // do not tell how many guesses are left
		Settle: func(r *http.Request, o ratelimit.Outcome) int {
			if o.Status == http.StatusUnauthorized {
				return 1
			}
			return 0
		},
	})
	login := lim.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	for _, password := range []string{"secret", "secret", "secret", "guess", "guess", "secret"} {
		r := httptest.NewRequest("POST", "/login", nil)
		r.SetBasicAuth("alice", password)
		w := httptest.NewRecorder()
		login.ServeHTTP(w, r)
		fmt.Println(password, w.Code)
	}
	// Output:
	// secret 200
	// secret 200
	// secret 200
	// guess 401
	// guess 401
	// secret 429
}

// A new limit is tried out before it refuses anybody.
func ExampleConfig_dryRun() {
	lim := ratelimit.MustNew(ratelimit.Config{
		Rate:   ratelimit.PerMinute(2),
		DryRun: true,
		OnRefuse: func(r *http.Request, key string, d ratelimit.Decision) {
			fmt.Println("would refuse", key, "by", d.Policy())
		},
	})
	h := lim.Handler(hello)
	for range 4 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		fmt.Println(w.Code)
	}
	s := lim.Stats()
	fmt.Println(s.Allowed, s.WouldRefuse, s.MostRefused[0].Key)
	// Output:
	// 200
	// 200
	// would refuse 192.0.2.1 by default
	// 200
	// would refuse 192.0.2.1 by default
	// 200
	// 2 2 192.0.2.1
}

// An answer of one's own, with Retry-After and the other fields already set.
func ExampleConfig_fallback() {
	lim := ratelimit.MustNew(ratelimit.Config{
		Rate: ratelimit.PerMinute(1),
		Fallback: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprintf(w, "come back in %s seconds", w.Header().Get("Retry-After"))
		}),
	})
	h := lim.Handler(hello)
	for range 2 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		fmt.Println(w.Code, w.Body)
	}
	// Output:
	// 200 hello
	// 429 come back in 60 seconds
}

// Several rates, tiers and cost: all of them pass, or nothing is spent.
func ExampleConfig() {
	plans := map[string]ratelimit.Rate{"pro": ratelimit.PerSecond(100)}
	lim := ratelimit.MustNew(ratelimit.Config{
		Name:   "api",
		Rate:   ratelimit.PerSecond(10),
		RateOf: func(r *http.Request) ratelimit.Rate { return plans[r.Header.Get("X-Plan")] }, // set by our gateway; zero: Rate
		Also:   []ratelimit.Rate{ratelimit.PerDay(5000)},
		Key:    ratelimit.Header("X-Api-Key"),
		Cost: func(r *http.Request) int {
			if r.URL.Path == "/search" {
				return 5
			}
			return 1
		},
	})
	for _, plan := range []string{"free", "pro"} {
		r := httptest.NewRequest("GET", "/search", nil)
		r.Header.Set("X-Api-Key", plan+"-key")
		r.Header.Set("X-Plan", plan)
		w := httptest.NewRecorder()
		lim.Handler(hello).ServeHTTP(w, r)
		fmt.Println(w.Header()["Ratelimit"][0])
		fmt.Println(w.Header()["Ratelimit-Policy"][0])
	}
	// Output:
	// "api";r=5;t=1,"api-day";r=4995;t=86314
	// "api";q=10;w=1,"api-day";q=5000;w=86400
	// "api";r=95;t=1,"api-day";r=4995;t=86314
	// "api";q=100;w=1,"api-day";q=5000;w=86400
}

func ExampleLimiter_Transport() {
	upstream := httptest.NewServer(hello)
	defer upstream.Close()

	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerHour(1)})
	client := &http.Client{Transport: lim.Transport(nil), Timeout: time.Minute}
	for range 2 {
		res, err := client.Get(upstream.URL)
		if err != nil {
			fmt.Println("not sent: the hour would outlast the client's minute")
			continue
		}
		res.Body.Close()
		fmt.Println(res.StatusCode)
	}
	// Output:
	// 200
	// not sent: the hour would outlast the client's minute
}

// A pause that an upstream asks for holds for all requests to it. They wait it
// out, but for those whose deadline is sooner, which fail at once.
func ExampleLimiter_Transport_learns() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("the upstream is asked for", r.URL)
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer upstream.Close()

	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerSecond(100)})
	client := &http.Client{Transport: lim.Transport(nil), Timeout: 10 * time.Second}
	for _, path := range []string{"/first", "/second"} {
		res, err := client.Get(upstream.URL + path)
		if errors.Is(err, ratelimit.ErrWait) {
			fmt.Println("not sent: half a minute would outlast the client's ten seconds")
			continue
		}
		res.Body.Close()
		fmt.Println(res.StatusCode)
	}
	// Output:
	// the upstream is asked for /first
	// 429
	// not sent: half a minute would outlast the client's ten seconds
}

// A looser limit for each /48 beside the one for each /64.
func ExampleNewClientIP() {
	site, err := ratelimit.NewClientIP(ratelimit.ClientIPConfig{IPv6Bits: 48})
	if err != nil {
		panic(err)
	}
	lim := ratelimit.MustNew(ratelimit.Config{
		Name:   "client",
		Rate:   ratelimit.PerHour(2),
		Groups: []ratelimit.Group{{Name: "site", Key: site, Rate: ratelimit.PerHour(3)}},
	})
	for _, remote := range []string{"[2001:db8:1:1::1]:80", "[2001:db8:1:1::2]:80", "[2001:db8:1:1::3]:80", "[2001:db8:1:2::1]:80", "[2001:db8:1:3::1]:80"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = remote
		d, _ := lim.Decide(r)
		fmt.Println(d.Allowed, d.Policy())
	}
	// Output:
	// true client
	// true client
	// false client
	// true site
	// false site
}

// Any Redis client will do; package redislimit has this ready for go-redis.
// Here the server is down, and the limiter decides with half of the rate.
func ExampleNewRedisStore() {
	eval := func(ctx context.Context, script string, keys []string, args ...any) (any, error) {
		return nil, fmt.Errorf("connection refused") // rdb.Eval(ctx, script, keys, args...).Result()
	}
	lim := ratelimit.MustNew(ratelimit.Config{
		Rate:  ratelimit.PerHour(4),
		Store: ratelimit.NewRedisStore("api:", eval),
	})
	for range 3 {
		d, err := lim.Allow(context.Background(), "tenant-42", 1)
		fmt.Println(d.Allowed, d.Degraded, err)
	}
	// Output:
	// true true <nil>
	// true true <nil>
	// false true <nil>
}

// A deploy that does not forgive everybody.
func ExampleLimiter_Snapshot() {
	cfg := ratelimit.Config{Rate: ratelimit.PerHour(5)}
	old := ratelimit.MustNew(cfg)
	old.Allow(context.Background(), "tenant-42", 5)
	var file bytes.Buffer
	fmt.Println(old.Snapshot(&file))

	lim := ratelimit.MustNew(cfg)
	fmt.Println(lim.Restore(&file))
	d, _ := lim.Allow(context.Background(), "tenant-42", 1)
	fmt.Println(d.Allowed)
	// Output:
	// <nil>
	// <nil>
	// false
}

// Wait for one's turn instead of being refused.
func ExampleConfig_maxWait() {
	lim := ratelimit.MustNew(ratelimit.Config{
		Rate:    ratelimit.Rate{Requests: 100, Per: time.Second, Burst: 1},
		MaxWait: 15 * time.Millisecond,
	})
	for range 2 {
		d, _ := lim.Allow(context.Background(), "tenant-42", 1)
		fmt.Println(d.Allowed)
	}
	// Output:
	// true
	// true
}
