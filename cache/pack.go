package cache

import "unsafe"

// What a hit costs among a million entries is the memory it has to wait for.
// So an entry that is stored is one piece, in the order in which a hit reads
// it: what find compares, what says whether it is fresh, its fields with their
// values, and where its body is. Values keep strings of their own, because
// nothing looks at those but the client.

const (
	packedKey = 48 // longest key that is part of the piece

	// These fill the allocator's classes of 896 and 1408 bytes.
	fewFields, moreFields = 7, 15
)

// A fewPacked is an entry with few fields, of one value each for the most part.
type fewPacked struct {
	entry
	key    [packedKey]byte
	fields [fewFields]field
	values [fewFields]string
	chunk  [1][]byte
}

// A morePacked is an entry with more of them.
type morePacked struct {
	entry
	key    [packedKey]byte
	fields [moreFields]field
	values [moreFields]string
	chunk  [1][]byte
}

// pack returns e, with more fields besides, in as few pieces as can be, to be
// stored.
func (e *entry) pack(more ...field) *entry {
	fields, values := len(e.fields)+len(more), 0
	for _, list := range [2][]field{e.fields, more} {
		for i := range list {
			values += len(list[i].values)
		}
	}
	var k *entry
	var size int64
	switch n := max(fields, values); {
	case n <= fewFields:
		p := &fewPacked{}
		k, size = &p.entry, int64(unsafe.Sizeof(*p))
		e.copyTo(k)
		k.fields, k.data = packFields(p.fields[:0], p.values[:0], e.fields, more), packData(p.chunk[:0], e.data)
		k.key = packKey(p.key[:0], e.key)
	case n <= moreFields:
		p := &morePacked{}
		k, size = &p.entry, int64(unsafe.Sizeof(*p))
		e.copyTo(k)
		k.fields, k.data = packFields(p.fields[:0], p.values[:0], e.fields, more), packData(p.chunk[:0], e.data)
		k.key = packKey(p.key[:0], e.key)
	default:
		k = &entry{}
		size = int64(unsafe.Sizeof(*k)) + int64(fields)*int64(unsafe.Sizeof(field{})) + int64(values)*16
		e.copyTo(k)
		k.fields = packFields(make([]field, 0, fields), make([]string, 0, values), e.fields, more)
	}
	k.weigh(size)
	return k
}

// packFields copies lists to fields, and their values to values. Both have
// room enough.
func packFields(fields []field, values []string, lists ...[]field) []field {
	for _, list := range lists {
		for _, f := range list {
			start := len(values)
			values = append(values, f.values...)
			f.values = values[start:len(values):len(values)]
			fields = append(fields, f)
		}
	}
	return fields[:len(fields):len(fields)]
}

func packData(room, data [][]byte) [][]byte {
	if len(data) == 1 {
		return append(room, data[0])
	}
	return data
}

// packKey copies key to room if it fits. One with an extra part stays as it
// is: its beginning serves as a tag, which would hold on to the whole piece.
func packKey(room []byte, key string) string {
	if len(key) > cap(room) || indexExtra(key) >= 0 {
		return key
	}
	b := append(room, key...)
	return unsafe.String(&b[0], len(b)) // these bytes never change
}
