// Fleet is several processes that act as one: they share one rate limit, one
// HTTP cache and one loader through Redis, and go on alone when it dies.
//
//	go run -C examples/fleet .        # from the root of the repository; starts a redis-server of its own
//	go run -C examples/fleet . -redis localhost:6379 -processes 5
//
// It starts the processes, asks them all for the same few products at once,
// and tells how many requests the fleet let through (as many as one process
// would), how often each product was loaded from the source (once), and what
// happens without Redis: nothing that a client would notice. The part to copy
// is newHandler. It is longer than an example should be because it brings its
// own Redis, source and processes.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/cache/rediscache"
	"github.com/go-spillway/spillway/ratelimit"
	"github.com/go-spillway/spillway/ratelimit/redislimit"
)

const limit = 50 // requests an hour for each client, by the whole fleet

// newHandler is one process of the fleet.
func newHandler(redisAddr, source string) http.Handler {
	rdb := redis.NewClient(&redis.Options{Addr: redisAddr, ContextTimeoutEnabled: true})
	lim := ratelimit.MustNew(ratelimit.Config{
		Rate:  ratelimit.PerHour(limit),
		Key:   ratelimit.Header("X-Client"),
		Store: redislimit.New("fleet:", rdb),
		// By default a decision waits 25 ms for Redis, and then this process
		// decides alone. Here everything runs on one busy machine.
		StoreTimeout: 2 * time.Second,
	})
	pages := cache.MustNew(cache.Config{Store: rediscache.New("fleet:", rdb)})
	products := cache.MustNewLoader(cache.LoaderConfig[string, string]{
		Name:  "products",
		Store: rediscache.New("fleet:", rdb),
		Load: func(ctx context.Context, sku string) (string, error) {
			req, err := http.NewRequestWithContext(ctx, "GET", source+"/"+sku, nil)
			if err != nil {
				return "", err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return string(b), err
		},
	})
	return lim.Handler(pages.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		product, err := products.Get(r.Context(), strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			http.Error(w, "the source does not answer", http.StatusBadGateway)
			return
		}
		w.Header().Set("Cache-Control", "public, max-age=1, stale-if-error=60")
		io.WriteString(w, product)
	})))
}

func main() {
	redisAddr := flag.String("redis", "", "`address` of a Redis; empty starts one")
	processes := flag.Int("processes", 3, "how `many` there are")
	one := flag.String("one", "", "be one process, with products from this `URL`; used by the program itself")
	flag.Parse()
	if *one != "" {
		redis.SetLogger(silent{}) // it would tell of each connection that fails, here on purpose
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("http://%s\n", ln.Addr())
		go http.Serve(ln, newHandler(*redisAddr, *one))
		io.Copy(io.Discard, os.Stdin) // ends with its parent
		return
	}
	if *processes < 1 {
		log.Fatalf("fleet: -processes is %d, must be positive", *processes)
	}
	stop := func() {}
	if *redisAddr == "" {
		*redisAddr, stop = startRedis()
	}
	defer func() { stop() }()

	var loads atomic.Int64
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		loads.Add(1)
		time.Sleep(20 * time.Millisecond) // a slow one
		fmt.Fprintf(w, "product %s\n", r.URL.Path[1:])
	}))
	defer source.Close()
	var urls []string
	for range *processes {
		urls = append(urls, startProcess(*redisAddr, source.URL))
	}

	client := fmt.Sprintf("client-%d", time.Now().UnixNano()) // so that a Redis that is there already knows nothing of it
	good, refused, failed := ask(urls, client, 300, 10)
	fmt.Printf("%d processes, 300 requests by one client: %d answered, %d refused, %d failed; the limit is %d\n", *processes, good, refused, failed, limit)
	fmt.Printf("10 products loaded from the source %d times\n", loads.Load())

	stop() // Redis dies
	stop = func() {}
	good, refused, failed = ask(urls, client+"-later", limit/2, 10)
	fmt.Printf("without Redis, %d requests by another client: %d answered, %d refused, %d failed\n", limit/2, good, refused, failed)
}

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// ask sends n requests for some products to all the processes, in turn and at
// once.
func ask(urls []string, client string, n, products int) (good, refused, failed int64) {
	var g, r, f atomic.Int64
	var wg sync.WaitGroup
	atOnce := make(chan struct{}, 30)
	for i := range n {
		atOnce <- struct{}{}
		wg.Go(func() {
			defer func() { <-atOnce }()
			req, _ := http.NewRequest("GET", fmt.Sprintf("%s/%s-%d", urls[i%len(urls)], client, i%products), nil)
			req.Header.Set("X-Client", client)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				f.Add(1)
				return
			}
			resp.Body.Close()
			switch resp.StatusCode {
			case 200:
				g.Add(1)
			case 429:
				r.Add(1)
			default:
				f.Add(1)
			}
		})
	}
	wg.Wait()
	return g.Load(), r.Load(), f.Load()
}

func startProcess(redisAddr, source string) (url string) {
	cmd := exec.Command(os.Args[0], "-redis", redisAddr, "-one", source)
	cmd.Env = os.Environ()
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		log.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	go cmd.Wait() // reaps it
	url, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		log.Fatal("fleet: a process did not start: ", err)
	}
	return strings.TrimSpace(url)
}

// startRedis starts a redis-server on a free port.
func startRedis() (addr string, stop func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	addr = ln.Addr().String()
	ln.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command("redis-server", "--port", port, "--save", "", "--bind", "127.0.0.1")
	if err := cmd.Start(); err != nil {
		log.Fatalf("fleet: %v; install redis-server, or give one with -redis", err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	defer rdb.Close()
	for range 500 {
		if rdb.Ping(context.Background()).Err() == nil {
			return addr, func() { cmd.Process.Kill(); cmd.Wait() }
		}
		time.Sleep(10 * time.Millisecond)
	}
	cmd.Process.Kill()
	log.Fatal("fleet: redis-server does not answer")
	return "", nil
}
