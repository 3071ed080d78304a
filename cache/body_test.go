package cache_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

// proxied returns the URL of a server with a cache in front of a reverse proxy
// in front of origin.
func proxied(t *testing.T, cfg cache.Config, origin http.Handler) (string, *cache.Cache) {
	up := httptest.NewServer(origin)
	t.Cleanup(up.Close)
	u, err := url.Parse(up.URL)
	require.NoError(t, err)
	c := cache.MustNew(cfg)
	t.Cleanup(func() { c.Close() })
	proxy := httputil.NewSingleHostReverseProxy(u)
	front := httptest.NewServer(c.Handler(proxy))
	front.Config.ErrorLog, proxy.ErrorLog = quiet(), quiet()
	t.Cleanup(front.Close)
	return front.URL, c
}

func fetch(t *testing.T, req *http.Request) (*http.Response, string) {
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(b)
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func newRequest(t *testing.T, method, url string) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	return req
}

func TestABodyIsSentWhileItIsStored(t *testing.T) {
	release := make(chan struct{})
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, "first ")
		http.NewResponseController(w).Flush()
		<-release
		io.WriteString(w, "second")
	}
	front := httptest.NewServer(cache.MustNew(cache.Config{}).Handler(o))
	defer front.Close()
	leader, err := http.Get(front.URL)
	require.NoError(t, err)
	defer leader.Body.Close()
	buf := make([]byte, 6)
	_, err = io.ReadFull(leader.Body, buf)
	require.NoError(t, err)
	require.Equal(t, "first ", string(buf), "before the handler has ended")

	follower, err := http.Get(front.URL)
	require.NoError(t, err)
	defer follower.Body.Close()
	_, err = io.ReadFull(follower.Body, buf)
	require.NoError(t, err)
	require.Equal(t, "first ", string(buf), "from the same body")
	close(release)
	for _, resp := range []*http.Response{leader, follower} {
		rest, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "second", string(rest))
	}
	require.EqualValues(t, 1, o.calls.Load())
}

// slowWriter is a client that takes nothing until it is let go.
type slowWriter struct {
	*httptest.ResponseRecorder
	gate chan struct{}
}

func (w *slowWriter) Write(p []byte) (int, error) {
	<-w.gate
	return w.ResponseRecorder.Write(p)
}

func TestASlowLeaderHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		big := strings.Repeat("0123456789", 20_000)
		o := newOrigin("Cache-Control", "max-age=60")
		o.body = big
		h := cache.MustNew(cache.Config{}).Handler(o)
		w := &slowWriter{httptest.NewRecorder(), make(chan struct{})}
		var wg sync.WaitGroup
		wg.Go(func() { h.ServeHTTP(w, httptest.NewRequest("GET", page, nil)) })
		synctest.Wait()
		require.Equal(t, big, get(h, page).Body.String())
		require.EqualValues(t, 1, o.calls.Load())
		close(w.gate)
		wg.Wait()
		require.Equal(t, big, w.Body.String())
	})
}

func TestABodyThatBreaksOffIsNotStored(t *testing.T) {
	for name, serve := range map[string]http.HandlerFunc{
		"panic": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"goexit": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "half")
			runtime.Goexit()
		},
		"short": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "8")
			io.WriteString(w, "half")
		},
		"long": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "2")
			io.WriteString(w, "half")
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin()
			o.serve = func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=60")
				if o.calls.Load() == 1 {
					serve(w, r)
					return
				}
				io.WriteString(w, "whole")
			}
			h := cache.MustNew(cache.Config{}).Handler(o)
			done := make(chan any)
			go func() {
				defer func() { done <- recover() }()
				get(h, page)
			}()
			require.Equal(t, map[string]any{"panic": http.ErrAbortHandler}[name], <-done, "it goes on up unchanged")
			require.Equal(t, "whole", get(h, page).Body.String())
			require.Equal(t, "whole", get(h, page).Body.String())
			require.EqualValues(t, 2, o.calls.Load())
		})
	}
}

func TestATruncatedUpstreamIsNotStored(t *testing.T) {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		if o.calls.Load() == 1 {
			io.WriteString(w, strings.Repeat("x", 10_000))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, "whole")
	}
	front, c := proxied(t, cache.Config{}, o)
	resp, err := http.Get(front)
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	resp.Body.Close()
	require.Error(t, err, "the client sees that it is cut off")
	_, body := fetch(t, newRequest(t, "GET", front))
	require.Equal(t, "whole", body)
	require.Equal(t, 1, c.Stats().Entries)
}

func TestALargeBodyPassesThrough(t *testing.T) {
	for _, announced := range []bool{false, true} {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			if announced {
				w.Header().Set("Content-Length", fmt.Sprint(100*1000))
			}
			for range 100 {
				w.Write(bytes.Repeat([]byte("x"), 1000))
			}
		}
		c := cache.MustNew(cache.Config{MaxBodyBytes: 10_000})
		h := c.Handler(o)
		for range 2 {
			require.Len(t, get(h, page).Body.Bytes(), 100_000)
		}
		require.EqualValues(t, 2, o.calls.Load())
		require.Zero(t, c.Stats().Entries)
	}
}

func TestMemoryStaysFlatWhileAGigabyteStreams(t *testing.T) {
	size := int64(64 << 20)
	if os.Getenv("SPILLWAY_GIGABYTE") != "" {
		size = 1 << 30
	}
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60") // storable, of unknown size
		chunk := make([]byte, 64<<10)
		for n := int64(0); n < size; n += int64(len(chunk)) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	front := httptest.NewServer(cache.MustNew(cache.Config{MaxBytes: 16 << 20}).Handler(o))
	defer front.Close()
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	resp, err := http.Get(front.URL)
	require.NoError(t, err)
	defer resp.Body.Close()
	total, peak, buf := int64(0), uint64(0), make([]byte, 256<<10)
	for next := int64(0); ; {
		n, err := resp.Body.Read(buf)
		total += int64(n)
		if total >= next {
			runtime.GC()
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapAlloc)
			next += size / 16
		}
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
	}
	require.Equal(t, size, total)
	require.Less(t, int64(peak)-int64(before.HeapAlloc), int64(8<<20))
}

func TestEventStreamsAreFlushedThrough(t *testing.T) {
	next := make(chan struct{})
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "max-age=60") // whatever it says
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			<-next
		}
	}
	front, c := proxied(t, cache.Config{}, o)
	resp, err := http.Get(front)
	require.NoError(t, err)
	defer resp.Body.Close()
	br := bufio.NewReader(resp.Body)
	for i := range 3 {
		line, err := br.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("data: %d\n", i), line)
		br.ReadString('\n')
		next <- struct{}{}
	}
	require.Zero(t, c.Stats().Entries)
}

func TestUpgradesPassThrough(t *testing.T) {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		io.WriteString(rw, "echo "+line)
		rw.Flush()
	}
	front, _ := proxied(t, cache.Config{}, o)
	conn, err := net.Dial("tcp", strings.TrimPrefix(front, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	io.WriteString(conn, "hello\n")
	line, err := br.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "echo hello\n", line)
}

func TestInterimResponsesPassThrough(t *testing.T) { // RFC 9110 §15.2
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(103)
		w.Header().Del("Link")
		w.Header().Set("Cache-Control", "max-age=60")
		io.WriteString(w, "final")
	}
	front, _ := proxied(t, cache.Config{}, o)
	var codes []int
	var links []string
	req := newRequest(t, "GET", front)
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			codes, links = append(codes, code), append(links, h.Get("Link"))
			return nil
		},
	}))
	resp, body := fetch(t, req)
	require.Equal(t, []int{103}, codes)
	require.Equal(t, []string{"</a.css>; rel=preload"}, links)
	require.Equal(t, "final", body)
	require.Empty(t, resp.Header.Get("Link"))
	resp, body = fetch(t, req)
	require.Equal(t, "final", body)
	require.Contains(t, resp.Header.Get("Cache-Status"), "hit")
	require.Len(t, codes, 1, "an interim response is not stored")
}

func TestInterimResponsesHaveNothingOfOuterLayers(t *testing.T) {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.Header().Add("X-Both", "inner")
		w.WriteHeader(103)
		io.WriteString(w, "final")
	}
	pages := cache.MustNew(cache.Config{}).Handler(o)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Outer", "1")
		w.Header().Set("X-Both", "outer")
		pages.ServeHTTP(w, r)
	}))
	defer front.Close()
	var interim []textproto.MIMEHeader
	req := newRequest(t, "GET", front.URL)
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			interim = append(interim, h)
			return nil
		},
	}))
	resp, _ := fetch(t, req)
	require.Equal(t, []textproto.MIMEHeader{{"Link": {"</a.css>; rel=preload"}, "X-Both": {"outer", "inner"}}}, interim)
	require.Equal(t, "1", resp.Header.Get("X-Outer"), "it comes with the response")
	require.Equal(t, []string{"outer", "inner"}, resp.Header.Values("X-Both"))
}

func TestTrailersAreStored(t *testing.T) { // RFC 9110 §6.5
	for _, c := range []struct{ announced, flushed bool }{{true, false}, {true, true}, {false, true}} {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			if c.announced {
				w.Header().Set("Trailer", "Sum")
			}
			io.WriteString(w, "body")
			if c.flushed {
				http.NewResponseController(w).Flush()
			}
			w.Header().Set(map[bool]string{true: "", false: http.TrailerPrefix}[c.announced]+"Sum", "42")
		}
		front, _ := proxied(t, cache.Config{}, o)
		for i := range 2 {
			resp, body := fetch(t, newRequest(t, "GET", front))
			require.Equal(t, "body", body)
			require.Equal(t, "42", resp.Trailer.Get("Sum"), "request %d, %+v", i, c)
		}
		require.EqualValues(t, 1, o.calls.Load())
	}
}

// sendfiler notes whether it was given a file to send.
type sendfiler struct {
	*httptest.ResponseRecorder
	used bool
}

func (w *sendfiler) ReadFrom(src io.Reader) (int64, error) {
	w.used = true
	return io.Copy(w.ResponseRecorder, src)
}

func TestSendfileIsKeptWhereNothingIsStored(t *testing.T) {
	for _, cc := range []string{"no-store", "max-age=60"} {
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", cc)
			io.Copy(w, io.LimitReader(strings.NewReader("from a file"), 100))
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		w := &sendfiler{ResponseRecorder: httptest.NewRecorder()}
		h.ServeHTTP(w, httptest.NewRequest("GET", page, nil))
		require.Equal(t, "from a file", w.Body.String())
		require.Equal(t, cc == "no-store", w.used)
	}
}

func TestAClientThatHasItAlreadyEndsAtOnce(t *testing.T) {
	// Its condition is answered with 304 while the body, too large to keep,
	// is still coming.
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Etag", `"a"`)
		for range 100 {
			if _, err := w.Write(make([]byte, 10_000)); err != nil {
				t.Error(err)
			}
		}
	}
	h := cache.MustNew(cache.Config{MaxBodyBytes: 50_000}).Handler(o)
	w := get(h, page, "If-None-Match", `"a"`)
	require.Equal(t, 304, w.Code)
	require.Empty(t, w.Body.String())
}

func TestAHandlerMayChangeItsRequest(t *testing.T) {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		lang := r.Header.Get("Accept-Language")
		r.Header.Del("Accept-Language")
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Vary", "Accept-Language")
		io.WriteString(w, lang)
	}
	for _, cfg := range []cache.Config{{}, {NoCollapse: true}} {
		h := cache.MustNew(cfg).Handler(o)
		for range 2 {
			require.Equal(t, "de", get(h, page, "Accept-Language", "de").Body.String())
			require.Equal(t, "en", get(h, page, "Accept-Language", "en").Body.String())
			require.Equal(t, "", get(h, page).Body.String())
		}
	}
}

func TestThoseWhoWaitGetTheTrailersToo(t *testing.T) {
	release := make(chan struct{})
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Trailer", "Sum")
		io.WriteString(w, "body")
		http.NewResponseController(w).Flush()
		<-release
		w.Header().Set("Sum", "42")
	}
	front, c := proxied(t, cache.Config{}, o)
	leader, err := http.Get(front)
	require.NoError(t, err)
	defer leader.Body.Close()
	follower, err := http.Get(front)
	require.NoError(t, err)
	defer follower.Body.Close()
	close(release)
	for _, resp := range []*http.Response{leader, follower} {
		_, err := io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.Equal(t, "42", resp.Trailer.Get("Sum"))
	}
	require.EqualValues(t, 1, o.calls.Load())
	require.EqualValues(t, 1, c.Stats().Collapsed)
}
