package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// flood sends requests from many clients, most of them for a few products.
func (s *shop) flood(out io.Writer, what, base string, clients, each int) (queries, failed int64) {
	before, from, client := s.queries.Load(), time.Now(), &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	took := make([]time.Duration, clients*each)
	var failures atomic.Int64
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			zipf := rand.NewZipf(rand.New(rand.NewPCG(1, uint64(c))), 1.1, 1, 999)
			for i := range each {
				began := time.Now()
				res, err := client.Get(base + strconv.FormatUint(1+zipf.Uint64(), 10))
				if err != nil || res.StatusCode != http.StatusOK || drain(res) != nil {
					failures.Add(1)
				}
				took[c*each+i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	queries, failed = s.queries.Load()-before, failures.Load()
	fmt.Fprintf(out, "%-22s %6d requests %6d queries %4d failed %7.0f/s   p99 %v\n", what, len(took), queries, failed,
		float64(len(took))/time.Since(from).Seconds(), took[len(took)*99/100].Round(10*time.Microsecond))
	return queries, failed
}
