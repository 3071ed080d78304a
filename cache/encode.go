package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// How an entry is written to a Store or a snapshot:
//
//	"SPCE" version checksum length payload
//
// Everything of variable size has its length in front; numbers are varints.
// A version that is not known, or bytes that do not add up, are as good as
// nothing.
const (
	entryMagic   = "SPCE"
	entryVersion = 1
	checksumSize = 16
)

var errEncoding = errors.New("cache: not an entry, or not of this version")

// An encoder appends to b.
type encoder struct{ b []byte }

func (w *encoder) int(n int64) { w.b = binary.AppendVarint(w.b, n) }

func (w *encoder) string(s string) {
	w.int(int64(len(s)))
	w.b = append(w.b, s...)
}

func (w *encoder) strings(list []string) {
	w.int(int64(len(list)))
	for _, s := range list {
		w.string(s)
	}
}

func (w *encoder) fields(list []field) {
	w.int(int64(len(list)))
	for _, f := range list {
		w.string(f.name)
		w.strings(f.values)
		w.bools(f.add)
	}
}

func (w *encoder) bools(flags ...bool) {
	n := int64(0)
	for i, f := range flags {
		if f {
			n |= 1 << i
		}
	}
	w.int(n)
}

func (w *encoder) time(t time.Time) {
	if t.IsZero() {
		w.int(-1 << 62)
		return
	}
	w.int(t.UnixNano())
}

// encodeEntry returns e, a whole entry, as bytes. Times become times of day.
func encodeEntry(e *entry, c *Cache) []byte {
	w := encoder{b: make([]byte, 0, 512+e.size)}
	w.b = append(w.b, entryMagic...)
	w.b = append(w.b, entryVersion)
	w.b = append(w.b, make([]byte, checksumSize)...)
	w.string(e.key)
	w.int(int64(e.status))
	w.fields(e.fields.list(nil))
	w.fields(e.trailer)
	w.bools(e.part, e.rules.noCache, e.rules.mustRevalidate, e.rules.heuristic, e.rules.shared, e.rules.saysStale, e.rules.authorized)
	w.int(e.start)
	w.int(e.total)
	vary := e.vary.list()
	w.int(int64(len(vary)))
	for _, v := range vary {
		w.string(v.name)
		w.strings(v.lines)
		w.string(v.norm)
	}
	w.strings(e.tags)
	w.time(time.Unix(e.date, 0))
	w.time(time.Unix(e.modified, 0))
	w.time(c.wall(e.requested))
	w.time(c.wall(e.received))
	life := e.life
	if s := e.softened.Load(); s != 0 { // stale from then on
		life = min(life, max(0, e.age(time.Duration(s))))
	}
	for _, d := range []time.Duration{e.age0, life, e.swr, e.sie} {
		w.int(int64(d))
	}
	w.int(e.size)
	for _, p := range e.data {
		w.b = append(w.b, p...)
	}
	sum := sha256.Sum256(w.b[len(entryMagic)+1+checksumSize:])
	copy(w.b[len(entryMagic)+1:], sum[:checksumSize])
	return w.b
}

// A decoder takes things off the front of b. Once something is wrong it stays
// so, and everything is zero.
type decoder struct {
	b   []byte
	bad bool
}

func (r *decoder) int() int64 {
	n, k := binary.Varint(r.b)
	if k <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[k:]
	return n
}

// count returns a length, which can't be more than there are bytes.
func (r *decoder) count() int {
	n := r.int()
	if n < 0 || n > int64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *decoder) bytes() []byte {
	n := r.count()
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *decoder) string() string { return strings.Clone(string(r.bytes())) }

func (r *decoder) strings() []string {
	n := r.count()
	if n == 0 {
		return nil
	}
	list := make([]string, 0, min(n, 64))
	for range n {
		list = append(list, r.string())
	}
	return slices.Clip(list)
}

func (r *decoder) fields() []field {
	n := r.count()
	list := make([]field, 0, min(n, 64))
	for range n {
		f := field{name: r.string(), values: r.strings()}
		f.add = r.bools()[0]
		list = append(list, f)
	}
	return slices.Clip(list)
}

func (r *decoder) bools() (flags [8]bool) {
	n := r.int()
	for i := range flags {
		flags[i] = n&(1<<i) != 0
	}
	return flags
}

func (r *decoder) time() time.Time {
	n := r.int()
	if n == -1<<62 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// decodeEntry returns the entry that b holds, without a hash.
func (c *Cache) decodeEntry(b []byte) (*entry, error) {
	head := len(entryMagic) + 1 + checksumSize
	if len(b) < head || string(b[:len(entryMagic)]) != entryMagic || b[len(entryMagic)] != entryVersion {
		return nil, errEncoding
	}
	sum := sha256.Sum256(b[head:])
	if string(sum[:checksumSize]) != string(b[len(entryMagic)+1:head]) {
		return nil, fmt.Errorf("%w: wrong checksum", errEncoding)
	}
	r := decoder{b: b[head:]}
	e := &entry{key: r.string(), status: int(r.int())}
	fields := r.fields()
	e.trailer = r.fields()
	flags := r.bools()
	e.part = flags[0]
	e.rules = rules{noCache: flags[1], mustRevalidate: flags[2], heuristic: flags[3], shared: flags[4], saysStale: flags[5], authorized: flags[6]}
	e.start, e.total = r.int(), r.int()
	n := r.count()
	names, request := make([]string, 0, min(n, 64)), http.Header{}
	for range n {
		name := r.string()
		names, request[name] = append(names, name), r.strings()
		r.string() // norm, which is what this process makes of it
	}
	e.tags = r.strings()
	e.date, e.modified = r.time().Unix(), r.time().Unix()
	requested, received := r.time(), r.time()
	e.age0, e.life = time.Duration(r.int()), time.Duration(r.int())
	e.swr, e.sie = time.Duration(r.int()), time.Duration(r.int())
	e.size = r.int()
	if r.bad || e.size != int64(len(r.b)) || e.size > c.maxBody || len(e.key) < 2 || e.status < 200 || e.status > 999 ||
		requested.IsZero() || received.IsZero() || e.age0 < 0 || e.life < 0 || e.part && (e.start < 0 || e.total >= 0 && e.start+e.size > e.total) {
		return nil, errEncoding
	}
	if e.size > 0 {
		e.data = [][]byte{slices.Clone(r.b)}
	}
	e.vary = c.varyOf(names, request)
	// Another machine's clock may be ahead of ours.
	now := c.now()
	e.received = min(received.Sub(c.base), now)
	e.requested = min(requested.Sub(c.base), e.received)
	return e.pack(c, fields), nil
}

// encodeIndex returns a list of sets of field names as bytes.
func encodeIndex(index [][]string) []byte {
	w := encoder{}
	w.int(int64(len(index)))
	for _, names := range index {
		w.strings(names)
	}
	return w.b
}

func decodeIndex(b []byte) [][]string {
	if b == nil {
		return nil
	}
	r := decoder{b: b}
	var index [][]string
	for range min(r.count(), maxTierVariants) {
		index = append(index, r.strings())
	}
	if r.bad {
		return nil
	}
	return index
}
