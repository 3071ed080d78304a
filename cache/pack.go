package cache

import "unsafe"

// What a hit costs among a million entries is the memory it has to wait for.
// So an entry that is stored is one piece, in the order in which a hit reads
// it: its key, which find compares, what says whether it is fresh, the values
// of its fields, and where its body is. The text of the values lies elsewhere,
// because nothing looks at that but the client.

const fewValues, moreValues = 8, 16

// A fewPacked is an entry whose fields have few values. It fills the
// allocator's class of 512 bytes, which is eight lines.
type fewPacked struct {
	entry
	values [fewValues]string
}

// A morePacked is an entry whose fields have more.
type morePacked struct {
	entry
	values [moreValues]string
}

// pack returns e with these fields in as few pieces as can be, to be stored.
func (e *entry) pack(c *Cache, fields []field) *entry {
	var k *entry
	var size int64
	var values []string
	switch n := countValues(fields); {
	case n <= fewValues:
		p := &fewPacked{}
		k, size, values = &p.entry, int64(unsafe.Sizeof(*p)), p.values[:]
	case n <= moreValues:
		p := &morePacked{}
		k, size, values = &p.entry, int64(unsafe.Sizeof(*p)), p.values[:]
	default:
		k = &entry{}
		size = int64(unsafe.Sizeof(*k)) + int64(n)*16
	}
	e.copyTo(k)
	k.fields = c.fieldSet(fields, values)
	if len(e.data) == 1 {
		k.data = append(k.chunk[:0], e.data[0])
	}
	if n := copy(k.short[:], e.key); n == len(e.key) && indexExtra(e.key) < 0 {
		// These bytes never change. A key with an extra part stays where it
		// is: its beginning serves as a tag, which would hold on to the piece.
		k.key = unsafe.String(&k.short[0], n)
	}
	k.weigh(size)
	return k
}
