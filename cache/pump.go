package cache

import (
	"context"
	"net/http"
)

// ahead prepares for n more bytes of a body that is kept.
func (rec *recorder) ahead(n int) {
	if rec.rd == nil || rec.pumped != nil {
		return
	}
	if rec.held += n; rec.held > inlineBody {
		rec.pumped = make(chan struct{})
		go rec.pump()
	}
}

// pump sends the body to the leader's client until it ends.
func (rec *recorder) pump() {
	defer close(rec.pumped)
	defer func() { rec.thrown = recover() }()
	rec.send(true)
}

// send sends what there is of the body, and if wait is set what is to come.
func (rec *recorder) send(wait bool) {
	defer rec.rd.close()
	rc := http.NewResponseController(rec.w)
	for {
		if rec.rd.caughtUp() {
			if rec.flushing.Load() {
				rc.Flush()
			}
			if !wait {
				return
			}
		}
		// Not until the client's context ends: the handler has the last word on
		// what is sent, and who has hung up takes no more of it.
		p, err := rec.rd.next(context.Background())
		if err == errStalled {
			panic(http.ErrAbortHandler) // or else what was sent would count as whole
		}
		if err != nil {
			return
		}
		if _, err := rec.w.Write(p); err != nil {
			return
		}
	}
}
