package health

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Report is what a Checker knows, in one instant.
type Report struct {
	Live, Ready, Startup Status
	Phase                Phase
	Maintenance          bool
	Checks               []Result // in the order of their names
}

// A Result is what is known of one check.
type Result struct {
	Name   string
	Status Status
	Reason string    // why it does not pass, in words that may be shown
	Err    error     // what its probe last returned
	Since  time.Time // when Status became what it is
	Streak int       // results in a row that were as good or as bad as the last

	LastRun  time.Time     // when a call last returned in time; zero if never
	LastPass time.Time     // when the last good result came; zero if never
	Took     time.Duration // by the last run

	Value float64 // what the last run measured, if Unit is not empty
	Unit  string

	Groups                          Group
	Optional, Informational, Shared bool
	Escalated                       bool // it has failed for so long that it fails Live
	Component                       string
	Affects                         []string

	counts [groupCount]Status // what Status means for each group
}

func (r Result) compare(name string) int { return strings.Compare(r.Name, name) }

// Report returns what the Checker knows.
func (h *Checker) Report() Report {
	s := h.load()
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	rep := Report{
		Live: s.answers[0].status, Ready: s.answers[1].status, Startup: s.answers[2].status,
		Phase: Phase(h.phase.Load()), Maintenance: h.inMaint,
		Checks: make([]Result, 0, len(h.checks)),
	}
	for _, c := range h.checks {
		r := Result{
			Name: c.name, Status: c.effective(), Since: c.since, Streak: c.streak, Err: c.last.err,
			LastRun: c.lastRun, LastPass: c.lastPass, Took: c.last.took,
			Value: c.last.value, Unit: c.last.unit,
			Groups: c.cfg.Groups, Optional: c.cfg.Optional, Informational: c.cfg.Informational,
			Shared: c.cfg.Shared, Escalated: c.escalated,
			Component: c.cfg.Component, Affects: slices.Clone(c.cfg.Affects),
		}
		for i := range r.counts {
			r.counts[i] = c.countsLocked(i)
		}
		if r.Status != Pass {
			r.Reason = h.reasonLocked(c, now)
		}
		rep.Checks = append(rep.Checks, r)
	}
	return rep
}

// impact is the word for what a failure of r does.
func (r *Result) impact() string {
	switch {
	case r.Informational:
		return "informational"
	case r.Optional || r.Shared:
		return "degrading"
	}
	return "critical"
}

// healthDoc is the response format of draft-inadarei-api-health-check-06,
// sections 3 and 4. The draft allows additional keys in the objects of checks.
type healthDoc struct {
	Status      string                    `json:"status"`
	Version     string                    `json:"version,omitempty"`
	ReleaseID   string                    `json:"releaseId,omitempty"`
	ServiceID   string                    `json:"serviceId,omitempty"`
	Description string                    `json:"description,omitempty"`
	Notes       []string                  `json:"notes,omitempty"`
	Checks      map[string][]componentDoc `json:"checks,omitempty"`
	Links       map[string]string         `json:"links,omitempty"`
}

type componentDoc struct {
	ComponentID       string   `json:"componentId"`
	ComponentType     string   `json:"componentType,omitempty"`
	ObservedValue     *float64 `json:"observedValue,omitempty"`
	ObservedUnit      string   `json:"observedUnit,omitempty"`
	Status            string   `json:"status"`
	AffectedEndpoints []string `json:"affectedEndpoints,omitempty"`
	Time              string   `json:"time,omitempty"`
	Output            string   `json:"output,omitempty"`

	Impact      string `json:"impact"`
	Shared      bool   `json:"shared,omitempty"`
	Escalated   bool   `json:"escalated,omitempty"`
	Since       string `json:"since"`
	Consecutive int    `json:"consecutive"`
}

// timestamp is RFC 3339 in UTC with milliseconds, or nothing.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func (r *Result) doc() (key string, doc componentDoc) {
	doc = componentDoc{
		ComponentID: r.Name, ComponentType: r.Component, Status: r.Status.String(),
		Time: timestamp(r.LastRun), Output: r.Reason,
		Impact: r.impact(), Shared: r.Shared, Escalated: r.Escalated,
		Since: timestamp(r.Since), Consecutive: r.Streak,
	}
	if r.Status == Unknown {
		doc.Status = Fail.String() // the draft has no word for it; Output says why
	}
	if r.Status != Pass {
		doc.AffectedEndpoints = r.Affects
	}
	measured := "responseTime"
	switch {
	case r.Unit != "":
		measured = "value"
		doc.ObservedValue, doc.ObservedUnit = number(r.Value), r.Unit // JSON has no NaN
	case r.Took > 0:
		ms := float64(r.Took.Microseconds()) / 1000
		doc.ObservedValue, doc.ObservedUnit = &ms, "ms"
	}
	return r.Name + ":" + measured, doc
}

// writeVerbose answers with every check of group i but the excluded ones.
func (h *Checker) writeVerbose(w http.ResponseWriter, r *http.Request, i int, exclude []string) {
	rep := h.Report()
	doc := healthDoc{
		Version: h.cfg.Version, ReleaseID: h.cfg.Release, ServiceID: h.cfg.Service,
		Description: groupNames[i], Checks: map[string][]componentDoc{},
		Links: map[string]string{"self": r.URL.RequestURI()},
	}
	h.mu.Lock()
	notes := h.groups[i].notes
	doc.Notes = append(doc.Notes, notes...)
	if i == 1 && h.inMaint && h.maintenance != "" {
		doc.Notes = append(doc.Notes, h.maintenance)
	}
	status := h.groups[i].status
	h.mu.Unlock()
	known := map[string]bool{}
	worst := Pass
	for _, res := range rep.Checks {
		known[res.Name] = true
		if (res.Groups&(1<<i) == 0 && !(i == 0 && res.Escalated)) || slices.Contains(exclude, res.Name) {
			continue
		}
		key, c := res.doc()
		doc.Checks[key] = []componentDoc{c}
		worst = max(worst, res.counts[i])
	}
	if len(exclude) > 0 && len(notes) == 0 {
		status = worst
	}
	for _, name := range exclude {
		if !known[name] {
			doc.Notes = append(doc.Notes, "no check "+strconv.Quote(name)+" to exclude")
		}
	}
	doc.Status = status.String()
	h.writeDoc(w, r, i, status, doc)
}

// probeOne answers with a single check of group i.
func (h *Checker) probeOne(w http.ResponseWriter, r *http.Request, i int, name string) {
	if !getOrHead(w, r) {
		return
	}
	if h.authorized(r) {
		for _, res := range h.Report().Checks {
			if res.Name == name && res.Groups&(1<<i) != 0 {
				key, c := res.doc()
				status := max(Pass, res.Status)
				if res.Status == Unknown {
					status = Fail
				}
				h.writeDoc(w, r, i, status, healthDoc{
					Status: status.String(), ServiceID: h.cfg.Service,
					Checks: map[string][]componentDoc{key: {c}},
				})
				return
			}
		}
	}
	refuse(w, r, http.StatusNotFound, "There is nothing here.")
}

func (h *Checker) writeDoc(w http.ResponseWriter, r *http.Request, i int, status Status, doc healthDoc) {
	body, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		body = []byte(`{"status":"` + status.String() + `"}`) // not reached
	}
	body = append(body, '\n')
	a := answer{status: status, code: http.StatusOK, body: body, length: []string{strconv.Itoa(len(body))}}
	if !status.ok() {
		a.code = http.StatusServiceUnavailable
	}
	h.count(i, a.code, h.now())
	h.writeProbe(w, r, &a)
}
