package degrade

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Whatever a stranger sends, the priority stays within its range, and what was
// read is what would be written.
func FuzzParsePriority(f *testing.F) {
	for _, s := range []string{"critical", "NORMAL", "sheddable", "-101", "99999999999999999999", "0x10", " 1", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := ParsePriority(s)
		if p < Sheddable || p > Critical || !ok && p != Normal {
			t.Fatal(p, ok)
		}
		if again, ok := ParsePriority(p.String()); !ok || again != p {
			t.Fatal(p, again)
		}
		if ms, ok := parseTimeout(s); ms < 0 || ms > maxTimeoutMillis || !ok && ms != 0 {
			t.Fatal(ms, ok)
		}
	})
}

// Whatever a handler has set, a degraded answer may be kept for ten seconds at most.
func FuzzCapAge(f *testing.F) {
	for _, s := range []string{"max-age=3600", "s-maxage=\"7\", MAX-AGE=99", "no-store", ",,=,", "max-age=-1, max-age=5000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for part := range strings.SplitSeq(capAge([]string{s}, 10*time.Second), ",") {
			name, arg, _ := strings.Cut(strings.TrimSpace(part), "=")
			if name = strings.ToLower(name); name == "max-age" || name == "s-maxage" {
				if n, err := strconv.Atoi(arg); err != nil || n < 0 || n > 10 {
					t.Fatalf("%q: %s", s, part)
				}
			} else if name == "stale-while-revalidate" || name == "immutable" {
				t.Fatalf("%q keeps %s", s, part)
			}
		}
	})
}

// Whatever is sent to the admin handler, what it accepts is a valid override.
func FuzzAdmin(f *testing.F) {
	f.Add([]byte(`{"target":"level","level":1,"author":"a","reason":"b","for":"1h"}`))
	f.Add([]byte(`{"target":"reviews","share":0.5,"keys":["x"],"author":"a","reason":"b","expires":"2999-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"for":"9999999h"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		sw := MustNewSwitch(SwitchConfig{})
		sw.Feature("reviews", Optional)
		r := httptest.NewRequest("PUT", "/", bytes.NewReader(body))
		r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost"
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		sw.Admin().ServeHTTP(w, r)
		if w.Code != http.StatusOK && len(sw.Overrides()) > 0 {
			t.Fatal(w.Code)
		}
		for _, o := range sw.Overrides() {
			if err := o.check(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Whatever the order of events, slots and queue add up, and nobody is left
// waiting while a slot is free.
func FuzzCore(f *testing.F) {
	f.Add([]byte("aaaabbbbccccrrrrrrrrxxxx"))
	f.Add([]byte("aBcDaBcDrxrxrxrLlLaaarrr"))
	f.Fuzz(func(t *testing.T, ops []byte) {
		c := new(core)
		c.init(Config{Limit: 3, MaxQueue: 5})
		now, running := int64(0), 0
		var queue []*waiter
		for _, op := range ops {
			now += int64(op) * 1e5
			switch {
			case op == 'r' && running > 0:
				running--
				c.leave(now, 1e7, 1)
			case op == 'x' && len(queue) > 0:
				c.cancel(now, queue[0], abandoned)
			case op == 'L':
				c.fix(now, 6)
			case op == 'l':
				c.fix(now, 2)
			default:
				if c.take() > 0 {
					running++
					break
				}
				ask := waiter{prio: Priority(int(op%3)-1) * 100, flow: op % flows}
				v, w, _, _ := c.wait(now, &ask)
				switch v {
				case granted:
					running++
				case pending:
					queue = append(queue, w)
				}
			}
			left := queue[:0]
			for _, w := range queue {
				switch {
				case w.queued:
					left = append(left, w)
				case w.verdict == granted:
					running++
				case w.verdict == pending:
					t.Fatal("out of the queue without a verdict")
				}
			}
			queue = left
			if n := int(c.word.Load() & takenMask); n != running {
				t.Fatalf("%d slots taken, %d run", n, running)
			}
			if c.q.n != len(queue) {
				t.Fatalf("%d queued, %d wait", c.q.n, len(queue))
			}
			if c.q.n > 0 && (c.word.Load()&waitingBit == 0 || running < int(c.limit.Load())) {
				t.Fatal("somebody waits while a slot is free")
			}
		}
	})
}
