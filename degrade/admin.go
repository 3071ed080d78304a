package degrade

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// adminState is what GET shows.
type adminState struct {
	Name      string         `json:"name"`
	Level     Level          `json:"level"`
	Automatic Level          `json:"automatic"`
	Pressure  *float64       `json:"pressure"` // null when no signal has anything to say
	DryRun    bool           `json:"dry_run,omitempty"`
	Features  []adminFeature `json:"features"`
	Overrides []Override     `json:"overrides"`
	Changes   []adminChange  `json:"changes"`
}

type adminFeature struct {
	Name  string  `json:"name"`
	OffAt Level   `json:"off_at"`
	On    bool    `json:"on"`
	Share float64 `json:"share"`
	State string  `json:"state"`
}

type adminChange struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Admin returns a handler to look at the switch and to turn it by hand:
//
//	GET     shows level, pressure, features, overrides and the last changes, as JSON
//	PUT     makes an [Override], given as JSON; "for": "1h" may stand for expires
//	POST    the same
//	DELETE  ?target=reviews&author=ann releases it
//
// Requests that do not come from this machine, or that a proxy says it has
// passed on, are answered 403: it has no idea of who may do what. A proxy on this
// machine that says nothing, as nginx unless it is told to, looks like this
// machine: let it pass nothing on to Admin. To let others in, check who they are
// and pass [WithAdmin] on.
//
// Requests that change something must be application/json (DELETE: have the
// field Spillway-Admin), and come from no other site
// ([http.CrossOriginProtection]), so that no web page can make a browser send them.
func (s *Switch) Admin() http.Handler {
	h := http.NewCrossOriginProtection().Handler(http.HandlerFunc(s.admin))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowed(r) {
			http.Error(w, "Only from this machine, or through a wrapper that checks who asks; see degrade.WithAdmin.", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// WithAdmin returns a request that [Switch.Admin] accepts from anywhere. Call it
// in the handler that has checked that its sender may turn the switch.
func WithAdmin(r *http.Request) *http.Request {
	return r.WithContext(contextWithAdmin(r.Context()))
}

// allowed reports whether r comes from this machine itself. A request that a
// proxy on this machine has passed on does not, and neither does one whose Host
// is a name that somebody else's DNS may have pointed here.
func allowed(r *http.Request) bool {
	if ok, _ := r.Context().Value(adminKey).(bool); ok {
		return true
	}
	for _, f := range [...]string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if r.Header[f] != nil {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	return loopback(remoteHost(r)) && (host == "localhost" || loopback(trimBrackets(host)))
}

func trimBrackets(h string) string {
	if len(h) > 2 && h[0] == '[' && h[len(h)-1] == ']' {
		return h[1 : len(h)-1]
	}
	return h
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

func (s *Switch) admin(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPut, http.MethodPost:
		if r.Header.Get("Content-Type") != "application/json" {
			http.Error(w, "Content-Type must be application/json.", http.StatusUnsupportedMediaType)
			return
		}
		o, err := readOverride(http.MaxBytesReader(w, r.Body, 64<<10))
		if err == nil {
			err = s.Set(o)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	case http.MethodDelete:
		q := r.URL.Query()
		if r.Header["Spillway-Admin"] == nil {
			http.Error(w, "Spillway-Admin is missing: any value will do.", http.StatusForbidden)
			return
		}
		if q.Get("author") == "" {
			http.Error(w, "?author= is required.", http.StatusBadRequest)
			return
		}
		if !s.Release(q.Get("target"), q.Get("author")) {
			http.Error(w, "No such override.", http.StatusNotFound)
			return
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT, POST, DELETE")
		http.Error(w, "Method not allowed.", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodHead {
		return
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(s.state())
}

// readOverride reads one override.
func readOverride(body io.Reader) (o Override, err error) {
	var in struct {
		Override
		For string `json:"for"`
	}
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return o, err
	}
	o = in.Override
	if in.For != "" {
		span, err := time.ParseDuration(in.For)
		if err != nil {
			return o, err
		}
		o.Expires = time.Now().Add(span)
	}
	return o, nil
}

func (s *Switch) state() adminState {
	st := adminState{Name: s.name, DryRun: s.cfg.DryRun, Overrides: s.Overrides(), Features: []adminFeature{}, Changes: []adminChange{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	sn := s.now.Load()
	st.Level, st.Automatic = sn.level, s.level
	if p := s.auto.pressure; p == p {
		st.Pressure = &p
	}
	for i, f := range s.features {
		x := sn.on[i]
		share := x.share
		if x.on {
			share = 1
		}
		st.Features = append(st.Features, adminFeature{f.name, f.off, x.on, share, x.String()})
	}
	for at, text := range s.history.all() {
		st.Changes = append(st.Changes, adminChange{at, text})
	}
	return st
}
