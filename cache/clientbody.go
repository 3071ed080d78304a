package cache

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
)

// response returns rep as an answer to r.
func (rep *reply) response(r *http.Request, st stamp) *http.Response {
	h := make(http.Header, rep.e.fields.len()+4)
	rep.putHeader(h, st)
	resp := &http.Response{
		Status:     formatInt(int64(rep.status)) + " " + http.StatusText(rep.status),
		StatusCode: rep.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Request: r,
	}
	b := &chunkBody{chunks: rep.body()}
	for _, p := range b.chunks {
		resp.ContentLength += int64(len(p))
	}
	if rep.bare {
		resp.ContentLength = contentLength(h, rep.status)
	}
	if !rep.bare && !rep.cut && len(rep.e.trailer) > 0 {
		resp.Trailer = http.Header{}
		for _, f := range rep.e.trailer {
			resp.Trailer[f.name] = f.values
		}
		resp.ContentLength = -1
	}
	resp.Body = b
	return resp
}

// notCached answers a request that must not be sent on.
func notCached(r *http.Request) *http.Response {
	const text = notCachedText + "\n"
	return &http.Response{
		Status: "504 Gateway Timeout", StatusCode: http.StatusGatewayTimeout,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header:        http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "X-Content-Type-Options": {"nosniff"}},
		ContentLength: int64(len(text)),
		Body:          io.NopCloser(strings.NewReader(text)),
	}
}

// A chunkBody is the body of a stored response.
type chunkBody struct {
	chunks [][]byte
	off    int // in the first chunk
}

func (b *chunkBody) Read(p []byte) (int, error) {
	for len(b.chunks) > 0 && b.off == len(b.chunks[0]) {
		b.chunks, b.off = b.chunks[1:], 0
	}
	if len(b.chunks) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.chunks[0][b.off:])
	b.off += n
	return n, nil
}

func (b *chunkBody) WriteTo(w io.Writer) (n int64, err error) {
	for ; len(b.chunks) > 0; b.chunks, b.off = b.chunks[1:], 0 {
		k, err := w.Write(b.chunks[0][b.off:])
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (b *chunkBody) Close() error {
	b.chunks = nil
	return nil
}

// A liveBody is the body of a response on its way. Close may be called during
// a Read, and ends it.
type liveBody struct {
	rd   *bodyReader
	ctx  context.Context
	left []byte
	err  error
	done func()

	late    *[]field    // the trailer, set when the body ends; nil if it comes with the response itself
	trailer http.Header // filled then
}

func (b *liveBody) Read(p []byte) (int, error) {
	for len(b.left) == 0 && b.err == nil {
		b.left, b.err = b.rd.next(b.ctx)
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	if n == 0 && b.err != nil {
		if b.err == io.EOF && b.late != nil {
			for _, t := range *b.late {
				b.trailer[t.name] = t.values
			}
		}
		b.Close()
		return 0, b.err
	}
	return n, nil
}

func (b *liveBody) Close() error {
	b.rd.close()
	b.done()
	return nil
}

// A guardedBody calls done when it has been read or closed.
type guardedBody struct {
	io.ReadCloser
	done func()
	once sync.Once
}

func (b *guardedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.once.Do(b.done)
	}
	return n, err
}

func (b *guardedBody) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(b.done)
	return err
}

// A keptBody is the body of a response that is stored as it is read.
type keptBody struct {
	io.ReadCloser
	resp *http.Response

	mu sync.Mutex // protects f: Close may come during a Read
	f  *flight    // nil when it has ended
}

func (b *keptBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.f == nil {
		return n, err
	}
	_, kerr := b.f.entry.live.write(b.f.ctx, p[:n])
	switch {
	case kerr != nil:
		b.endLocked(kerr)
	case err == io.EOF:
		b.endLocked(nil)
	case err != nil:
		b.endLocked(err)
	}
	return n, err
}

func (b *keptBody) Close() error {
	b.mu.Lock()
	if b.f != nil {
		b.endLocked(errAborted)
	}
	b.mu.Unlock()
	return b.ReadCloser.Close()
}

// endLocked stores the body if it is whole.
func (b *keptBody) endLocked(err error) {
	b.f.end(err, trailerFields(b.resp.Trailer))
	b.f = nil
}
