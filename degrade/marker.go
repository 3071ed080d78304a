package degrade

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A marker knows what one user goes without, and writes the marks of a degraded
// answer before its header goes out.
type marker struct {
	http.ResponseWriter
	sw      *Switch
	name    string // of the user
	sent    bool
	counted bool // as a degraded answer

	mu   sync.Mutex // protects what follows
	left []string   // features left out
}

func (m *marker) leave(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.left, name) {
		m.left = append(m.left, name)
	}
}

func (m *marker) out() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.left, ", ")
}

func (m *marker) send(status int) {
	if m.sent {
		return
	}
	m.sent = true
	if left := m.out(); left != "" {
		if !m.counted {
			m.counted = true
			m.sw.degraded.Add(1)
		}
		m.sw.mark(m.Header(), status, left)
	}
}

// mark marks an answer as degraded. One that is a failure must not be kept at all.
func (s *Switch) mark(h http.Header, status int, features string) {
	h.Set(DegradedHeader, features)
	if status >= 500 {
		h["Cache-Control"] = noStore
	} else {
		h["Cache-Control"] = []string{capAge(h["Cache-Control"], s.cfg.MaxAge)}
	}
	for _, name := range [...]string{"Expires", "Cdn-Cache-Control", "Surrogate-Control"} {
		h.Del(name)
	}
}

// capAge returns a Cache-Control that allows no longer than limit. Directives
// that forbid stay as they are; those that allow stale answers go.
func capAge(values []string, limit time.Duration) string {
	if limit < 0 {
		return "no-store"
	}
	seconds := int(limit / time.Second)
	var out []string
	aged := false
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			name, arg, _ := strings.Cut(strings.TrimSpace(part), "=")
			switch strings.ToLower(name) {
			case "":
			case "max-age", "s-maxage":
				aged = true
				n, err := strconv.Atoi(strings.Trim(arg, `"`))
				if err != nil || n < 0 {
					n = 0
				}
				out = append(out, strings.ToLower(name)+"="+strconv.Itoa(min(n, seconds)))
			case "immutable", "stale-while-revalidate", "stale-if-error":
			default:
				out = append(out, strings.TrimSpace(part))
			}
		}
	}
	if !aged {
		out = append(out, "max-age="+strconv.Itoa(seconds))
	}
	return strings.Join(out, ", ")
}

func (m *marker) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		m.send(status)
	}
	m.ResponseWriter.WriteHeader(status)
}

func (m *marker) Write(b []byte) (int, error) {
	m.send(http.StatusOK)
	return m.ResponseWriter.Write(b)
}

// ReadFrom keeps sendfile.
func (m *marker) ReadFrom(r io.Reader) (int64, error) {
	m.send(http.StatusOK)
	if rf, ok := m.ResponseWriter.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{m.ResponseWriter}, r)
}

func (m *marker) Flush() { m.FlushError() }

func (m *marker) FlushError() error {
	first := !m.sent
	m.send(http.StatusOK)
	err := http.NewResponseController(m.ResponseWriter).Flush()
	if first && errors.Is(err, http.ErrNotSupported) {
		m.sent = false // nothing was sent: what follows is the answer
	}
	return err
}

func (m *marker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(m.ResponseWriter).Hijack()
}

func (m *marker) Unwrap() http.ResponseWriter { return m.ResponseWriter }
