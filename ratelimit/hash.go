package ratelimit

import (
	"math/bits"
	"math/rand/v2"
)

// A seed keys the hash that stands for a key in the table, so that nobody can
// choose keys that fall together. It is not hash/maphash because a Snapshot
// has to carry the seed to the next process.
//
// Keys themselves are not kept. Two keys with the same 64-bit hash share a
// bucket, which is stricter, never looser; among a million keys there is such
// a pair with a probability of three in a hundred million.
type seed struct{ a, b uint64 } // an array would not be passed in registers

func newSeed() seed { return seed{rand.Uint64(), rand.Uint64()} }

// hash never returns 0, which marks an empty slot.
func (s seed) hash(key string) uint64 {
	h := fold(s.a^uint64(len(key)), s.b|1)
	for len(key) > 16 {
		h = fold(word(key)^s.a, word(key[8:])^h)
		key = key[16:]
	}
	var a, b uint64
	switch n := len(key); {
	case n >= 8:
		a, b = word(key), word(key[n-8:])
	case n >= 4:
		a, b = half(key), half(key[n-4:])
	case n > 0:
		a = uint64(key[0])<<16 | uint64(key[n/2])<<8 | uint64(key[n-1])
	}
	h = fold(fold(a^s.a, b^h)^s.b, 0x9e3779b97f4a7c15)
	return max(h, 1)
}

// fold multiplies to 128 bits and folds the halves together.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// word and half read little-endian; the compiler makes each one load.
func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func half(s string) uint64 {
	_ = s[3]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24
}
