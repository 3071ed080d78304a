package cache

import "math/bits"

// loaderSketch estimates how often keys that are not in memory have been asked
// for: a count-min sketch of 4-bit counters, four to a key, all in one cache
// line. Halving it now and then lets old fame fade (Einziger, Friedman and
// Manes, TinyLFU: A Highly Efficient Cache Admission Policy, 2017).
type loaderSketch struct {
	words []uint64 // eight to a block, sixteen counters each
	mask  uint64   // blocks - 1
}

const loaderMaxFreq = 15

func newLoaderSketch(entries int) loaderSketch {
	blocks := 1 << bits.Len(uint(max(entries, 8)-1)/8)
	return loaderSketch{words: make([]uint64, blocks*8), mask: uint64(blocks - 1)}
}

// at returns the i-th of the four counters of hash: its word and its shift.
// Each has two words of the block to itself, so that the four never meet.
func (s *loaderSketch) at(hash uint64, i uint) (*uint64, uint) {
	pick := (hash * 0x9E3779B97F4A7C15) >> (16 + 8*i)
	word := (hash&s.mask)*8 + 2*uint64(i) + pick&1
	return &s.words[word], uint(pick>>1&15) * 4
}

// estimate returns how often hash was seen, at most loaderMaxFreq.
func (s *loaderSketch) estimate(hash uint64) uint32 {
	least := uint64(loaderMaxFreq)
	for i := range uint(4) {
		word, shift := s.at(hash, i)
		least = min(least, *word>>shift&15)
	}
	return uint32(least)
}

// add counts one more request for hash.
func (s *loaderSketch) add(hash uint64) {
	for i := range uint(4) {
		if word, shift := s.at(hash, i); *word>>shift&15 < loaderMaxFreq {
			*word += 1 << shift
		}
	}
}

// raise makes the estimate of hash at least n: what an entry counted itself
// while it was in memory is remembered here when it leaves.
func (s *loaderSketch) raise(hash uint64, n uint32) {
	for i := range uint(4) {
		if word, shift := s.at(hash, i); uint32(*word>>shift&15) < n {
			*word = *word&^(15<<shift) | uint64(n)<<shift
		}
	}
}

// halve halves every counter.
func (s *loaderSketch) halve() {
	for i := range s.words {
		s.words[i] = s.words[i] >> 1 & 0x7777777777777777
	}
}
