package cache

// A sketch counts how often hashes were seen lately, in eight bits each: a
// count-min sketch of four rows, of which only the lowest counters are raised
// (Estan, Varghese 2002), halved after every twenty counts per entry, so that
// old fame fades.
type sketch struct {
	words []uint64 // 8 counters each, 2 for every row
	mask  uint64
	adds  int
}

const (
	sketchRows  = 4
	sketchWords = 4  // for each entry
	sketchAge   = 20 // counts for each entry until all are halved
)

// resize makes room for n entries, a power of two. Every counter of the
// smaller sketch becomes several, so that nothing is forgotten.
func (s *sketch) resize(n int) {
	old := s.words
	s.words = make([]uint64, sketchWords*n)
	s.mask = uint64(len(s.words) - 1)
	for i := 0; len(old) > 0 && i < len(s.words); i += len(old) {
		copy(s.words[i:], old)
	}
}

func (s *sketch) capacity() int { return len(s.words) / sketchWords }

// at returns the word and the shift of a hash's counter in a row.
func (s *sketch) at(h uint64, row int) (word uint64, shift uint) {
	h += uint64(row) * 0x9e3779b97f4a7c15
	h = (h ^ h>>32) * 0xd6e8feb86659fd93
	h ^= h >> 32
	return h & s.mask, uint(h>>56&1|uint64(row)<<1) * 8
}

func (s *sketch) add(h uint64) {
	var words [sketchRows]*uint64
	var shifts [sketchRows]uint
	least := uint64(255)
	for row := range sketchRows {
		w, shift := s.at(h, row)
		words[row], shifts[row] = &s.words[w], shift
		least = min(least, *words[row]>>shift&255)
	}
	if least == 255 {
		return
	}
	for row, w := range words {
		if shift := shifts[row]; *w>>shift&255 == least {
			*w += 1 << shift
		}
	}
	if s.adds++; s.adds >= sketchAge*s.capacity() {
		s.age()
	}
}

func (s *sketch) count(h uint64) uint64 {
	least := uint64(255)
	for row := range sketchRows {
		w, shift := s.at(h, row)
		least = min(least, s.words[w]>>shift&255)
	}
	return least
}

func (s *sketch) age() {
	for i, w := range s.words {
		s.words[i] = w >> 1 & 0x7f7f7f7f7f7f7f7f
	}
	s.adds /= 2
}
