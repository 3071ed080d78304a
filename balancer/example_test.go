package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/go-spillway/spillway/balancer"
)

// backend starts a server that answers with its name.
func backend(name string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
}

func Example() {
	a, b := backend("a"), backend("b")
	defer a.Close()
	defer b.Close()

	pool := balancer.MustNew(balancer.Config{
		Backends: balancer.URLs(a.URL, b.URL),
	})
	front := httptest.NewServer(pool.Proxy())
	defer front.Close()

	resp, err := http.Get(front.URL)
	fmt.Println(resp.Status, err)
	resp.Body.Close()
	// Output: 200 OK <nil>
}

func ExampleNew_invalid() {
	_, err := balancer.New(balancer.Config{
		Backends:  []balancer.Backend{{URL: "10.0.0.1:8080"}, {URL: "http://10.0.0.2", Weight: -1}},
		SubsetKey: "web-1",
		Subset:    -3,
	})
	fmt.Println(err)
	// Output:
	// balancer: Config.Backends[0].URL is "10.0.0.1:8080", must be a URL
	// balancer: Config.Backends[1].Weight is -1, must be zero or positive
	// balancer: Config.Subset is -3, must not be negative
}

func ExampleBalancer_Transport() {
	dead := backend("dead")
	dead.Close()
	alive := backend("alive")
	defer alive.Close()

	pool := balancer.MustNew(balancer.Config{Backends: balancer.URLs(dead.URL, alive.URL)})
	client := &http.Client{Transport: pool.Transport(nil)}
	for range 3 {
		resp, err := client.Get("http://users/42") // the host is passed on, the address is a backend's
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Println(string(body))
	}
	// Output:
	// alive
	// alive
	// alive
}

func ExampleBalancer_SetBackends() {
	blue, green := backend("blue"), backend("green")
	defer blue.Close()
	defer green.Close()

	pool := balancer.MustNew(balancer.Config{Backends: balancer.URLs(blue.URL)})
	proxy := pool.Proxy()
	show := func() {
		w := httptest.NewRecorder()
		proxy.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		fmt.Println(w.Body)
	}
	show()
	_ = pool.SetBackends(balancer.URLs(green.URL)...)
	show()
	_ = pool.SetBackends(balancer.URLs(blue.URL)...) // roll back
	show()
	// Output:
	// blue
	// green
	// blue
}

func ExampleSplit() {
	stable := balancer.MustNew(balancer.Config{Name: "stable", Backends: balancer.URLs("http://10.0.0.1")})
	canary := balancer.MustNew(balancer.Config{Name: "canary", Backends: balancer.URLs("http://10.0.1.1")})

	split := balancer.Split(balancer.Share{Pool: stable, Weight: 100}, balancer.Share{Pool: canary, Weight: 0})
	fmt.Println(split.Pick(httptest.NewRequest("GET", "/", nil)) == stable)

	before, _ := split.SetShares(balancer.Share{Pool: stable, Weight: 0}, balancer.Share{Pool: canary, Weight: 100})
	fmt.Println(split.Pick(httptest.NewRequest("GET", "/", nil)) == canary)

	_, _ = split.SetShares(before...) // roll back
	fmt.Println(split.Pick(httptest.NewRequest("GET", "/", nil)) == stable)
	// Output:
	// true
	// true
	// true
}

func ExampleNewSplit() {
	stable := balancer.MustNew(balancer.Config{Name: "stable", Backends: balancer.URLs("http://10.0.0.1")})
	canary := balancer.MustNew(balancer.Config{Name: "canary", Backends: balancer.URLs("http://10.0.1.1")})
	split, err := balancer.NewSplit(balancer.SplitConfig{
		Shares: []balancer.Share{{Pool: stable, Weight: 95}, {Pool: canary, Weight: 5}},
		Key:    balancer.ByCookie("session"), // a session stays where it is
		Rules: []balancer.Rule{{
			When: func(r *http.Request) bool { return r.Header.Get("X-Canary") == "1" },
			To:   canary,
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Canary", "1")
	fmt.Println(split.Pick(r) == canary)
	// Output: true
}

func ExampleHashBy() {
	pool := balancer.MustNew(balancer.Config{
		Backends: balancer.URLs("http://10.0.0.1", "http://10.0.0.2", "http://10.0.0.3"),
		Policy:   balancer.HashBy(balancer.ByHeader("X-Tenant")),
	})
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Tenant", "acme")
	seen := map[string]bool{}
	for range 10 {
		lease, _ := pool.Acquire(r)
		seen[lease.Endpoint().Backend().URL] = true
		lease.Done(balancer.Success)
	}
	fmt.Println(len(seen))
	// Output: 1
}

// first is a Policy: it takes the first backend that is available.
type first struct{}

func (first) Picker(ready []*balancer.Endpoint) balancer.Picker {
	return func(balancer.Call) *balancer.Endpoint { return ready[0] }
}

func ExamplePolicy() {
	pool := balancer.MustNew(balancer.Config{
		Backends: balancer.URLs("http://main", "http://spare"),
		Policy:   first{},
	})
	for range 6 {
		lease, _ := pool.Acquire(nil)
		fmt.Println(lease.Endpoint().Backend().URL)
		lease.Done(balancer.Failure) // the fifth in a row ejects it
	}
	// Output:
	// http://main
	// http://main
	// http://main
	// http://main
	// http://main
	// http://spare
}

func ExampleBalancer_Acquire() {
	pool := balancer.MustNew(balancer.Config{Backends: balancer.URLs("http://10.0.0.1:50051", "http://10.0.0.2:50051")})
	call := func(addr string) error { return errors.New("refused") }

	lease, err := pool.Acquire(nil)
	for err == nil {
		if call(lease.Endpoint().Backend().URL) == nil {
			lease.Done(balancer.Success)
			break
		}
		lease.Done(balancer.Failure)
		next, ok := lease.Retry(nil) // another backend, if the budget allows
		if !ok {
			fmt.Println("gave up")
			break
		}
		fmt.Println("retry goes elsewhere:", next.Endpoint() != lease.Endpoint())
		lease = next
	}
	// Output:
	// retry goes elsewhere: true
	// gave up
}

func ExampleBalancer_Run() {
	ctx, cancel := context.WithCancel(context.Background())
	pool := balancer.MustNew(balancer.Config{
		Discover: func(context.Context) ([]balancer.Backend, error) {
			defer cancel() // for this example: once is enough
			return balancer.URLs("http://10.0.0.1", "http://10.0.0.2"), nil
		},
	})
	_ = pool.Run(ctx)
	for _, s := range pool.Backends() {
		fmt.Println(s.Backend.URL, s.State)
	}
	// Output:
	// http://10.0.0.1 ready
	// http://10.0.0.2 ready
}

func ExampleBalancer_Changes() {
	pool := balancer.MustNew(balancer.Config{
		Backends: []balancer.Backend{{ID: "a", URL: "http://10.0.0.1"}, {ID: "b", URL: "http://10.0.0.2"}},
		Policy:   first{},
		OnChange: func(c balancer.Change) { fmt.Println("hook:", c) },
	})
	for range 5 {
		lease, _ := pool.Acquire(nil)
		lease.Done(balancer.Failure)
	}
	for _, text := range pool.Changes() {
		fmt.Println("log:", text)
	}
	for subject, text := range pool.Conditions() {
		before, _, _ := strings.Cut(text, " until ")
		fmt.Println("now:", subject, before)
	}
	// Output:
	// hook: a: ejected, was ready: 5 failures in a row
	// log: a: ejected, was ready: 5 failures in a row
	// now: a ejected
}

func ExampleSticky() {
	a, b := backend("a"), backend("b")
	defer a.Close()
	defer b.Close()
	pool := balancer.MustNew(balancer.Config{
		Backends: balancer.URLs(a.URL, b.URL),
		Sticky:   balancer.Sticky{Cookie: "backend", Secret: []byte("sixteen bytes or more")},
	})
	proxy := pool.Proxy()

	w := httptest.NewRecorder()
	proxy.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	first, cookie := w.Body.String(), w.Result().Cookies()[0]

	same := true
	for range 20 {
		w = httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(cookie)
		proxy.ServeHTTP(w, r)
		same = same && w.Body.String() == first && len(w.Result().Cookies()) == 0
	}
	fmt.Println(same)
	// Output: true
}

func ExampleProbe() {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	defer up.Close()
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer broken.Close()

	changed := make(chan balancer.Change, 10)
	pool := balancer.MustNew(balancer.Config{
		Backends: []balancer.Backend{{ID: "up", URL: up.URL}, {ID: "broken", URL: broken.URL}},
		Probe:    balancer.Probe{Path: "/readyz"},
		OnChange: func(c balancer.Change) { changed <- c },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- pool.Run(ctx) }()
	fmt.Println(<-changed)
	cancel()
	<-done
	// Output: broken: unhealthy, was ready: probe: status 503
}

func ExampleHedge() {
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer slow.Close()
	quick := backend("quick")
	defer quick.Close()

	pool := balancer.MustNew(balancer.Config{
		Backends: balancer.URLs(slow.URL, quick.URL),
		Policy:   first{},
		Hedge:    balancer.Hedge{Quantile: 0.95, After: 5 * time.Millisecond},
	})
	w := httptest.NewRecorder()
	pool.Proxy().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(w.Body, pool.Stats().Hedges)
	// Output: quick 1
}

func ExampleRetry() {
	overloaded := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer overloaded.Close()
	well := backend("well")
	defer well.Close()

	pool := balancer.MustNew(balancer.Config{
		Backends: balancer.URLs(overloaded.URL, well.URL),
		Policy:   first{},
		Retry: balancer.Retry{
			PerTry: 5 * time.Second,            // a backend that hangs costs no more
			Budget: balancer.NewBudget(0.1, 1), // a tenth of the requests, and one per second
		},
	})
	for _, method := range []string{"GET", "POST"} {
		w := httptest.NewRecorder()
		pool.Proxy().ServeHTTP(w, httptest.NewRequest(method, "/", nil))
		fmt.Println(method, w.Code)
	}
	fmt.Println(pool.Stats().Retries)
	// Output:
	// GET 200
	// POST 502
	// 1
}

// A bad deploy: one of three backends runs a version that says it is ready and
// answers 500 to everything. That status is not retried by default, since it
// may be the answer that the request deserves; here it is. What may be sent
// twice is answered well from the first request on, and after five failures the
// backend is left out.
func ExampleRetry_badDeploy() {
	one, two := backend("version 1"), backend("version 1")
	defer one.Close()
	defer two.Close()
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no such column", http.StatusInternalServerError)
	}))
	defer bad.Close()

	pool := balancer.MustNew(balancer.Config{
		Backends: []balancer.Backend{{ID: "one", URL: one.URL}, {ID: "two", URL: two.URL}, {ID: "three", URL: bad.URL}},
		Policy:   balancer.RoundRobin(), // so that it gets its share; Latency avoids it after its first failure
		Retry: balancer.Retry{When: func(resp *http.Response, err error) bool {
			return err != nil || resp.StatusCode >= 500
		}},
	})
	answers := map[int]int{}
	for range 30 {
		w := httptest.NewRecorder()
		pool.Proxy().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		answers[w.Code]++
	}
	fmt.Println(answers, pool.Stats().Retries, "retries")
	for _, b := range pool.Backends() {
		fmt.Println(b.Backend.ID, b.State)
	}
	// Output:
	// map[200:30] 5 retries
	// one ready
	// two ready
	// three ejected
}
