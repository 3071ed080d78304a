package cache

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"math"
	"reflect"
	"time"
)

// loaderKeys writes keys down, for the Store, messages and snapshots: strings
// as they are, everything else in JSON.
type loaderKeys[K comparable] struct{}

func (loaderKeys[K]) encode(key K) (text string, err error) {
	defer func() {
		if recover() != nil { // of its MarshalJSON or UnmarshalJSON
			text, err = "", loaderKeyError{}
		}
	}()
	if s, ok := any(key).(string); ok {
		return s, nil
	}
	if v := reflect.ValueOf(&key).Elem(); v.Kind() == reflect.String {
		return v.String(), nil
	}
	data, err := json.Marshal(key)
	if err != nil {
		return "", err
	}
	// Two keys with the same text would be given each other's values.
	var again K
	if json.Unmarshal(data, &again) != nil || again != key {
		return "", loaderKeyError{}
	}
	return string(data), nil
}

func (loaderKeys[K]) decode(text string) (key K, err error) {
	if v := reflect.ValueOf(&key).Elem(); v.Kind() == reflect.String {
		v.SetString(text)
		return key, nil
	}
	err = json.Unmarshal([]byte(text), &key)
	return key, err
}

// loaderKeyError is why a key is not stored.
type loaderKeyError struct{}

func (loaderKeyError) Error() string {
	return "cache: the key is not the same after encoding/json, so that it can't be stored"
}

// An entry is written down as
//
//	1 byte   version
//	1 byte   kind
//	3 x 8    when its load began, until when it is fresh, and until when it is
//	         of use: Unix time in nanoseconds; the largest number means for ever
//	4        microseconds that its load took
//	2        number of tags, each of them 2 bytes of length and the tag
//	…        the value, as Encode writes it
//	4        CRC-32C of all before it
//
// Numbers are big-endian. What doesn't read back like this is not there.
const (
	loaderFormat = 1
	loaderHead   = 1 + 1 + 3*8 + 4 + 2
)

// wall is what to add to a time of the Loader to get Unix time.
func (l *Loader[K, V]) wall() int64 {
	wall := time.Now().UnixNano() - l.now()
	for last := l.ahead.Load(); wall > last && !l.ahead.CompareAndSwap(last, wall); last = l.ahead.Load() {
	}
	return wall
}

func (l *Loader[K, V]) pack(e *loaderEntry[K, V]) (data []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = l.panicked(p) // of Encode
		}
	}()
	var value []byte
	if e.kind == loaderValue {
		if value, err = l.cfg.Encode(e.value); err != nil {
			return nil, err
		}
	}
	tags := e.tags()
	for _, tag := range tags {
		if len(tags) > math.MaxUint16 || len(tag) > math.MaxUint16 {
			return nil, errors.New("cache: too many tags, or one is too long")
		}
	}
	wall := l.wall()
	data = make([]byte, 0, loaderHead+len(value)+4)
	data = append(data, loaderFormat, byte(e.kind))
	for _, at := range []int64{e.born, e.expires, e.dies} {
		data = binary.BigEndian.AppendUint64(data, uint64(loaderAfter(at, time.Duration(wall))))
	}
	data = binary.BigEndian.AppendUint32(data, e.took)
	data = binary.BigEndian.AppendUint16(data, uint16(len(tags)))
	for _, tag := range tags {
		data = binary.BigEndian.AppendUint16(data, uint16(len(tag)))
		data = append(data, tag...)
	}
	data = append(data, value...)
	return binary.BigEndian.AppendUint32(data, crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))), nil
}

// unpack reads what pack wrote. It returns nil if data is anything else, or if
// it is of no use any more.
func (l *Loader[K, V]) unpack(key K, hash uint64, data []byte) (e *loaderEntry[K, V]) {
	defer func() {
		if p := recover(); p != nil {
			e = nil
			_ = l.panicked(p) // of Decode or Cost, counted
		}
	}()
	if len(data) < loaderHead+4 || data[0] != loaderFormat {
		return nil
	}
	body, sum := data[:len(data)-4], binary.BigEndian.Uint32(data[len(data)-4:])
	if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return nil
	}
	e = &loaderEntry[K, V]{key: key, hash: hash, kind: loaderKind(body[1]), cost: 1}
	wall := l.wall()
	for i, at := range []*int64{&e.born, &e.expires, &e.dies} {
		*at = int64(binary.BigEndian.Uint64(body[2+8*i:]))
		if *at != loaderNever {
			*at -= wall
		}
	}
	if now := l.now(); e.dies <= now || e.expires > e.dies || e.born > now+int64(time.Minute) {
		return nil
	}
	e.took = binary.BigEndian.Uint32(body[26:])
	n := int(binary.BigEndian.Uint16(body[30:]))
	body = body[loaderHead:]
	var tags []string
	for range n {
		if len(body) < 2 || len(body)-2 < int(binary.BigEndian.Uint16(body)) {
			return nil
		}
		size := 2 + int(binary.BigEndian.Uint16(body))
		tags = append(tags, string(body[2:size]))
		body = body[size:]
	}
	switch e.kind {
	case loaderValue:
		value, err := l.cfg.Decode(bytes.Clone(body)) // Decode may keep it
		if err != nil {
			return nil
		}
		e.value = value
		if l.cfg.Cost != nil {
			e.cost = max(1, l.cfg.Cost(key, value))
		}
		if len(tags) > 0 {
			e.more = &loaderMore{tags: tags}
		}
	case loaderNegative:
		e.more = &loaderMore{err: ErrNotFound}
	default:
		return nil
	}
	l.setEarly(e)
	return e
}
