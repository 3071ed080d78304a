package health

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

//go:embed dashboard.html
var dashboardHTML []byte

// maxViewers bounds the streams of one page.
const maxViewers = 64

// A Page is the live page of a service: an [http.Handler]. It is safe for
// concurrent use.
type Page struct {
	sources   []*reader // with the process
	checkers  []*Checker
	authorize func(*http.Request) bool
	actions   []Action
	policy    string // Content-Security-Policy

	// mu protects what follows. Sources are read while it is held, so that any
	// number of viewers cause one gathering a second.
	mu      sync.Mutex
	recent  []view
	points  []point
	json    []byte // of the last state
	made    time.Time
	viewers int
}

// An Action is something that the page can do to the service.
type Action struct {
	Name string // what its button says
	Do   func(context.Context) error
}

// Dashboard returns a page that shows, live, what the sources are doing:
// whether the service is serving, what is not normal right now, numbers and
// plots of the last ten minutes, every check with its age, and what changed
// last, over all parts on one timeline. Mount it wherever you like:
//
//	mux.Handle("/-/", health.Dashboard(h, limiter, cache))
//
// It is one page without assets from elsewhere, fed by server-sent events.
// It can be read only, until [Page.Allow] adds actions. It shows names and
// numbers of the inside of the service, so let only those see it whom you
// would let see /debug/pprof.
//
// A source may have two more methods, which all types of this library have:
// Changes() iter.Seq2[time.Time, string], its last changes, and Conditions()
// iter.Seq2[string, string], what is not normal, as subject and sentence.
//
// Without a viewer it costs nothing, but for one reading of the sources every
// five seconds while a [Checker] among them runs, so that the plots have a
// past. Without a Checker they begin when somebody looks.
func Dashboard(sources ...Source) *Page {
	p := &Page{policy: contentPolicy(dashboardHTML)}
	p.sources = readers(append(unique(sources), processSource{}))
	for _, r := range p.sources {
		r.words = true
		if h, ok := r.src.(*Checker); ok {
			p.checkers = append(p.checkers, h)
		}
	}
	if len(p.checkers) > 0 {
		p.checkers[0].addSampler(p.sample)
	}
	return p
}

// Allow adds actions to the page, for the requests that authorize allows. It
// returns p, and must be called before p serves:
//
//	health.Dashboard(h).Allow(isOperator, h.MaintenanceActions()...)
//
// An action is a POST from the page itself; those from other sites are refused
// whatever authorize says. If authorize panics, the answer is no.
func (p *Page) Allow(authorize func(*http.Request) bool, actions ...Action) *Page {
	p.authorize, p.actions = authorize, slices.Clone(actions)
	return p
}

// MaintenanceActions returns the two actions that switch maintenance on and
// off. See [Checker.SetMaintenance].
func (h *Checker) MaintenanceActions() []Action {
	return []Action{
		{"maintenance on", func(context.Context) error { h.SetMaintenance(true, "switched on from the dashboard"); return nil }},
		{"maintenance off", func(context.Context) error { h.SetMaintenance(false, ""); return nil }},
	}
}

// contentPolicy allows the one script and the one style that the page holds,
// by their hashes, and requests to where it came from.
func contentPolicy(page []byte) string {
	hash := func(tag string) string {
		_, rest, _ := bytes.Cut(page, []byte("<"+tag+">"))
		body, _, _ := bytes.Cut(rest, []byte("</"+tag+">"))
		sum := sha256.Sum256(body)
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; script-src " + hash("script") + "; style-src " + hash("style") +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// ServeHTTP answers the page; with ?events its stream, with ?state one state
// as JSON, and POST ?action=name.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	q := r.URL.Query()
	switch {
	case q.Has("action"):
		p.act(w, r, q.Get("action"))
	case !getOrHead(w, r):
	case q.Has("events"):
		p.stream(w, r)
	case q.Has("state"):
		body := p.render(false)
		header.Set("Content-Type", "application/json")
		header.Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method != http.MethodHead {
			w.Write(body)
		}
	default:
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", p.policy)
		header.Set("Content-Length", strconv.Itoa(len(dashboardHTML)))
		if r.Method != http.MethodHead {
			w.Write(dashboardHTML)
		}
	}
}

// sample keeps the history going without a viewer.
func (p *Page) sample(now time.Time) {
	if !p.mu.TryLock() {
		return // a viewer is at it
	}
	defer p.mu.Unlock()
	if n := len(p.points); n > 0 && now.Sub(p.points[n-1].at) < historyStep-historyStep/10 {
		return
	}
	p.keep(gather(p.sources), now)
}

// render returns the state as JSON; all who ask within half a second get the
// same, unless it has to be fresh.
func (p *Page) render(fresh bool) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !fresh && p.json != nil && now.Sub(p.made) < 500*time.Millisecond {
		return p.json
	}
	g := gather(p.sources)
	state := p.state(g, now)
	p.keep(g, now)
	body, err := json.Marshal(state)
	if err != nil {
		body = []byte(`{"verdict":"fail","headline":"the state can't be shown"}`) // not reached
	}
	p.json, p.made = body, time.Now()
	return body
}

// stream sends the state every second until the client goes, or the service
// closes.
func (p *Page) stream(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	full := p.viewers >= maxViewers
	if !full {
		p.viewers++
	}
	p.mu.Unlock()
	if full {
		w.Header().Set("Retry-After", retryAfter)
		refuse(w, r, http.StatusServiceUnavailable, "Too many viewers.")
		return
	}
	defer func() {
		p.mu.Lock()
		p.viewers--
		p.mu.Unlock()
	}()

	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold events back
	if r.Method == http.MethodHead {
		return
	}
	rc := http.NewResponseController(w)
	h, _ := r.Context().Value(drainingKey{}).(*Checker)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		// The WriteTimeout of the server is meant for a whole response.
		// Writers that don't know deadlines do without.
		_ = rc.SetWriteDeadline(time.Now().Add(10 * time.Second))
		last := h != nil && Phase(h.phase.Load()) >= Closing
		body := p.render(last)
		event := make([]byte, 0, len(body)+16)
		event = append(event, "data: "...)
		event = append(event, body...)
		event = append(event, "\n\n"...)
		if _, err := w.Write(event); err != nil {
			return
		}
		if rc.Flush() != nil {
			return
		}
		if last {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// act runs one action.
func (p *Page) act(w http.ResponseWriter, r *http.Request, name string) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		refuse(w, r, http.StatusMethodNotAllowed, "An action is a POST.")
		return
	}
	allowed := false
	safely(func() { allowed = p.authorize != nil && p.authorize(r) })
	if !allowed || http.NewCrossOriginProtection().Check(r) != nil {
		refuse(w, r, http.StatusForbidden, "That is not allowed.")
		return
	}
	i := slices.IndexFunc(p.actions, func(a Action) bool { return a.Name == name })
	if i < 0 {
		refuse(w, r, http.StatusNotFound, "There is no such action.")
		return
	}
	err := errors.New("it panicked")
	safely(func() { err = p.actions[i].Do(r.Context()) })
	if err != nil {
		refuse(w, r, http.StatusInternalServerError, name+": "+err.Error())
		return
	}
	p.mu.Lock()
	p.json = nil // show what it did
	p.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}
