package cache_test

import "testing"

func BenchmarkLoaderHit(b *testing.B) {
	const among = 50_000
	keys := loaderKeys(1<<20, among)
	for _, r := range loaderRivals(b, 2*among) {
		for _, k := range keys {
			if _, ok := r.get(k); !ok && r.set != nil {
				r.set(k, loaderPayload)
			}
		}
		b.Run(r.name+"/serial", func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				r.get(keys[i&(1<<20-1)])
				i++
			}
		})
		b.Run(r.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				i := 0
				for pb.Next() {
					r.get(keys[i&(1<<20-1)])
					i++
				}
			})
		})
		r.stop()
	}
}
