package cache_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

// loaderFuzzed makes a Loader whose values say that they come from the source.
func loaderFuzzed(store cache.Store) *cache.Loader[string, []byte] {
	return cache.MustNewLoader(cache.LoaderConfig[string, []byte]{
		Name:   "default",
		Load:   func(context.Context, string) ([]byte, error) { return []byte("source"), nil },
		Tags:   func(string, []byte) []string { return []string{"tag"} },
		Store:  store,
		Encode: func(v []byte) ([]byte, error) { return v, nil },
		Decode: func(data []byte) ([]byte, error) { return data, nil },
	})
}

// Whatever bytes a store returns, Get answers, and never with bytes that were
// not written as a whole.
func FuzzLoaderStoreAnswersAnything(f *testing.F) {
	store := newLoaderStore()
	l := loaderFuzzed(loaderPlain{store})
	_, _ = l.Get(context.Background(), "seed")
	l.Close()
	good := store.values["default:seed"]
	require.NotEmpty(f, good)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append(bytes.Clone(good), 0))
	for i := 0; i < len(good); i += 3 {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		store := newLoaderStore()
		store.values["default:a"] = data
		l := loaderFuzzed(loaderPlain{store})
		defer l.Close()
		v, err := l.Get(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, "source", string(v))
	})
}

// Whatever a file says, Restore ends, and reports as many values as it kept.
func FuzzLoaderRestoresAnything(f *testing.F) {
	l := loaderFuzzed(nil)
	for _, key := range []string{"", "a", "key with spaces"} {
		_, _ = l.Get(context.Background(), key)
	}
	var file bytes.Buffer
	_, err := l.Save(&file)
	require.NoError(f, err)
	f.Add(file.Bytes())
	f.Add(file.Bytes()[:file.Len()/2])
	f.Add([]byte("spillway loader snapshot 1\n\x01\xff\xff\xff\xff\x07"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := loaderFuzzed(nil)
		defer l.Close()
		n, _ := l.Restore(bytes.NewReader(data))
		require.Equal(t, n, l.Stats().Entries)
	})
}

// Whatever another process publishes, the Loader goes on.
func FuzzLoaderHearsAnything(f *testing.F) {
	f.Add([]byte(`{"loader":"default","from":"x","keys":["YQ=="],"tags":["tag"]}`))
	f.Add([]byte(`{"loader":"default","keys":[null,"!"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		store := newLoaderStore()
		l := loaderFuzzed(store)
		for { // until it listens
			store.mu.Lock()
			n := len(store.subs)
			store.mu.Unlock()
			if n > 0 {
				break
			}
			<-time.After(time.Millisecond)
		}
		_ = store.Publish(t.Context(), data)
		_, err := l.Get(t.Context(), "a")
		require.NoError(t, err)
		l.Close()
	})
}
