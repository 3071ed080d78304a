package balancer

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// A replay is a request's body that may be sent more than once. What was read
// is kept up to a limit; and because a RoundTripper closes the body whatever
// happens, Close is held back until there are no more attempts.
type replay struct {
	src  io.ReadCloser
	get  func() (io.ReadCloser, error)
	keep int64

	mu       sync.Mutex // protects what follows
	kept     []byte
	lost     bool // more was read than is kept
	started  bool // something was read
	reading  bool // somebody waits for src
	eof      bool
	err      error    // of reading src, other than EOF
	now      *sending // of the latest attempt
	settled  bool     // there are no more attempts
	finished bool
}

func newReplay(req *http.Request, keep int64) *replay {
	if req.GetBody != nil {
		keep = 0 // the caller keeps it
	}
	return &replay{src: req.Body, get: req.GetBody, keep: keep}
}

// A sending is the body of one attempt.
type sending struct {
	r      *replay
	off    int           // into what is kept
	own    io.ReadCloser // from GetBody
	closed bool
	over   bool // its response has ended
}

// attempt returns the body for the next attempt.
func (r *replay) attempt() io.ReadCloser {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &sending{r: r}
	if r.now != nil && r.started && r.get != nil {
		if own, err := r.get(); err == nil {
			s.own = own
		} else {
			r.lost, r.err = true, err
		}
	}
	r.now = s
	return s
}

// getBody is the GetBody of an outgoing request: net/http asks for it when a
// connection turned out to be closed before anything was written to it.
func (r *replay) getBody() (io.ReadCloser, error) {
	if !r.rewind() {
		return nil, errors.New("balancer: the body was read and is not kept")
	}
	return r.attempt(), nil
}

// again reports whether the body can be sent again.
func (r *replay) again() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.againLocked()
}

func (r *replay) againLocked() bool {
	return r.err == nil && !r.finished && (!r.started || r.get != nil || !r.reading && r.keep > 0 && !r.lost)
}

// rewind is again, and if so makes sure that the attempt before, which may still
// be writing although its response is there, does not read on.
func (r *replay) rewind() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.againLocked() {
		return false
	}
	if r.now != nil {
		r.now.closed = true
	}
	return true
}

// settle says that there are no more attempts: the caller's body is closed when
// the last one closes it, or when its response has ended.
func (r *replay) settle() {
	r.mu.Lock()
	r.settled = true
	done := r.now != nil && (r.now.closed || r.now.over)
	r.mu.Unlock()
	if done {
		r.finish()
	}
}

// latest returns the body of the latest attempt.
func (r *replay) latest() *sending {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// answered says that the response to s has ended. It may have been one that is
// not passed on, because there is another attempt.
func (s *sending) answered() {
	s.r.mu.Lock()
	s.over = true
	last := s.r.settled && s.r.now == s
	s.r.mu.Unlock()
	if last {
		s.r.finish()
	}
}

// broke reports whether reading the caller's body failed: then it is not the
// backend's fault.
func (r *replay) broke() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err != nil
}

// finish closes the caller's body: there are no more attempts.
func (r *replay) finish() {
	r.mu.Lock()
	done, reading := r.finished, r.reading
	r.finished = true
	r.kept = nil
	r.mu.Unlock()
	switch {
	case done:
	case reading:
		go r.src.Close() // that of a server's request waits for the Read, which waits for the client
	default:
		r.src.Close()
	}
}

func (s *sending) Read(p []byte) (int, error) {
	r := s.r
	if s.own != nil {
		n, err := s.own.Read(p)
		if err != nil && err != io.EOF {
			r.mu.Lock()
			if !s.closed {
				r.err = err
			}
			r.mu.Unlock()
		}
		return n, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case s.closed || r.finished:
		return 0, http.ErrBodyReadAfterClose
	case s.off < len(r.kept):
		n := copy(p, r.kept[s.off:])
		s.off += n
		return n, nil
	case r.err != nil:
		return 0, r.err
	case r.eof:
		return 0, io.EOF
	}
	n, err := r.read(p)
	if r.keep > 0 && !r.lost && !r.finished {
		if int64(len(r.kept)+n) <= r.keep {
			r.kept = append(r.kept, p[:n]...)
			s.off = len(r.kept)
		} else {
			r.lost, r.kept = true, nil
		}
	}
	if err == io.EOF {
		r.eof = true
	} else if err != nil {
		r.err = err
	}
	return n, err
}

// read reads from the caller's body. It is called with r.mu held, and gives it
// up meanwhile, since it may wait for the client.
func (r *replay) read(p []byte) (int, error) {
	r.started, r.reading = true, true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.reading = false
	}()
	return r.src.Read(p)
}

// Close ends the attempt's reading. The caller's body stays open until there are
// no more attempts.
func (s *sending) Close() error {
	s.r.mu.Lock()
	s.closed = true
	last := s.r.settled && s.r.now == s
	s.r.mu.Unlock()
	if last {
		s.r.finish()
	}
	if s.own != nil {
		return s.own.Close()
	}
	return nil
}
