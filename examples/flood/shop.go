package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// A shop is the service that is flooded: product pages and a checkout, made
// from what three backends answer. It is the same code on both sides; all that
// differs are the clients that it calls the backends with, whether anybody says
// when to leave the recommendations out, and what stands in front of it.
type shop struct {
	client          *http.Client                      // for http://catalogue
	recommendations *http.Client                      // for the expensive part of the page, there too
	recommend       func(context.Context) bool        // whether to make that part
	retryIn         func(error) (time.Duration, bool) // when to come back, if client refused to call
}

func (s *shop) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{sku}", s.product)
	mux.HandleFunc("POST /checkout", s.checkout)
	return mux
}

// product is a page for everybody, or, with a session, for one customer, with
// that customer's prices on it.
func (s *shop) product(w http.ResponseWriter, r *http.Request) {
	sku := r.PathValue("sku")
	page, err := call(r, s.client, http.MethodGet, "/products/"+sku)
	if err != nil {
		s.fail(w, err)
		return
	}
	var also []byte
	if s.recommend(r.Context()) {
		also, _ = call(r, s.recommendations, http.MethodGet, "/recommendations/"+sku) // the page is good without
	}
	w.Header().Set("Vary", "Authorization") // a customer's page is not the one for everybody
	if r.Header.Get("Authorization") != "" {
		w.Header().Set("Cache-Control", "private, no-store")
	} else {
		w.Header().Set("Cache-Control", "max-age=2, stale-while-revalidate=10, stale-if-error=60")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write(page)
	w.Write(also)
}

func (s *shop) checkout(w http.ResponseWriter, r *http.Request) {
	receipt, err := call(r, s.client, http.MethodPost, "/orders")
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Write(receipt)
}

// call asks a backend. The Idempotency-Key of a checkout goes with it, so that
// a backend can tell an order that is sent again from a second one.
func call(r *http.Request, client *http.Client, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(r.Context(), method, "http://catalogue"+path, nil)
	if err != nil {
		return nil, err
	}
	if key := r.Header.Get("Idempotency-Key"); key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the catalogue answered %s", resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// fail answers 503 with Retry-After when the client that calls the backends
// has refused the call and knows when to come back, and 502 otherwise.
func (s *shop) fail(w http.ResponseWriter, err error) {
	if wait, ok := s.retryIn(err); ok {
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(wait.Seconds())))))
		http.Error(w, "please come back later", http.StatusServiceUnavailable)
		return
	}
	http.Error(w, "the catalogue does not answer", http.StatusBadGateway)
}

// runShop serves until SIGTERM, or until the flood is over.
func runShop(spec childSpec, ln net.Listener, announce func()) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if spec.Protected {
		return serveProtected(ctx, spec, ln, announce)
	}
	client := &http.Client{Transport: newRoundRobin(spec.Backends)}
	bare := &shop{
		client:          client,
		recommendations: client,
		recommend:       func(context.Context) bool { return true },
		retryIn:         func(error) (time.Duration, bool) { return 0, false },
	}
	announce()
	return servePlainly(ctx, bare.handler(), ln)
}

// A roundRobin is what stands in for a load balancer when there is none: each
// request goes to the next backend in turn.
type roundRobin struct {
	http.RoundTripper
	backends []*url.URL
	next     atomic.Uint64
}

func newRoundRobin(backends []string) *roundRobin {
	rr := &roundRobin{RoundTripper: transport(nil)}
	for _, b := range backends {
		u, err := url.Parse(b)
		if err != nil {
			panic(err) // they come from the children themselves
		}
		rr.backends = append(rr.backends, u)
	}
	return rr
}

func (rr *roundRobin) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Host = rr.backends[rr.next.Add(1)%uint64(len(rr.backends))].Host
	return rr.RoundTripper.RoundTrip(r)
}

// transport keeps connections open for many requests at once, on both sides
// alike. A nil dialer is the usual one.
func transport(dialer *net.Dialer) *http.Transport {
	if dialer == nil {
		dialer = &net.Dialer{Timeout: 5 * time.Second}
	}
	return &http.Transport{
		DialContext:         dialer.DialContext,
		MaxIdleConnsPerHost: 1024,
		IdleConnTimeout:     30 * time.Second,
		DisableCompression:  true,
	}
}
