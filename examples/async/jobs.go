package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxAttempts = 3
	jobTimeout  = 15 * time.Second // of one attempt
)

// work is what a job does: yours. It may be called twice for one job, when a
// process dies between the work and the note that it is done.
func work(ctx context.Context, body string, takes time.Duration) (string, error) {
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if strings.HasPrefix(body, "fail") {
		return "", errors.New("it was asked to fail")
	}
	return strings.ToUpper(body), nil
}

type service struct {
	queue   queue
	workers int
	takes   time.Duration

	mu        sync.Mutex
	busy, per time.Duration // of the workers: since a job left the queue, and for each that left
}

func (s *service) run(t *task) {
	ctx, cancel := context.WithTimeout(context.Background(), jobTimeout) // not that of SIGTERM: what runs is finished
	defer cancel()
	start, err := time.Now(), errors.New("the process died while it ran")
	if t.Attempts <= maxAttempts {
		t.Result, err = work(ctx, t.Body, s.takes)
	}
	s.mu.Lock()
	s.busy += time.Since(start)
	switch t.Error = ""; {
	case err == nil:
		t.State = done
	case t.Attempts >= maxAttempts:
		t.State, t.Error = dead, err.Error()
	default:
		t.State, t.Error = queued, err.Error()
	}
	if t.State != queued {
		s.per, s.busy = (4*cmp.Or(s.per, s.busy)+s.busy)/5, 0
	}
	s.mu.Unlock()
	if err := t.end(500 * time.Millisecond << t.Attempts); err != nil {
		log.Printf("async: job %s will be done again: %v", t.ID, err)
	}
}

// room says when there will be room for one more job: how long the workers take
// from one that leaves the queue to the next.
func (s *service) room() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := cmp.Or(s.per, s.takes) / time.Duration(s.workers)
	return strconv.Itoa(max(1, int(math.Ceil(next.Seconds()))))
}

func (s *service) post(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil {
		http.Error(w, "the body must be at most 64 KiB", http.StatusRequestEntityTooLarge)
		return
	}
	id := rand.Text()
	if key := r.Header.Get("Idempotency-Key"); key != "" { // with users, hash who it is as well
		sum := sha256.Sum256([]byte(key))
		id = hex.EncodeToString(sum[:16])
	}
	j, err := s.queue.put(r.Context(), job{ID: id, State: queued, Body: string(body)})
	switch {
	case errors.Is(err, errFull): // a Shedder bounds what runs; a job outlives its request, so the queue knows
		w.Header().Set("Retry-After", s.room())
		http.Error(w, "the queue is full", http.StatusServiceUnavailable)
	case err == nil && j.Body != string(body):
		http.Error(w, "this Idempotency-Key was used with another body", http.StatusUnprocessableEntity)
	default:
		w.Header().Set("Location", "/jobs/"+id)
		answer(w, http.StatusAccepted, j, err)
	}
}

func answer(w http.ResponseWriter, status int, v any, err error) {
	if errors.Is(err, errUnknown) {
		http.Error(w, "no such job", http.StatusNotFound)
		return
	} else if err != nil {
		log.Print("async: ", err)
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the queue does not answer", http.StatusServiceUnavailable)
		return
	}
	if j, ok := v.(job); ok && (j.State == queued || j.State == running) {
		w.Header().Set("Retry-After", "1") // how often to poll
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
