package cache_test

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-spillway/spillway/cache"
	"github.com/stretchr/testify/require"
)

const digits = "0123456789"

func TestRangesOfAStoredResponse(t *testing.T) { // RFC 9110 §14, RFC 9111 §3.3
	for _, c := range []struct{ ask, body, span string }{
		{"bytes=0-1", "01", "bytes 0-1/10"},
		{"bytes=5-", "56789", "bytes 5-9/10"},
		{"bytes=-3", "789", "bytes 7-9/10"},
		{"bytes=-30", digits, "bytes 0-9/10"},
		{"bytes=8-99", "89", "bytes 8-9/10"},
		{"BYTES=2-2", "2", "bytes 2-2/10"},
		{"bytes=1-1,20-30", "1", "bytes 1-1/10"},
		{"bytes= 1-2 ", "12", "bytes 1-2/10"},
	} {
		o := newOrigin("Cache-Control", "max-age=60", "Content-Type", "text/plain")
		o.body = digits
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page)
		w := get(h, page, "Range", c.ask)
		require.Equal(t, 206, w.Code, c.ask)
		require.Equal(t, c.body, w.Body.String(), c.ask)
		require.Equal(t, c.span, w.Header().Get("Content-Range"), c.ask)
		require.Equal(t, fmt.Sprint(len(c.body)), w.Header().Get("Content-Length"))
		require.Equal(t, "text/plain", w.Header().Get("Content-Type"))
		require.EqualValues(t, 1, o.calls.Load())
	}
}

func TestRangesThatAreNotValidAreIgnored(t *testing.T) { // RFC 9110 §14.2
	for _, ask := range []string{
		"bytes=", "bytes=a-b", "bytes=3-1", "lines=1-2", "bytes 1-2", "bytes=--1", "bytes=1", "bytes=0-4,2-8,1-9",
		"bytes=" + strings.Repeat("1-1,", 40) + "1-1",
	} {
		o := newOrigin("Cache-Control", "max-age=60")
		o.body = digits
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page)
		w := get(h, page, "Range", ask)
		require.Equal(t, 200, w.Code, ask)
		require.Equal(t, digits, w.Body.String())
	}
}

func TestARangeThatNothingSatisfies(t *testing.T) { // RFC 9110 §15.5.17
	for _, ask := range []string{"bytes=10-", "bytes=-0", "bytes=99999999999999999999-"} {
		o := newOrigin("Cache-Control", "max-age=60", "Etag", `"a"`)
		o.body = digits
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page)
		w := get(h, page, "Range", ask)
		require.Equal(t, 416, w.Code, ask)
		require.Equal(t, "bytes */10", w.Header().Get("Content-Range"))
		require.Empty(t, w.Body.String())
		require.EqualValues(t, 1, o.calls.Load())
	}
}

func TestSeveralRangesComeAsMultipart(t *testing.T) { // RFC 9110 §14.6
	o := newOrigin("Cache-Control", "max-age=60", "Content-Type", "text/x")
	o.body = digits
	h := cache.MustNew(cache.Config{}).Handler(o)
	get(h, page)
	w := get(h, page, "Range", "bytes=0-1,-2")
	require.Equal(t, 206, w.Code)
	require.Equal(t, fmt.Sprint(w.Body.Len()), w.Header().Get("Content-Length"))
	kind, params, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/byteranges", kind)
	mr := multipart.NewReader(w.Body, params["boundary"])
	for _, want := range []struct{ body, span string }{{"01", "bytes 0-1/10"}, {"89", "bytes 8-9/10"}} {
		p, err := mr.NextPart()
		require.NoError(t, err)
		b, err := io.ReadAll(p)
		require.NoError(t, err)
		require.Equal(t, want.body, string(b))
		require.Equal(t, want.span, p.Header.Get("Content-Range"))
		require.Equal(t, "text/x", p.Header.Get("Content-Type"))
	}
	_, err = mr.NextPart()
	require.Equal(t, io.EOF, err)
}

func TestIfRangeNeedsAStrongValidator(t *testing.T) { // RFC 9110 §13.1.5
	modified := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	for _, c := range []struct {
		etag, ifRange string
		code          int
	}{
		{`"a"`, `"a"`, 206},
		{`"a"`, `"b"`, 200},
		{`W/"a"`, `W/"a"`, 200},
		{`W/"a"`, `"a"`, 200},
		{`"a"`, modified, 206},
		{`"a"`, time.Now().UTC().Format(http.TimeFormat), 200},
		{`"a"`, "nonsense", 200},
	} {
		o := newOrigin("Cache-Control", "max-age=60", "Etag", c.etag, "Last-Modified", modified)
		o.body = digits
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page)
		require.Equal(t, c.code, get(h, page, "Range", "bytes=1-2", "If-Range", c.ifRange).Code, "%v", c)
	}
}

// fileOrigin serves content with ranges, as http.ServeContent does.
func fileOrigin(etag, content string) *origin {
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Etag", etag)
		http.ServeContent(w, r, "f.txt", time.Time{}, strings.NewReader(content))
	}
	return o
}

func TestAPartIsStoredAndReused(t *testing.T) { // RFC 9111 §3.3
	o := fileOrigin(`"a"`, digits)
	h := cache.MustNew(cache.Config{}).Handler(o)
	w := get(h, page, "Range", "bytes=4-8")
	require.Equal(t, 206, w.Code)
	require.Equal(t, "45678", w.Body.String())
	for ask, want := range map[string]string{"bytes=4-8": "45678", "bytes=5-6": "56", "bytes=8-8": "8"} {
		w = get(h, page, "Range", ask)
		require.Equal(t, 206, w.Code)
		require.Equal(t, want, w.Body.String())
	}
	require.EqualValues(t, 1, o.calls.Load())
	w = get(h, page, "Range", "bytes=2-5")
	require.Equal(t, "2345", w.Body.String())
	require.EqualValues(t, 2, o.calls.Load(), "it was not all there")
}

func TestPartsOfOneWholeArePutTogether(t *testing.T) { // RFC 9111 §3.4
	o := fileOrigin(`"a"`, digits)
	h := cache.MustNew(cache.Config{}).Handler(o)
	get(h, page, "Range", "bytes=4-8")
	get(h, page, "Range", "bytes=0-5")
	require.Equal(t, "2345678", get(h, page, "Range", "bytes=2-8").Body.String())
	require.EqualValues(t, 2, o.calls.Load())
	get(h, page, "Range", "bytes=8-9")
	w := get(h, page)
	require.Equal(t, 200, w.Code)
	require.Equal(t, digits, w.Body.String())
	require.Equal(t, "10", w.Header().Get("Content-Length"))
	require.Empty(t, w.Header().Get("Content-Range"))
	require.EqualValues(t, 3, o.calls.Load())
}

func TestPartsOfDifferentWholesAreNot(t *testing.T) { // RFC 9111 §3.4: the same strong validator
	for _, etags := range [][2]string{{`"a"`, `"b"`}, {`W/"a"`, `W/"a"`}} {
		o := fileOrigin(etags[0], digits)
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page, "Range", "bytes=0-4")
		o.serve = fileOrigin(etags[1], "abcdefghij").serve
		get(h, page, "Range", "bytes=5-9")
		require.Equal(t, "defg", get(h, page, "Range", "bytes=3-6").Body.String())
	}
}

func TestAPartIsCompleted(t *testing.T) { // RFC 9111 §3.3
	for _, changed := range []bool{false, true} {
		o := fileOrigin(`"a"`, digits)
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page, "Range", "bytes=0-4")
		want := digits
		if changed {
			want = "abcdefghijkl"
			o.serve = fileOrigin(`"b"`, want).serve
		}
		w := get(h, page)
		require.Equal(t, "bytes=5-", o.request().Header.Get("Range"))
		require.Equal(t, `"a"`, o.request().Header.Get("If-Range"))
		require.Equal(t, 200, w.Code)
		require.Equal(t, want, w.Body.String())
		require.Equal(t, fmt.Sprint(len(want)), w.Header().Get("Content-Length"))
		require.Equal(t, want, get(h, page).Body.String())
		require.EqualValues(t, 2, o.calls.Load())
	}
}

func TestARestThatWasNotAskedForIsFetchedAgain(t *testing.T) { // RFC 9111 §3.4
	o := fileOrigin(`"a"`, digits)
	h := cache.MustNew(cache.Config{}).Handler(o)
	get(h, page, "Range", "bytes=0-4")
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" { // an origin that does not know If-Range
			w.Header().Set("Etag", `"b"`)
			w.Header().Set("Content-Range", "bytes 5-9/10")
			w.WriteHeader(206)
			io.WriteString(w, "fghij")
			return
		}
		io.WriteString(w, "abcdefghij")
	}
	w := get(h, page)
	require.Equal(t, 200, w.Code)
	require.Equal(t, "abcdefghij", w.Body.String())
}

func TestAPartThatIsMalformedIsNotStored(t *testing.T) { // RFC 9110 §14.4
	for _, span := range []string{"", "bytes 4-2/10", "bytes 0-10/10", "bytes */10", "lines 0-4/10", "bytes 0-2/10"} {
		o := newOrigin("Cache-Control", "max-age=60", "Etag", `"a"`, "Content-Range", span, "Content-Length", "5")
		o.status, o.body = 206, "01234"
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page, "Range", "bytes=0-4")
		get(h, page, "Range", "bytes=0-4")
		require.EqualValues(t, 2, o.calls.Load(), span)
	}
}

func TestAStaleResponseIsConfirmedAndThenCut(t *testing.T) { // RFC 9111 §4.3.2
	o := newOrigin("Cache-Control", "max-age=0", "Etag", `"a"`)
	o.body = digits
	h := cache.MustNew(cache.Config{}).Handler(o)
	get(h, page)
	o.status, o.body = 304, ""
	w := get(h, page, "Range", "bytes=0-1")
	require.Equal(t, 206, w.Code)
	require.Equal(t, "01", w.Body.String())
	require.Equal(t, `"a"`, o.request().Header.Get("If-None-Match"))
}

func TestPartsAreOfOneWholeIfAStrongDateSaysSo(t *testing.T) { // RFC 9110 §8.8.2.2, §13.1.5
	for _, ago := range []time.Duration{time.Hour, time.Second} {
		modified := time.Now().Add(-ago)
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			http.ServeContent(w, r, "f.txt", modified, strings.NewReader(digits))
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page, "Range", "bytes=0-2")
		get(h, page, "Range", "bytes=3-4")
		w := get(h, page)
		require.Equal(t, 200, w.Code)
		require.Equal(t, digits, w.Body.String())
		sent := o.request().Header
		if ago == time.Second { // it may have changed since without showing it
			require.Empty(t, sent["Range"])
			continue
		}
		require.Equal(t, "bytes=5-", sent.Get("Range"))
		require.Equal(t, modified.UTC().Format(http.TimeFormat), sent.Get("If-Range"))
		require.Equal(t, digits, get(h, page).Body.String())
		require.EqualValues(t, 3, o.calls.Load())
	}
}

func TestADateIsNoStrongValidatorBesideATag(t *testing.T) { // RFC 9110 §13.1.5
	o := newOrigin()
	o.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("Etag", `W/"a"`)
		http.ServeContent(w, r, "f.txt", time.Now().Add(-time.Hour), strings.NewReader(digits))
	}
	h := cache.MustNew(cache.Config{}).Handler(o)
	get(h, page, "Range", "bytes=0-4")
	require.Equal(t, digits, get(h, page).Body.String())
	require.Empty(t, o.request().Header["Range"])
	require.Empty(t, o.request().Header["If-Range"])
}

func TestAPartThatBrokeOffHoldsNoMoreThanCame(t *testing.T) { // RFC 9111 §3.3
	o := newOrigin("Cache-Control", "max-age=60", "Content-Range", "bytes 4-9/10")
	o.status, o.body = 206, "45678" // five of six bytes
	h := cache.MustNew(cache.Config{}).Handler(o)
	get(h, page, "Range", "bytes=4-")
	require.Equal(t, "678", get(h, page, "Range", "bytes=6-8").Body.String())
	require.EqualValues(t, 1, o.calls.Load())
	for i, ask := range []string{"bytes=6-", "bytes=-5", "bytes=-1", "bytes=4-9"} {
		get(h, page, "Range", ask)
		require.EqualValues(t, 2+i, o.calls.Load(), "it is not wholly within what came: %s", ask)
	}
}

func TestAPartThatIsLongerThanItSaysIsNotStored(t *testing.T) { // RFC 9110 §14.4
	o := newOrigin("Cache-Control", "max-age=60", "Etag", `"a"`, "Content-Range", "bytes 0-3/10")
	o.status, o.body = 206, "0123and more"
	h := cache.MustNew(cache.Config{}).Handler(o)
	get(h, page, "Range", "bytes=0-3")
	get(h, page, "Range", "bytes=4-6")
	require.EqualValues(t, 2, o.calls.Load())
}

func TestAPartOfANewVersionTakesThePlaceOfTheOldWhole(t *testing.T) { // RFC 9110 §13.2.2
	synctest.Test(t, func(t *testing.T) {
		version, body := `"1"`, digits
		o := newOrigin()
		o.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Etag", version)
			http.ServeContent(w, r, "f.txt", time.Time{}, strings.NewReader(body))
		}
		h := cache.MustNew(cache.Config{}).Handler(o)
		get(h, page)
		time.Sleep(61 * time.Second)
		version, body = `"2"`, "abcdefghij"
		for range 2 {
			require.Equal(t, "ab", get(h, page, "Range", "bytes=0-1").Body.String())
			require.EqualValues(t, 2, o.calls.Load())
		}
		o.serve = func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }
		require.Equal(t, 503, get(h, page).Code, "the old version is not what it was")
	})
}
