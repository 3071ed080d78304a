package cache

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The index against a list, with hashes so few that every chain is long.
func TestLoaderIndexFindsWhatIsThereInTheOrderItCame(t *testing.T) {
	for range 15 {
		var x loaderIndex[int, int]
		x.init()
		var list []*loaderEntry[int, int]
		hash := func(key int) uint64 { return uint64(key % 5 * 7) }
		for range 400 {
			key := rand.IntN(60)
			at := slices.IndexFunc(list, func(e *loaderEntry[int, int]) bool { return e.key == key })
			e := &loaderEntry[int, int]{key: key, hash: hash(key)}
			switch {
			case at < 0:
				x.insert(e)
				list = append(list, e)
			case rand.IntN(2) == 0:
				x.replace(list[at], e)
				list[at] = e
			default:
				x.remove(list[at])
				list = slices.Delete(list, at, at+1)
			}
			require.Equal(t, len(list), x.count)
			for key := range 60 {
				at := slices.IndexFunc(list, func(e *loaderEntry[int, int]) bool { return e.key == key })
				found := x.find(hash(key), key)
				if at < 0 {
					require.Nil(t, found)
				} else {
					require.Same(t, list[at], found)
				}
			}
			for h := range 5 { // the oldest comes first in its chain
				var got, want []int
				for e := range x.all() {
					if e.key%5 == h {
						got = append(got, e.key)
					}
				}
				for _, e := range list {
					if e.key%5 == h {
						want = append(want, e.key)
					}
				}
				require.Equal(t, want, got)
			}
		}
	}
}
