package cache_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// A model is RFC 9111 §3 and §4 as they stand there, for a shared cache,
// without a thought for speed. It reads only well-formed fields.
type model struct{ stored []*kept }

type kept struct {
	request, header            http.Header
	status                     int
	body                       string
	requestTime, responseTime  time.Time
	varies                     bool
	correctedInitialAge, fresh time.Duration
}

// directive returns the value of a directive in a list, and whether it is
// there.
func directive(lines []string, name string) (string, bool) {
	for _, line := range lines {
		for _, d := range strings.Split(line, ",") {
			k, v, _ := strings.Cut(strings.TrimSpace(d), "=")
			if strings.EqualFold(k, name) {
				return v, true
			}
		}
	}
	return "", false
}

func seconds(s string) time.Duration {
	n, _ := strconv.Atoi(s)
	return time.Duration(n) * time.Second
}

func date(h http.Header, name string) (time.Time, bool) {
	t, err := http.ParseTime(h.Get(name))
	return t, err == nil
}

// freshnessLifetime is §4.2.1: "using the first match of".
func freshnessLifetime(status int, h http.Header) time.Duration {
	cc := h["Cache-Control"]
	if v, ok := directive(cc, "s-maxage"); ok {
		return seconds(v)
	}
	if v, ok := directive(cc, "max-age"); ok {
		return seconds(v)
	}
	dateValue, _ := date(h, "Date")
	if h.Get("Expires") != "" {
		expires, ok := date(h, "Expires")
		if !ok {
			return 0
		}
		return max(0, expires.Sub(dateValue))
	}
	// §4.2.2
	_, public := directive(cc, "public")
	if lm, ok := date(h, "Last-Modified"); ok && (public || status == 200 || status == 404) && lm.Before(dateValue) {
		return min(dateValue.Sub(lm)/10, 24*time.Hour)
	}
	return 0
}

// ages sets what §4.2.3 computes when a response is received.
func (k *kept) ages() {
	dateValue, _ := date(k.header, "Date")
	apparentAge := max(0, k.responseTime.Sub(dateValue))
	responseDelay := k.responseTime.Sub(k.requestTime)
	correctedAgeValue := seconds(k.header.Get("Age")) + responseDelay
	k.correctedInitialAge = max(apparentAge, correctedAgeValue)
	k.fresh = freshnessLifetime(k.status, k.header)
}

func (k *kept) currentAge(now time.Time) time.Duration {
	return k.correctedInitialAge + now.Sub(k.responseTime)
}

// mayStore is §3.
func mayStore(req http.Header, status int, h http.Header) bool {
	cc := h["Cache-Control"]
	has := func(name string) bool { _, ok := directive(cc, name); return ok }
	if has("no-store") || has("private") {
		return false
	}
	if req.Get("Authorization") != "" && !has("must-revalidate") && !has("public") && !has("s-maxage") {
		return false
	}
	explicit := has("public") || h.Get("Expires") != "" || has("max-age") || has("s-maxage")
	return explicit || status == 200 || status == 404
}

// matches is §4.1.
func (k *kept) matches(req http.Header) bool {
	for _, line := range k.header["Vary"] {
		for _, name := range strings.Split(line, ",") {
			name = strings.TrimSpace(name)
			if name == "*" || fmt.Sprint(req.Values(name)) != fmt.Sprint(k.request.Values(name)) {
				return false
			}
		}
	}
	return true
}

// choose is §4.1: the most recent of those that match, one with Vary before
// one without.
func (m *model) choose(req http.Header) *kept {
	var best *kept
	for _, k := range m.stored {
		if !k.matches(req) {
			continue
		}
		if best == nil || k.varies && !best.varies {
			best = k
			continue
		}
		if k.varies != best.varies {
			continue
		}
		a, _ := date(k.header, "Date")
		b, _ := date(best.header, "Date")
		if a.After(b) || a.Equal(b) && k.responseTime.After(best.responseTime) {
			best = k
		}
	}
	return best
}

// mayReuse is §4 with §5.2.1 and §5.2.2.
func (k *kept) mayReuse(req http.Header, now time.Time) bool {
	ask, say := req["Cache-Control"], k.header["Cache-Control"]
	if _, ok := directive(ask, "no-cache"); ok {
		return false
	}
	if _, ok := directive(say, "no-cache"); ok {
		return false
	}
	age := k.currentAge(now)
	stale := time.Duration(0) // how much more the client takes
	if v, ok := directive(ask, "max-stale"); ok {
		if stale = seconds(v); v == "" {
			stale = 1 << 60
		}
		for _, forbids := range []string{"must-revalidate", "proxy-revalidate", "s-maxage"} {
			if _, ok := directive(say, forbids); ok {
				stale = 0
			}
		}
	}
	if v, ok := directive(ask, "max-age"); ok && age > seconds(v)+min(stale, 1<<40) {
		return false
	}
	if v, ok := directive(ask, "max-age"); ok && k.fresh > age && age > seconds(v) {
		return false // fresh, but older than the client wants: max-stale is about staleness
	}
	if v, ok := directive(ask, "min-fresh"); ok {
		return k.fresh-age >= seconds(v) && k.fresh > age
	}
	return k.fresh > age || stale > 0 && age-k.fresh <= stale && age-k.fresh < 1<<59
}

func (m *model) remove(f func(*kept) bool) {
	var left []*kept
	for _, k := range m.stored {
		if !f(k) {
			left = append(left, k)
		}
	}
	m.stored = left
}

// receive notes a full response.
func (m *model) receive(chosen *kept, k *kept) {
	k.ages()
	vary := strings.Join(k.header["Vary"], ",")
	k.varies = vary != ""
	reusable := k.fresh > 0 || k.header.Get("Etag") != "" || k.header.Get("Last-Modified") != ""
	if _, ok := directive(k.header["Cache-Control"], "no-cache"); ok {
		reusable = k.header.Get("Etag") != "" || k.header.Get("Last-Modified") != ""
	}
	if !mayStore(k.request, k.status, k.header) || strings.Contains(vary, "*") || !reusable {
		// A choice of ours: an answer that may not be stored still says that
		// the stored one is out of date, unless it is an error.
		if k.status < 500 {
			m.remove(func(old *kept) bool { return old == chosen })
		}
		return
	}
	m.remove(func(old *kept) bool { return old.matches(k.request) })
	m.stored = append(m.stored, k)
}

// confirm is §4.3.4 with §3.2 and §3.5, for a 304 without Etag.
func (m *model) confirm(k *kept, request, h http.Header, requestTime, responseTime time.Time) {
	if v := h.Get("Last-Modified"); v != "" && v != k.header.Get("Last-Modified") {
		return // it identifies another representation
	}
	merged := h["Cache-Control"]
	if merged == nil {
		merged = k.header["Cache-Control"]
	}
	says := func(name string) bool { _, ok := directive(merged, name); return ok }
	if !says("private") && !says("no-store") && !says("public") && !says("must-revalidate") && !says("s-maxage") {
		switch {
		case k.request.Get("Authorization") != "": // it may not be used any more
			m.remove(func(old *kept) bool { return old == k })
			return
		case request.Get("Authorization") != "": // what it says may not be stored
			return
		}
	}
	for name, v := range h {
		if name != "Content-Length" {
			k.header[name] = v
		}
	}
	if h.Get("Age") == "" {
		k.header.Del("Age") // it is about the 304
	}
	k.requestTime, k.responseTime = requestTime, responseTime
	k.ages()
	_, noStore := directive(k.header["Cache-Control"], "no-store")
	if _, private := directive(k.header["Cache-Control"], "private"); private || noStore {
		m.remove(func(old *kept) bool { return old == k })
	}
}

func TestTheCacheDoesWhatALiteralModelDoes(t *testing.T) {
	for seed := range uint64(400) {
		synctest.Test(t, func(t *testing.T) { playModel(t, rand.New(rand.NewPCG(seed, 9111))) })
	}
}

// one returns one of list.
func one[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func randomResponse(r *rand.Rand, version int) http.Header {
	h := http.Header{}
	stamp := func(name string, ago int) {
		h.Set(name, time.Now().Add(time.Duration(ago)*time.Second).UTC().Format(http.TimeFormat))
	}
	var cc []string
	for _, d := range []string{"public", "private", "no-store", "no-cache", "must-revalidate", "proxy-revalidate"} {
		if r.IntN(12) == 0 {
			cc = append(cc, d)
		}
	}
	if r.IntN(2) == 0 {
		cc = append(cc, fmt.Sprint("max-age=", one(r, 0, 5, 30)))
	}
	if r.IntN(6) == 0 {
		cc = append(cc, fmt.Sprint("s-maxage=", one(r, 0, 10)))
	}
	if len(cc) > 0 {
		h.Set("Cache-Control", strings.Join(cc, ", "))
	}
	stamp("Date", one(r, 0, 0, 0, -4, 3))
	if r.IntN(4) == 0 {
		stamp("Expires", one(r, -10, 10, 40))
	}
	if r.IntN(3) == 0 {
		stamp("Last-Modified", one(r, -10, -100, -1000))
	}
	if r.IntN(3) == 0 {
		h.Set("Etag", fmt.Sprintf("\"v%d\"", version))
	}
	if r.IntN(4) == 0 {
		h.Set("Age", fmt.Sprint(one(r, 0, 3, 20)))
	}
	if v := one(r, "", "", "", "A", "B", "A, B", "*"); v != "" {
		h.Set("Vary", v)
	}
	return h
}

func randomRequest(r *rand.Rand) http.Header {
	h := http.Header{}
	if cc := one(r, "", "", "", "", "", "no-cache", "max-age=0", "max-age=7", "min-fresh=3", "max-stale", "max-stale=6", "max-age=3, max-stale=9"); cc != "" {
		h.Set("Cache-Control", cc)
	}
	for _, name := range []string{"A", "B"} {
		if v := one(r, "", "1", "2"); v != "" {
			h.Set(name, v)
		}
	}
	if r.IntN(6) == 0 {
		h.Set("Authorization", "x")
	}
	return h
}

func playModel(t *testing.T, r *rand.Rand) {
	var m model
	var got http.Header // what the origin was sent, nil if it was not asked
	var say http.Header
	var status int
	var body string
	confirms := false
	h := cache.MustNew(cache.Config{HitForMiss: -1}).Handler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		got = req.Header.Clone()
		for name, v := range say {
			w.Header()[name] = v
		}
		if confirms && (got.Get("If-None-Match") != "" || got.Get("If-Modified-Since") != "") {
			w.WriteHeader(304)
			return
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	for step := range 60 {
		time.Sleep(time.Duration(r.IntN(8)) * time.Second)
		ask := randomRequest(r)
		say, status, body, got = randomResponse(r, step), one(r, 200, 200, 200, 404, 403, 500), fmt.Sprint("body ", step), nil
		if confirms = r.IntN(2) == 0; confirms {
			say.Del("Etag") // a 304 for another representation is its own matter
			say.Del("Vary")
		}
		chosen := m.choose(ask)
		reuse := chosen != nil && chosen.mayReuse(ask, time.Now())

		req := httptest.NewRequest("GET", page, nil)
		req.Header = ask.Clone()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)

		what := fmt.Sprintf("step %d: ask %v, say %d %v, got %d %v", step, ask, status, say, w.Code, w.Header())
		if chosen != nil {
			what += fmt.Sprintf("\nchosen: %v for %v, age %v of %v", chosen.header, chosen.request, chosen.currentAge(time.Now()), chosen.fresh)
		}
		require.Equal(t, reuse, got == nil, what)
		now := time.Now()
		switch {
		case reuse:
			require.Equal(t, chosen.body, w.Body.String(), what)
			require.Equal(t, chosen.status, w.Code, what)
			require.Equal(t, fmt.Sprint(int(chosen.currentAge(now)/time.Second)), w.Header().Get("Age"), what)
		case confirms && (got.Get("If-None-Match") != "" || got.Get("If-Modified-Since") != ""):
			require.NotNil(t, chosen, what)
			require.Equal(t, chosen.header.Get("Etag"), got.Get("If-None-Match"), what)
			require.Equal(t, chosen.body, w.Body.String(), what)
			m.confirm(chosen, ask, say, now, now)
		default:
			require.Equal(t, body, w.Body.String(), what)
			m.receive(chosen, &kept{request: ask, header: say, status: status, body: body, requestTime: now, responseTime: now})
		}
	}
}
