package cache_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/go-spillway/spillway/cache"
)

func BenchmarkLoaderHit(b *testing.B) {
	for _, keys := range []int{1, 1000, 100_000} {
		l := cache.MustNewLoader(cache.LoaderConfig[string, []byte]{
			Load:       func(context.Context, string) ([]byte, error) { return make([]byte, 64), nil },
			TTL:        time.Hour,
			MaxEntries: 2 * keys,
		})
		ctx := context.Background()
		names := make([]string, keys)
		for i := range names {
			names[i] = "product:" + strconv.Itoa(i)
			_, _ = l.Get(ctx, names[i])
		}
		b.Run("keys="+strconv.Itoa(keys)+"/serial", func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				_, _ = l.Get(ctx, names[i])
				if i++; i == keys {
					i = 0
				}
			}
		})
		b.Run("keys="+strconv.Itoa(keys)+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				i := 0
				for pb.Next() {
					_, _ = l.Get(ctx, names[i])
					if i++; i == keys {
						i = 0
					}
				}
			})
		})
		l.Close()
	}
}

func BenchmarkLoaderMiss(b *testing.B) {
	l := cache.MustNewLoader(cache.LoaderConfig[int, int]{
		Load: func(_ context.Context, k int) (int, error) { return k, nil },
	})
	defer l.Close()
	ctx := context.Background()
	b.ReportAllocs()
	k := 0
	for b.Loop() {
		_, _ = l.Get(ctx, k)
		k++
	}
}
