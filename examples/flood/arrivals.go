package main

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// Who comes, and what for.
const (
	politeTenant = "acme"    // a shop with many customers
	greedyTenant = "crawler" // a partner that reads the whole catalogue as fast as it is let

	politeShare    = 0.6  // of all requests; the rest is the crawler's
	checkoutShare  = 0.10 // of the polite tenant's: critical
	anonymousShare = 0.20 // of the polite tenant's: pages that are the same for everybody
	products       = 400  // in the shop window; some are asked for much more than others
	catalogue      = 100_000
)

// A kind is what a request is for.
type kind uint8

const (
	signedIn  kind = iota // a page with one customer's prices
	anonymous             // a page that is the same for everybody
	checkout              // an order: critical
	crawl                 // the greedy tenant's
	target                // one of -target
	kinds
)

// An arrival is one request that is due at a time, whether or not those before
// it have been answered.
type arrival struct {
	due  time.Duration // since the start of the script
	kind kind
	sku  int
	id   uint64
}

// A span is a stretch of the script with one rate.
type span struct {
	from, to time.Duration
	rate     float64 // requests a second
}

// arrivals draws the requests of a script: a Poisson process, whose gaps are
// exponential, as those of many people who know nothing of one another. It
// draws the same ones for the same seed and spans.
func arrivals(seed uint64, spans []span, only *kind) iter.Seq[arrival] {
	return func(yield func(arrival) bool) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		window := rand.NewZipf(rnd, 1.3, 8, products-1)
		var id uint64
		for _, s := range spans {
			if s.rate <= 0 {
				continue
			}
			gap := func() time.Duration { return time.Duration(rnd.ExpFloat64() / s.rate * float64(time.Second)) }
			for at := s.from + gap(); at < s.to; at += gap() {
				id++
				a := arrival{due: at, id: id}
				switch who, what := rnd.Float64(), rnd.Float64(); {
				case only != nil:
					a.kind = *only
				case who >= politeShare:
					a.kind, a.sku = crawl, rnd.IntN(catalogue)
				case what < checkoutShare:
					a.kind = checkout
				case what < checkoutShare+anonymousShare:
					a.kind, a.sku = anonymous, int(window.Uint64())
				default:
					a.kind, a.sku = signedIn, int(window.Uint64())
				}
				if !yield(a) {
					return
				}
			}
		}
	}
}

// request is the HTTP request of an arrival to the shop at base, or, for a
// target, to exactly that URL.
func (a arrival) request(base string) (*http.Request, error) {
	method, url := http.MethodGet, base+"/products/"+strconv.Itoa(a.sku)
	switch a.kind {
	case target:
		url = base
	case checkout:
		method, url = http.MethodPost, base+"/checkout"
	}
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return nil, err
	}
	switch a.kind {
	case target:
		return req, nil
	case crawl:
		req.Header.Set("X-Tenant", greedyTenant)
	default:
		req.Header.Set("X-Tenant", politeTenant)
	}
	switch a.kind {
	case signedIn:
		req.Header.Set("Authorization", "Bearer "+strconv.FormatUint(a.id%5000, 36))
	case checkout:
		req.Header.Set("Authorization", "Bearer "+strconv.FormatUint(a.id%5000, 36))
		req.Header.Set("Idempotency-Key", fmt.Sprintf("order-%d", a.id))
	}
	return req, nil
}
