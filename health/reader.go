package health

import (
	"sync"
	"time"
)

// answerTime is how long a Source may take: less than the four seconds after
// which the page says that there is no news, and than scrapes wait.
const answerTime = 3 * time.Second

// A reader reads a Source in a goroutine of its own, of which there is at most
// one: who asks while it reads gets the same reading. So a Source that hangs
// costs one goroutine until it returns, and holds up its viewers once.
type reader struct {
	src   Source
	words bool // whether Conditions and Changes are read, too

	mu  sync.Mutex // protects what follows
	now *reading   // nil while nobody reads
}

// A reading is what a Source said once.
type reading struct {
	began time.Time
	done  chan struct{} // closed at its end; until then what follows is the goroutine's

	samples    []emitted
	conditions []condition
	changes    []timedText
	panicked   bool // in Collect
}

// emitted are the arguments of one call of emit.
type emitted struct {
	name, help, kind string
	value            float64
	labels           []string
}

type timedText struct {
	at   time.Time
	text string
}

// readers returns a reader for each source.
func readers(sources []Source) []*reader {
	out := make([]*reader, len(sources))
	for i, s := range sources {
		out[i] = &reader{src: s}
	}
	return out
}

// read returns what the Source says, or nil if it has not within answerTime.
func (r *reader) read() *reading {
	r.mu.Lock()
	if r.now == nil {
		r.now = &reading{began: time.Now(), done: make(chan struct{})}
		go r.run(r.now)
	}
	now := r.now
	r.mu.Unlock()

	late := time.NewTimer(time.Until(now.began.Add(answerTime)))
	defer late.Stop()
	select {
	case <-now.done:
		return now
	case <-late.C:
		return nil
	}
}

// run asks the Source for what it has to say. A panic ends its part only.
func (r *reader) run(to *reading) {
	defer func() {
		r.mu.Lock()
		r.now = nil
		r.mu.Unlock()
		close(to.done)
	}()
	to.panicked = true
	safely(func() {
		r.src.Collect(func(name, help, kind string, value float64, labels ...string) {
			to.samples = append(to.samples, emitted{name, help, kind, value, append([]string(nil), labels...)})
		})
		to.panicked = false
	})
	if !r.words {
		return
	}
	safely(func() {
		if c, ok := r.src.(conditioner); ok {
			for subject, text := range c.Conditions() {
				to.conditions = append(to.conditions, condition{subject, text})
			}
		}
	})
	safely(func() {
		if c, ok := r.src.(changer); ok {
			for at, text := range c.Changes() {
				to.changes = append(to.changes, timedText{at, text})
			}
		}
	})
}

// safely keeps a source that panics from taking the page with it.
func safely(f func()) {
	defer func() { _ = recover() }()
	f()
}
