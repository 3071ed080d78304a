package balancer_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
)

// turnsAway starts an HTTP/2 backend that takes the body of the first request
// on its first connection, answers with a frame that says that it was not
// processed, and answers what comes after. Each body goes to got.
func turnsAway(t testing.TB, away func(conn net.Conn), got chan<- string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for first := true; ; first = false {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.CopyN(io.Discard, conn, 24) // the preface
				_, _ = conn.Write(frame(4, 0, 0))     // SETTINGS
				bodies := map[uint32]string{}
				var head [9]byte
				for {
					if _, err := io.ReadFull(conn, head[:]); err != nil {
						return
					}
					n := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
					kind, flags, stream := head[3], head[4], binary.BigEndian.Uint32(head[5:])
					payload := make([]byte, n)
					if _, err := io.ReadFull(conn, payload); err != nil {
						return
					}
					if kind == 0 { // DATA
						bodies[stream] += string(payload)
					}
					if kind > 1 || flags&1 == 0 { // not the end of a request
						continue
					}
					got <- bodies[stream]
					if first && stream == 1 {
						away(conn)
						continue
					}
					_, _ = conn.Write(frame(1, 4|1, stream, 0x88)) // HEADERS: 200
				}
			}()
		}
	}()
	return "h2c://" + l.Addr().String()
}

// frame is an HTTP/2 frame.
func frame(kind, flags byte, stream uint32, payload ...byte) []byte {
	f := append([]byte{0, 0, byte(len(payload)), kind, flags}, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(f[5:], stream)
	return append(f, payload...)
}

func TestWhatHTTP2TurnsAwayIsSentAgainWhole(t *testing.T) {
	for name, away := range map[string]func(net.Conn){
		"REFUSED_STREAM": func(c net.Conn) { _, _ = c.Write(frame(3, 0, 1, 0, 0, 0, 7)) },
		"GOAWAY":         func(c net.Conn) { _, _ = c.Write(frame(7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 9)
			b := pool(t, balancer.Config{Backends: balancer.URLs(turnsAway(t, away, got))})
			w := httptest.NewRecorder()
			b.Proxy().ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/", strings.NewReader("body")))
			require.Equal(t, 200, w.Code)
			require.Equal(t, "body", <-got)
			require.Equal(t, "body", <-got)
			s := b.Stats()
			require.EqualValues(t, 1, s.Success)
			require.Zero(t, s.Failure+s.Retries)
			require.Zero(t, s.InFlight)
		})
	}
}
