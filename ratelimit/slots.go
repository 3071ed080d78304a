package ratelimit

import (
	"sync/atomic"
	"unsafe"
)

// slots is one shard's array: n slots of width words. An empty slot's hash is
// 0; there is always one, so that probing ends.
type slots struct {
	words  []atomic.Uint64
	n      int
	width  int
	homes  int // where probing may start, each stride words from the next
	stride int
}

const lineWords = 64 / 8 // of a cache line, on most processors

// newSlots makes n slots, and as many more as fit into what the allocator
// hands out for them anyway. The first is at the start of a cache line.
func newSlots(n, width int) *slots {
	words := append([]atomic.Uint64(nil), make([]atomic.Uint64, n*width+lineWords-1)...)
	words = words[:cap(words)]
	words = words[-uintptr(unsafe.Pointer(&words[0]))/8%lineWords:]
	n = len(words) / width
	s := &slots{words: words[:n*width], n: n, width: width, homes: n, stride: width}
	if lineWords%width == 0 {
		s.homes, s.stride = n*width/lineWords, lineWords
	}
	return s
}

// noSlots is one slot that stays empty.
func noSlots(width int) *slots {
	return &slots{words: make([]atomic.Uint64, width), n: 1, width: width, homes: 1, stride: width}
}

// find returns the word index of h's first due time, or -1.
func (s *slots) find(h uint64) int { return s.findFrom(s.home(h), h) }

func (s *slots) findFrom(i int, h uint64) int {
	words := s.words
	for {
		switch words[i].Load() {
		case h:
			return i + 1
		case 0:
			return -1
		}
		if i += s.width; i >= len(words) {
			i = 0
		}
	}
}

// home returns the word index of the slot where probing for h starts, the first
// of a cache line. It spreads the low half of h; the high bits chose the shard.
func (s *slots) home(h uint64) int {
	return int(uint64(uint32(h))*uint64(s.homes)>>32) * s.stride
}

// past reports whether the n due times from word index i are over.
func (s *slots) past(i, n int, now int64) bool {
	for j := i; j < i+n; j++ {
		if int64(s.words[j].Load())-now >= 0 {
			return false
		}
	}
	return true
}

// free returns the word index of the first empty slot on h's path.
func (s *slots) free(h uint64) int {
	i := s.home(h)
	for s.words[i].Load() != 0 {
		if i += s.width; i >= len(s.words) {
			i = 0
		}
	}
	return i
}

// reclaim takes over the first slot on h's path whose bucket is full again.
func (s *slots) reclaim(h uint64, now int64) int {
	for i := s.home(h); s.words[i].Load() != 0; {
		old := s.words[i+1].Load()
		if s.past(i+1, s.width-1, now) && s.words[i+1].CompareAndSwap(old, frozen) {
			// Between this and the new due time, readers of the old key and
			// of the new one find the slot frozen and wait for mu.
			s.words[i].Store(h)
			return i + 1
		}
		if i += s.width; i >= len(s.words) {
			i = 0
		}
	}
	return -1
}

// count returns how many slots hold a debt.
func (s *slots) count(now int64) (n int) {
	for i := 0; i < len(s.words); i += s.width {
		if s.words[i].Load() != 0 && !s.past(i+1, s.width-1, now) {
			n++
		}
	}
	return n
}
