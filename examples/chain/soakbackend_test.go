// A backend ends with its parent by the end of a pipe, and is stopped by signals.

//go:build unix

package chain

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The backends of the soak are processes of their own, this same test binary
// with soakEnv set to an address and the URL of the ledger, so that they can be
// killed and stopped like real ones.
const soakEnv = "SPILLWAY_CHAIN_SOAK_BACKEND"

// page is what each backend answers for a number.
func page(n string) string { return fmt.Sprintf("page %s %x\n", n, sha256.Sum256([]byte(n))) }

// TestSoakBackend is the main function of a backend, which takes its time by the
// real clock. It ends with its parent, however that dies: it waits for the end of
// its stdin.
func TestSoakBackend(t *testing.T) {
	addr, ledger, ok := strings.Cut(os.Getenv(soakEnv), " ")
	if !ok {
		return // it only does something as a process of TestSoak
	}
	var slow atomic.Int64 // milliseconds
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Duration(slow.Load()) * time.Millisecond)
	})
	mux.HandleFunc("POST /slow", func(w http.ResponseWriter, r *http.Request) {
		ms, _ := strconv.ParseInt(r.FormValue("ms"), 10, 64)
		slow.Store(ms)
	})
	work := func() {
		time.Sleep(time.Duration(slow.Load())*time.Millisecond + time.Duration(rand.IntN(4))*time.Millisecond)
	}
	mux.HandleFunc("GET /page/{n}", func(w http.ResponseWriter, r *http.Request) {
		work()
		w.Header().Set("Cache-Control", "public, max-age=1, stale-if-error=60")
		io.WriteString(w, page(r.PathValue("n")))
	})
	mux.HandleFunc("GET /me", func(w http.ResponseWriter, r *http.Request) {
		work()
		w.Header().Set("Cache-Control", "private, max-age=60")
		io.WriteString(w, r.Header.Get("Authorization"))
	})
	mux.HandleFunc("POST /order", func(w http.ResponseWriter, r *http.Request) {
		work()
		id, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client has gone
		}
		resp, err := http.Post(ledger, "text/plain", bytes.NewReader(id))
		if err != nil || resp.StatusCode != http.StatusOK {
			http.Error(w, "no ledger", http.StatusInternalServerError)
			return
		}
		resp.Body.Close()
		fmt.Fprintf(w, "ordered %s", id)
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		for i := range 10 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	fmt.Printf("listening on %s\n", ln.Addr())
	go http.Serve(ln, mux)
	io.Copy(io.Discard, os.Stdin)
}

// A soakBackend is one that can be killed and started again.
type soakBackend struct {
	addr   string
	ledger string
	cmd    *exec.Cmd
	stdin  io.Closer
}

func (b *soakBackend) start() error {
	addr := b.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	b.cmd = exec.Command(os.Args[0], "-test.run=^TestSoakBackend$")
	b.cmd.Env = append(os.Environ(), soakEnv+"="+addr+" "+b.ledger)
	stdin, err := b.cmd.StdinPipe()
	if err != nil {
		return err
	}
	b.stdin = stdin
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := b.cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("a backend did not start: %w", err)
	}
	b.addr = strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
	return nil
}

func (b *soakBackend) kill() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
}

// slow makes the backend take longer. It is asked directly, not by the gateway.
func (b *soakBackend) slow(ms int) error {
	resp, err := http.Post(fmt.Sprintf("http://%s/slow?ms=%d", b.addr, ms), "", nil)
	if err == nil {
		resp.Body.Close()
	}
	return err
}
